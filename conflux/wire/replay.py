"""The anti-replay window: which counters were seen, RFC 6479's ring instead of shifting bits."""

from __future__ import annotations

WINDOW = 65_536
"""How far behind the highest counter a frame may come (docs/protocol/frame.md §4)."""

# One more byte than the window: the byte that the highest counter shares with the oldest ones.
_RING_BYTES = WINDOW // 8 + 1


class ReplayWindow:
    """Remembers the last WINDOW counters. Counters start at 1.

    `seen` before a frame is opened, `mark` after it proved genuine: noise moves nothing.
    """

    __slots__ = ("_highest", "_ring")

    def __init__(self) -> None:
        self._highest = 0
        self._ring = bytearray(_RING_BYTES)

    @property
    def highest(self) -> int:
        return self._highest

    def seen(self, counter: int) -> bool:
        """Tell whether *counter* was marked or is too old (or zero) to be told apart."""
        if counter > self._highest:
            return False
        if counter <= self._highest - WINDOW or counter == 0:
            return True
        return bool(self._ring[(counter >> 3) % _RING_BYTES] & 1 << (counter & 7))

    def slice(self, first: int, last: int, *, limit: int) -> bytes:
        """Return the marks of *first* to *last*, a bit each, in whole bytes: bit c & 7 is c's.

        At most *limit* bytes, the latest; no mark above *last*, which is at most `highest`. Bytes
        that the window has left behind are missing.
        """
        end = last >> 3
        oldest = max((self._highest >> 3) - _RING_BYTES + 1, 0)
        start = max(first >> 3, end - limit + 1, oldest)
        ring = self._ring
        bits = bytearray(ring[block % _RING_BYTES] for block in range(start, end + 1))
        if bits:
            bits[-1] &= (2 << (last & 7)) - 1
        return bytes(bits)

    def mark(self, counter: int) -> None:
        """Remember *counter*, which `seen` called new."""
        block = counter >> 3
        if counter > self._highest:
            ahead = block - (self._highest >> 3)
            if ahead >= _RING_BYTES:
                self._ring = bytearray(_RING_BYTES)
            else:
                for passed in range(block - ahead + 1, block + 1):
                    self._ring[passed % _RING_BYTES] = 0
            self._highest = counter
        self._ring[block % _RING_BYTES] |= 1 << (counter & 7)
