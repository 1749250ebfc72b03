"""What a node says of itself when asked."""

from __future__ import annotations

import asyncio

from conflux.hardening import Hardening
from conflux.runtime.status import status
from conflux.testing.simnet import SimNetwork


def test_what_the_control_channel_dropped_stands_among_the_counters() -> None:
    node = SimNetwork(seed=1).add_node("a")
    node.anchor.counters["frame_replayed"] = 2

    async def asked() -> dict[str, object]:
        return status(
            "running",
            node.anchor,
            {},
            packet_auth="checkpoint",
            hardening=Hardening(core_dumps=False, memory_locked=True, missing=()),
            control_dropped={"oversized": 1, "unsent": 3, "bad_subject": 0},
        )

    table = asyncio.run(asked())
    assert table["counters"] == {
        "control_oversized": 1,
        "control_unsent": 3,
        "frame_replayed": 2,
    }
