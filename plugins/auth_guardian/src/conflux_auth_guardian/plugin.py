"""Describes the Guardian auth driver without importing httpx."""

from __future__ import annotations

from importlib.util import find_spec

from conflux.api import DriverInfo, Unavailable, hookimpl


@hookimpl
def conflux_auth_driver() -> DriverInfo:
    return DriverInfo(
        name="guardian",
        target="conflux_auth_guardian.driver:GuardianAuth",
        api=(1, 1),
        priority=50,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable unless httpx can be imported."""
    if find_spec("httpx") is None:
        raise Unavailable("httpx is not installed: run pip install httpx")
