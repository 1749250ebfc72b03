"""Describes the driver; imports nothing heavy (docs/decisions/0044)."""

from __future__ import annotations

from conflux.api import DriverInfo, hookimpl


@hookimpl
def conflux_tether_driver() -> DriverInfo:
    return DriverInfo(
        name="udp",
        target="conflux_tether_udp.driver:UdpTetherDriver",
        api=(1, 1),
        # Packet information, UDP_SEGMENT and UDP_GRO as Linux has them: see README.md.
        platforms=frozenset({"linux"}),
        capabilities=frozenset({"nat-traversal"}),
        # Above webrtc, which a node falls back to where this one does not connect.
        priority=60,
    )
