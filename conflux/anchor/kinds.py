"""Which kinds of tether to try with whom: best first, and not again what failed a moment ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from conflux.api import NodeId

FAILED_S = 300.0
"""A kind that did not connect two nodes is not tried between them for this long, if there is
another one."""
MAX_NODES = 4_096


class TetherKinds:
    """The kinds that this node can make, best first, and those that failed with each node.

    Both ends of a tether see it fail, so both leave its kind out the next time.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.own = tuple(kinds)
        self._failed: OrderedDict[NodeId, dict[str, float]] = OrderedDict()

    def to_try(self, node: NodeId, *, now: float) -> Sequence[str]:
        """The kinds to offer to *node*, best first: all again once none is left."""
        return self._untried(node, now) or self.own

    def common(self, node: NodeId, theirs: Sequence[str], *, now: float) -> Sequence[str]:
        """Those of *theirs*, which *node* can make, that are worth a try, best first."""
        both = [kind for kind in self.own if kind in theirs]
        wanted = self.to_try(node, now=now)
        return [kind for kind in both if kind in wanted] or both

    def has_other(self, node: NodeId, kind: str, *, now: float) -> bool:
        """Tell whether there is something else to try with *node* should *kind* fail.

        Not once every kind has failed: two who cannot connect would try for ever.
        """
        left = self._untried(node, now)
        return kind in left and len(left) > 1

    def is_untried(self, node: NodeId, *, now: float) -> bool:
        """Tell whether there is a kind that did not fail with *node* lately."""
        return bool(self._untried(node, now))

    def _untried(self, node: NodeId, now: float) -> Sequence[str]:
        failed = self._failed.get(node, {})
        return [kind for kind in self.own if now - failed.get(kind, -FAILED_S) >= FAILED_S]

    def failed(self, node: NodeId, kind: str, *, now: float) -> None:
        failed = self._failed.setdefault(node, {})
        failed[kind] = now
        self._failed.move_to_end(node)
        if len(self._failed) > MAX_NODES:
            self._failed.popitem(last=False)

    def drop_idle(self, now: float) -> None:
        """Forget nodes with which nothing failed lately."""
        while self._failed:
            node, failed = next(iter(self._failed.items()))
            if failed and now - max(failed.values()) < FAILED_S:
                break
            del self._failed[node]

    def worked(self, node: NodeId, kind: str) -> None:
        failed = self._failed.get(node)
        if failed is not None:
            failed.pop(kind, None)
