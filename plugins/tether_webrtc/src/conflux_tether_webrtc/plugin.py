"""Describes the driver; imports nothing heavy (docs/decisions/0038)."""

from __future__ import annotations

import importlib.util

from conflux.api import DriverInfo, Unavailable, hookimpl


def probe() -> None:
    """Look for aiortc without importing it: its import costs 30 MB. Raises Unavailable."""
    if importlib.util.find_spec("aiortc") is None:
        raise Unavailable("aiortc is not installed: pip install conflux-plugin-tether-webrtc")


@hookimpl
def conflux_tether_driver() -> DriverInfo:
    return DriverInfo(
        name="webrtc",
        target="conflux_tether_webrtc.driver:WebRtcTetherDriver",
        api=(1, 0),
        capabilities=frozenset({"nat-traversal"}),
        priority=40,
        probe=probe,
    )
