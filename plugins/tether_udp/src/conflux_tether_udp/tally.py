"""What arrived and what did not, as a report tells it (docs/protocol/udp-tether.md §8)."""

from __future__ import annotations

from conflux_tether_udp.control import Report
from conflux_tether_udp.keys import EPOCH_SHIFT

_EPOCH_MASK = (1 << EPOCH_SHIFT) - 1


class Tally:
    """Plain sums since the beginning."""

    __slots__ = (
        "_expected", "broken", "highest", "missing", "pieces", "repaired", "single",
        "told", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        self.highest = 0
        """The highest counter of a genuine message."""
        self._expected = 0
        self.whole = self.single = self.broken = self.pieces = self.missing = self.repaired = 0
        self.told = 0
        """Broken messages in the latest report."""

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

    def report(self, unfinished: int, overflows: int) -> Report:
        """The sums; *unfinished* messages still wait for pieces."""
        self.told = self.broken
        return Report(
            expected=max(self._expected - unfinished, 0),
            whole=self.whole,
            single=self.single,
            broken=self.broken,
            pieces=self.pieces,
            missing=self.missing,
            overflows=overflows,
            repaired=self.repaired,
        )
