"""What the kernel needs to know of the macOS TUN driver before it imports it."""

from __future__ import annotations

import os

from conflux.api import API_VERSION, DriverInfo, Unavailable, hookimpl

NO_ROOT = "no right to make network interfaces: run as root"


@hookimpl
def conflux_tun_driver() -> DriverInfo:
    """TUN through a utun control socket: every macOS since 10.6.8."""
    return DriverInfo(
        name="utun",
        target="conflux_tun_utun.device:UtunDriver",
        api=API_VERSION,
        platforms=frozenset({"darwin"}),
        priority=80,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable if this process cannot make an interface, with one line on what to do."""
    if os.geteuid() != 0:
        raise Unavailable(NO_ROOT)
