"""Attempts: tethers that are being made, and those that lately could not be.

A blocked peer cannot be told from a slow one for ten seconds, in which both ends hold sockets. The
draw of any relay is blind, so whoever asks for one names the nodes that are of no use to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from conflux.api import NodeId
from conflux.wire.control import MAX_AVOID

TRIED_S = 60.0
"""How long a failure counts: firewalls stay, but addresses, loads and relays of TURN change."""
MAX_TRIED = 1_024
KNOWN_NAMED = 8
"""At most so many neighbours are named to be avoided: another tether to one of them costs little
beside an attempt that is blocked."""


class Attempts:
    """By node, when an attempt began or, once it failed, when it did so; freshest last."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: OrderedDict[NodeId, float] = OrderedDict()

    def began(self, node: NodeId, *, now: float) -> None:
        self._at[node] = now
        self._at.move_to_end(node)
        if len(self._at) > MAX_TRIED:
            self._at.popitem(last=False)

    def ended(self, node: NodeId, *, up: bool, now: float) -> None:
        self._at.pop(node, None)
        if not up:
            self.began(node, now=now)

    def is_recent(self, node: NodeId, *, now: float) -> bool:
        """Tell whether a tether to *node* is being made, or failed lately: trying is of no use."""
        return now - self._at.get(node, -TRIED_S) < TRIED_S

    def drop_idle(self, now: float) -> None:
        """Forget what counts no more."""
        while self._at and not self.is_recent(next(iter(self._at)), now=now):
            self._at.popitem(last=False)

    def avoid(
        self, first: Sequence[NodeId], known: Sequence[NodeId], *, now: float
    ) -> Sequence[NodeId]:
        """Whom an Ask for any relay names to be avoided: *first*, then some of *known*, our
        neighbours, then what was tried, freshest first, as far as the Ask has room."""
        tried: Iterable[NodeId] = (n for n in reversed(self._at) if self.is_recent(n, now=now))
        return list(dict.fromkeys((*first, *known[-KNOWN_NAMED:], *tried, *known)))[:MAX_AVOID]
