"""Messages from pieces, for those that did not arrive in one batch; and the tally of what is lost.

Pieces are not authenticated one by one: whoever knows a tether's id and can inject on its path may
spoil a message, as he could drop it. Memory is bounded, and what is incomplete is given up early.
"""

from __future__ import annotations

from conflux.api import MAX_MESSAGE_BYTES
from conflux_tether_udp.keys import EPOCH_SHIFT, TAG_BYTES

MAX_PARTIAL = 32
"""Unfinished messages of one tether; the oldest counter goes first."""
MAX_HELD_BYTES = 1 << 19
MOST_SEALED_BYTES = MAX_MESSAGE_BYTES + TAG_BYTES
GIVE_UP_S = 0.25
"""After the first piece: reordering takes milliseconds, and who resends wants to know."""

_EPOCH_MASK = (1 << EPOCH_SHIFT) - 1


class Tally:
    """What arrived and what did not, as a report tells it; plain sums since the beginning."""

    __slots__ = ("_expected", "broken", "highest", "missing", "pieces", "single", "whole")

    def __init__(self) -> None:
        self.highest = 0
        """The highest counter of a genuine message."""
        self._expected = 0
        self.whole = self.single = self.broken = self.pieces = self.missing = 0

    def arrived(self, counter: int, pieces: int) -> None:
        """Count a genuine message of so many datagrams."""
        self.whole += 1
        self.pieces += pieces
        if pieces == 1:
            self.single += 1
        ahead = counter - self.highest
        if ahead <= 0:
            return
        if counter >> EPOCH_SHIFT != self.highest >> EPOCH_SHIFT:
            # The sender went on from the next multiple: what lies between was never sent.
            ahead = (counter & _EPOCH_MASK) + 1
        self.highest = counter
        self._expected += ahead

    def lost(self, pieces: int, missing: int) -> None:
        """Count a message that was given up."""
        self.broken += 1
        self.pieces += pieces
        self.missing += missing

    def expected(self, unfinished: int) -> int:
        """How many messages should be here, without those *unfinished*."""
        return max(self._expected - unfinished, 0)


class _Partial:
    """A message of which some pieces are here."""

    __slots__ = ("lacks", "pieces", "since", "size")

    def __init__(self, count: int, now: float) -> None:
        self.pieces = [b""] * count  # no piece is empty
        self.lacks = count
        self.size = 0
        self.since = now


class Reassembly:
    """Puts pieces together. Losses go to *tally*."""

    __slots__ = ("_given_up", "_held_bytes", "_partial", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._partial: dict[int, _Partial] = {}
        self._held_bytes = 0
        self._given_up = 0
        """Pieces up to this counter come too late."""

    def __bool__(self) -> bool:
        return bool(self._partial)

    def unfinished(self) -> int:
        """How many messages that the tally expects still wait for pieces."""
        highest = self._tally.highest
        return sum(1 for counter in self._partial if counter <= highest)

    def add(
        self, counter: int, index: int, last: int, run: memoryview, piece_bytes: int, now: float
    ) -> bytes | None:
        """Take neighbouring pieces from *index* on; return the sealed message once it is whole."""
        partial = self._partial.get(counter)
        if partial is None:
            if counter <= self._given_up:
                return None
            partial = self._partial[counter] = _Partial(last + 1, now)
        elif len(partial.pieces) != last + 1:
            return None
        for at in range(0, len(run), piece_bytes):
            if not partial.pieces[index]:
                piece = partial.pieces[index] = bytes(run[at : at + piece_bytes])
                partial.size += len(piece)
                partial.lacks -= 1
                self._held_bytes += len(piece)
            index += 1
        if partial.size > MOST_SEALED_BYTES:
            self._give_up(counter)
        elif not partial.lacks:
            self._forget(counter)
            return b"".join(partial.pieces)
        while len(self._partial) > MAX_PARTIAL or self._held_bytes > MAX_HELD_BYTES:
            self._give_up(min(self._partial))
        return None

    def sweep(self, now: float) -> None:
        """Give up what has waited too long."""
        for counter in [c for c, p in self._partial.items() if now - p.since >= GIVE_UP_S]:
            self._give_up(counter)

    def _give_up(self, counter: int) -> None:
        partial = self._forget(counter)
        self._tally.lost(len(partial.pieces) - partial.lacks, partial.lacks)
        # Never beyond what is genuine: an injected piece must not keep later messages out.
        self._given_up = max(self._given_up, min(counter, self._tally.highest))

    def _forget(self, counter: int) -> _Partial:
        partial = self._partial.pop(counter)
        self._held_bytes -= partial.size
        return partial
