"""What the kernel needs to know of the Windows driver before it imports it."""

from __future__ import annotations

from conflux.api import API_VERSION, DriverInfo, hookimpl


@hookimpl
def conflux_service_driver() -> DriverInfo:
    """The service "VeilNet Conflux": every Windows."""
    return DriverInfo(
        name="windows",
        target="conflux_service_windows.driver:WindowsService",
        api=API_VERSION,
        platforms=frozenset({"win32"}),
        priority=80,
    )
