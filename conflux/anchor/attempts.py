"""Attempts: tethers that are being made, and those that lately could not be.

A blocked peer cannot be told from a slow one for ten seconds, in which both ends hold sockets. The
draw of any relay is blind, so whoever asks for one names the nodes that are of no use to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conflux.api import NodeId
from conflux.wire.control import MAX_AVOID

TRIED_S = (10.0, 20.0, 40.0, 60.0)
"""How long the first failure with a node counts, the second, and so on: firewalls stay, but what
was cut for a moment is whole again."""
ATTEMPT_S = 60.0
"""How long an attempt counts that nobody says the end of: longer than any tether tries."""
FORGET_S = 300.0
"""After this without another attempt, the next failure is a first one again."""
MAX_TRIED = 1_024
KNOWN_NAMED = 8
"""At most so many neighbours are named to be avoided: another tether to one of them costs little
beside an attempt that is blocked."""


@dataclass(slots=True)
class _Tried:
    at: float
    """When the attempt began or, once it failed, when it did so."""
    counts_s: float
    failures: int


class Attempts:
    """What was tried, by node, freshest last."""

    __slots__ = ("_tried",)

    def __init__(self) -> None:
        self._tried: OrderedDict[NodeId, _Tried] = OrderedDict()

    def began(self, node: NodeId, *, now: float) -> None:
        self._note(node, _Tried(now, ATTEMPT_S, self._failures(node, now)))

    def ended(self, node: NodeId, *, up: bool, now: float) -> None:
        if up:
            self._tried.pop(node, None)
            return
        failures = self._failures(node, now)
        counts_s = TRIED_S[min(failures, len(TRIED_S) - 1)]
        self._note(node, _Tried(now, counts_s, failures + 1))

    def is_recent(self, node: NodeId, *, now: float) -> bool:
        """Tell whether a tether to *node* is being made, or failed lately: trying is of no use."""
        tried = self._tried.get(node)
        return tried is not None and now - tried.at < tried.counts_s

    def drop_idle(self, now: float) -> None:
        """Forget what counts no more."""
        while self._tried and now - next(iter(self._tried.values())).at >= FORGET_S:
            self._tried.popitem(last=False)

    def _failures(self, node: NodeId, now: float) -> int:
        tried = self._tried.get(node)
        return tried.failures if tried is not None and now - tried.at < FORGET_S else 0

    def _note(self, node: NodeId, tried: _Tried) -> None:
        self._tried[node] = tried
        self._tried.move_to_end(node)
        if len(self._tried) > MAX_TRIED:
            self._tried.popitem(last=False)

    def avoid(
        self, first: Sequence[NodeId], known: Sequence[NodeId], *, now: float
    ) -> Sequence[NodeId]:
        """Whom an Ask for any relay names to be avoided: *first*, then some of *known*, our
        neighbours, then what was tried, freshest first, as far as the Ask has room."""
        tried: Iterable[NodeId] = (n for n in reversed(self._tried) if self.is_recent(n, now=now))
        return list(dict.fromkeys((*first, *known[-KNOWN_NAMED:], *tried, *known)))[:MAX_AVOID]
