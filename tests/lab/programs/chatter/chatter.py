"""A third party's control plugin: NATS, and a stream of numbered messages between its nodes."""

from conflux.api import API_VERSION, DriverInfo, hookimpl


@hookimpl
def conflux_control_driver():
    return DriverInfo(name="chatter", target="chatter_driver:ChatterDriver", api=API_VERSION)
