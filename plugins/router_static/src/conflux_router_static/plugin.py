"""Describes the driver; imports nothing but the contract."""

from conflux.api import DriverInfo, hookimpl


@hookimpl
def conflux_router_driver() -> DriverInfo:
    return DriverInfo(
        name="static",
        target="conflux_router_static.router:StaticRouter",
        api=(1, 0),
        priority=50,
    )
