"""What was sent lately over a path that loses: sealed messages, to send pieces of them again."""

from __future__ import annotations

from collections.abc import Sequence

from conflux.api import Buffer
from conflux_tether_udp.control import Nack
from conflux_tether_udp.datagram import HEADER_BYTES, ID_BYTES, PREFIX_BYTES

KEEP_BYTES = 4 << 20
KEEP_S = 0.3
"""What the far end has not asked for by then it has given up."""
LOSSY_S = 10.0
"""After a question: how long messages are kept. A path that loses nothing costs nothing."""
MOST_ASKS = 6
"""How often pieces of one message are sent again."""

_COUNTER = slice(ID_BYTES, PREFIX_BYTES)


class _Message:
    """Datagrams of *each* bytes back to back, the last one maybe shorter."""

    __slots__ = ("asks", "datagrams", "each", "sent_at")

    def __init__(self, datagrams: memoryview, each: int, now: float) -> None:
        self.datagrams = datagrams
        self.each = each
        self.sent_at = now
        self.asks = 0


class Kept:
    """Messages of one tether by their counters, oldest first; nothing while nothing is lost."""

    __slots__ = ("_bytes", "_messages", "_until")

    def __init__(self) -> None:
        self._messages: dict[bytes, _Message] = {}
        self._bytes = 0
        self._until = 0.0

    def keep(self, parts: Sequence[Buffer], each: int, now: float) -> None:
        """Copy what `Cutter.cut` made, if it is in pieces and any were asked for lately."""
        if len(parts) <= 2 or now >= self._until:
            return
        datagrams = b"".join(parts)
        self._messages[datagrams[_COUNTER]] = _Message(memoryview(datagrams), each, now)
        self._bytes += len(datagrams)
        self.drop_old(now)

    def drop_old(self, now: float) -> None:
        while self._messages:
            counter, message = next(iter(self._messages.items()))
            if now < message.sent_at + KEEP_S and self._bytes <= KEEP_BYTES:
                return
            self._drop(counter)

    @property
    def due(self) -> float | None:
        """When `drop_old` has something to do."""
        return next((m.sent_at + KEEP_S for m in self._messages.values()), None)

    def again(self, nack: Nack, now: float) -> tuple[list[Buffer], int]:
        """What to send again, as `Cutter.cut` would give it, and the size of datagrams."""
        self._until = now + LOSSY_S
        message = self._messages.get(nack.counter)
        if message is None:
            return [], 0
        message.asks += 1
        if message.asks == MOST_ASKS:
            self._drop(nack.counter)
        parts: list[Buffer] = []
        for start in range(0, len(message.datagrams), message.each):
            if nack.pieces >> start // message.each & 1:
                datagram = message.datagrams[start : start + message.each]
                parts += (datagram[:HEADER_BYTES], datagram[HEADER_BYTES:])
        return parts, message.each

    def _drop(self, counter: bytes) -> None:
        self._bytes -= len(self._messages.pop(counter).datagrams)
