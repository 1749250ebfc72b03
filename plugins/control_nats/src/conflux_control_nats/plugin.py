"""Describes the NATS control driver without importing nats-py."""

from __future__ import annotations

from importlib.util import find_spec

from conflux.api import DriverInfo, Unavailable, hookimpl


@hookimpl
def conflux_control_driver() -> DriverInfo:
    return DriverInfo(
        name="nats",
        target="conflux_control_nats.driver:NatsControlDriver",
        api=(1, 0),
        priority=50,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable unless nats-py and nkeys can be imported."""
    for module, distribution in (("nats", "nats-py"), ("nkeys", "nkeys")):
        if find_spec(module) is None:
            raise Unavailable(f"{distribution} is not installed: run pip install {distribution}")
