"""The pump: from the TUN device into the protocol, burst by burst, without a queue in between."""

from __future__ import annotations

import logging
from collections.abc import Callable

from conflux.anchor.node import Anchor
from conflux.api import Closed, TunDevice

log = logging.getLogger("conflux.pump")

BURST_BYTES = 196_608
"""Room for what one burst of reads finds. A device that may give 64 kB at once stops when less than
that is left: the burst then holds twice as much, be it in two packets or in a thousand."""
BURSTS_PER_WAKEUP = 3
"""After so many bursts the loop gets its turn: what comes in must not starve."""


def pump(
    tun: TunDevice,
    anchor: Anchor,
    now: Callable[[], float],
    on_closed: Callable[[], None],
    *,
    burst_bytes: int = BURST_BYTES,
) -> None:
    """Attach *anchor* to *tun*. *on_closed* is called once if the device goes away.

    One buffer holds a layout byte and then the burst, which superframes are cut out of where it
    stands.
    """
    size = 1 + max(burst_bytes, tun.record_bytes)
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
