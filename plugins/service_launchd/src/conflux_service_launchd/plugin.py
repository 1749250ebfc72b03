"""What the kernel needs to know of the launchd driver before it imports it."""

from __future__ import annotations

from conflux.api import API_VERSION, DriverInfo, hookimpl


@hookimpl
def conflux_service_driver() -> DriverInfo:
    """The daemon `org.veilnet.conflux`: every macOS."""
    return DriverInfo(
        name="launchd",
        target="conflux_service_launchd.driver:LaunchdService",
        api=API_VERSION,
        platforms=frozenset({"darwin"}),
        priority=80,
    )
