"""The pump: from the TUN device into the protocol, burst by burst, without a queue in between."""

from __future__ import annotations

import logging
from collections.abc import Callable

from conflux.anchor.node import Anchor
from conflux.api import Closed, TunDevice
from conflux.wire.frame import MAX_SUPERFRAME_BYTES

log = logging.getLogger("conflux.pump")

BURSTS_PER_WAKEUP = 8
"""After so many bursts the loop gets its turn: what comes in must not starve."""


def pump(
    tun: TunDevice,
    anchor: Anchor,
    now: Callable[[], float],
    on_closed: Callable[[], None],
    *,
    burst_bytes: int = MAX_SUPERFRAME_BYTES,
) -> None:
    """Attach *anchor* to *tun*. *on_closed* is called once if the device goes away.

    One buffer holds a layout byte and then the burst: it is a superframe where it stands.
    """
    size = max(min(burst_bytes, MAX_SUPERFRAME_BYTES), 1 + tun.record_bytes)
    buffer = memoryview(bytearray(size))
    buffer[0] = tun.layout
    room = buffer[1:]
    gone = False

    def readable() -> None:
        nonlocal gone
        if gone:
            return
        try:
            for _ in range(BURSTS_PER_WAKEUP):
                filled = tun.receive(room)
                if not filled:
                    return
                anchor.take_burst(buffer[: 1 + filled], now=now())
        except Closed:
            gone = True
            on_closed()

    tun.attach(readable)
