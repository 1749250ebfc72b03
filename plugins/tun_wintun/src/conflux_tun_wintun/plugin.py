"""What the kernel needs to know of the Windows TUN driver before it imports it."""

from __future__ import annotations

from conflux.api import API_VERSION, DriverInfo, hookimpl


@hookimpl
def conflux_tun_driver() -> DriverInfo:
    """TUN through wintun.dll and iphlpapi: Windows 10 and 11, Server 2016 and later."""
    return DriverInfo(
        name="wintun",
        target="conflux_tun_wintun.device:WintunDriver",
        api=API_VERSION,
        platforms=frozenset({"win32"}),
        priority=80,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable if this process cannot make an interface, with one line on what to do."""
    from conflux_tun_wintun.library import check_rights, find

    check_rights()
    find()
