"""How much goes to and comes from each neighbour: counters, looked at once a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conflux.api import NodeId

LEAST_S = 0.5
"""Two looks that are nearer together measure nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits per second, of messages without the headers of IP, UDP and the tether."""

    sent_bps: float = 0.0
    received_bps: float = 0.0


class Meter:
    """Rates between the last two looks."""

    def __init__(self) -> None:
        self._looked = 0.0
        self._totals: Mapping[NodeId, tuple[int, int]] = {}
        self._rates: dict[NodeId, Rate] = {}

    def look(self, totals: Mapping[NodeId, tuple[int, int]], *, now: float) -> None:
        """*totals*: bytes sent and received so far, by neighbour. A smaller one began anew."""
        passed_s = now - self._looked
        if self._totals and passed_s < LEAST_S:
            return
        self._rates = {
            key: Rate(*(self._grown(key, n, total) * 8 / passed_s for n, total in enumerate(both)))
            for key, both in totals.items()
            if key in self._totals
        }
        self._looked = now
        self._totals = dict(totals)

    def rate(self, key: NodeId) -> Rate:
        """Nothing of who was not there at both looks."""
        return self._rates.get(key, Rate())

    def total(self) -> Rate:
        """Of all neighbours together."""
        rates = self._rates.values()
        return Rate(sum(r.sent_bps for r in rates), sum(r.received_bps for r in rates))

    def _grown(self, key: NodeId, which: int, total: int) -> int:
        before = self._totals[key][which]
        return total - before if total >= before else total
