"""The sender's view of loss, from the far end's reports, and the sealing unit that follows from it.

A message dies with any one of its datagrams. On a path that loses a share p of them at random, a
TCP flow inside reaches a window of about sqrt(3/2) / sqrt(p) packets (Mathis et al., 1997). A
message of UNIT_GAIN / sqrt(p) datagrams is less than a third of that: its loss leaves enough
packets in flight for a fast retransmission (docs/decisions/0045 has what was measured). Datagrams
that are sent again in time kill no message: p is what is left of the loss (docs/decisions/0052).
"""

from __future__ import annotations

import math

from conflux_tether_udp.control import Report

UNIT_GAIN = 0.35
MEMORY = 8_192
"""Datagrams over which loss is measured: then both sums are halved."""
MEMORY_S = 10.0
"""The same for slow flows."""
PRIOR = 200
"""Datagrams taken as arrived before any report: one early loss is no 10 %."""

FEW = 5.0
"""Lost pieces, missing or repaired, from which on their ratio says what repair is worth."""

_MASK = 0xFFFF_FFFF
_HALF = 1 << 31


class Loss:
    """The share of datagrams that the path loses, towards the far end."""

    __slots__ = (
        "_forgiven", "_halved_at", "_latest", "_lost", "_missing", "_repaired", "_sent", "fresh",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self._latest: Report | None = None
        self._sent = float(PRIOR)
        self._lost = 0.0
        self._missing = self._repaired = 0.0
        self._halved_at = now
        self._forgiven = 0
        self.fresh = 0.0
        """The share of broken messages in the latest report: all of them say that size is why."""

    @property
    def share(self) -> float:
        return self._lost / self._sent

    def attempt(self) -> None:
        """A datagram goes out that may well be lost: of a new size, to another address."""
        self._forgiven += 1

    def succeeded(self) -> None:
        """Such a datagram arrived."""
        self._forgiven = max(self._forgiven - 1, 0)

    @property
    def unrepaired(self) -> float:
        """The share of datagrams that the path loses, and that messages die for."""
        return self.share * self._missing / max(self._missing + self._repaired, FEW)

    def unit(self, most: int) -> int:
        """How many datagrams a message should have at most, 1 to *most*."""
        share = self.unrepaired
        if share * most * most <= UNIT_GAIN * UNIT_GAIN:
            return most
        return max(1, int(UNIT_GAIN / math.sqrt(share)))

    def report(self, report: Report, now: float) -> bool:
        """Take a report in; False if it is older than the latest, or says nothing new."""
        latest, self._latest = self._latest, report
        if latest is None:
            return True  # what was lost before both ends had keys says nothing
        delta = Report(*((a - b) & _MASK for a, b in zip(report, latest, strict=True)))
        if not 0 < delta.whole + delta.broken < _HALF:
            self._latest = latest
            return False
        self.fresh = delta.broken / (delta.broken + delta.whole)
        if not delta.overflows:  # else the path is not what lost them
            self._sample(delta, now)
        return True

    def _sample(self, delta: Report, now: float) -> None:
        vanished = (delta.expected - delta.whole - delta.broken) & _MASK
        if vanished >= _HALF:  # stragglers of an earlier report
            vanished = 0
        forgiven = min(vanished, self._forgiven)
        self._forgiven -= forgiven
        # A message of which nothing came has lost one datagram if it had one. If it had many, they
        # went together, as batches do in a full queue: then smaller ones would fare no better.
        singles = delta.single / delta.whole if delta.whole else 0.0
        lost = delta.missing + (vanished - forgiven) * singles
        lost += delta.repaired
        self._lost += lost
        self._sent += delta.pieces + lost
        self._missing += delta.missing
        self._repaired += delta.repaired
        while self._sent > MEMORY or now - self._halved_at > MEMORY_S:
            self._sent /= 2
            self._lost /= 2
            self._missing /= 2
            self._repaired /= 2
            self._halved_at = now
