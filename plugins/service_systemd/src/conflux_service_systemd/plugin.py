"""What the kernel needs to know of the systemd driver before it imports it."""

from __future__ import annotations

from pathlib import Path

from conflux.api import API_VERSION, DriverInfo, Unavailable, hookimpl

BOOTED = Path("/run/systemd/system")  # sd_booted(3)


@hookimpl
def conflux_service_driver() -> DriverInfo:
    """The unit `veilnet`: every Linux that systemd booted."""
    return DriverInfo(
        name="systemd",
        target="conflux_service_systemd.driver:SystemdService",
        api=API_VERSION,
        platforms=frozenset({"linux"}),
        priority=80,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable unless systemd runs this machine."""
    if not BOOTED.is_dir():
        raise Unavailable("systemd does not run here")
