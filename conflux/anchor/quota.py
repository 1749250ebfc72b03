"""Quota: how much each neighbour may push through this node, and all of them together.

Token buckets in bytes. A frame takes from its neighbour's credit, which is drawn 64 KiB at a time:

    credit used up ──► its own bucket has it, and its share of the node's or else the node's
                       ──► more credit                       otherwise the frame is dropped

Each neighbour that relays lately has an equal share of what the node gives in all; what others
leave of theirs is free for anybody. So a neighbour within its share loses nothing, however much the
others push. docs/protocol/route.md §3.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from conflux.api import NodeId

DRAWN_BYTES = 65_536
"""More than any message has, so that one draw always lets one frame pass."""
BURST_S = 0.25
BURST_BYTES = 4 * DRAWN_BYTES
"""A bucket holds what comes in BURST_S, and not less than this: a window of TCP."""
ACTIVE_S = 1.0
"""Who drew no credit for this long has no share."""
COUNT_S = 0.1
"""How often those who share are counted anew."""
MAX_QUOTAS = 4_096
FORGET_S = 60.0
"""By then every bucket is full again."""
BYTES_PER_MBIT = 125_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaying:
    """What a node does for others. Rates in Mbit/s, math.inf for no limit."""

    enabled: bool = True
    """Unset: no route of others leads through it."""
    mbit: float = math.inf
    """Of all neighbours together."""
    neighbour_mbit: float = math.inf


class _Bucket:
    """Bytes; full at first, without limit always."""

    __slots__ = ("_filled_at", "level", "rate")

    def __init__(self, mbit: float) -> None:
        self.rate = mbit * BYTES_PER_MBIT
        self.level = 0.0
        self._filled_at = -math.inf

    def fill(self, now: float) -> float:
        """Add what came since the last time; return the level, in bytes."""
        if math.isinf(self.rate):
            return math.inf
        full = max(self.rate * BURST_S, BURST_BYTES)
        self.level = min(full, self.level + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return self.level


class Quota:
    """One neighbour's. What it may push at once is its credit, in bytes."""

    __slots__ = ("_credit", "_pool", "active_at", "own", "share")

    def __init__(self, pool: Quotas, relaying: Relaying) -> None:
        self._pool = pool
        self._credit = 0
        self.own = _Bucket(relaying.neighbour_mbit)
        self.share = _Bucket(relaying.mbit)
        self.active_at = -math.inf

    def allows(self, size: int, now: float) -> bool:
        """Take *size* bytes; False if there are not so many."""
        left = self._credit - size
        if left < 0:
            if not self._pool.draw(self, now):
                return False
            left += DRAWN_BYTES
        self._credit = left
        return True


class Quotas:
    """Those of all neighbours, by node: a neighbour that comes again goes on with what it left."""

    def __init__(self, relaying: Relaying) -> None:
        self._relaying = relaying
        self._node = _Bucket(relaying.mbit)
        self._is_limited = not math.isinf(min(relaying.mbit, relaying.neighbour_mbit))
        self._by_node: OrderedDict[NodeId, Quota] = OrderedDict()
        self._counted_at = -math.inf
        self._sharers = 1

    def of(self, node: NodeId) -> Quota | None:
        """The quota of *node*; None without limits: then nothing is asked on the packet path."""
        if not self._is_limited:
            return None
        quota = self._by_node.pop(node, None) or Quota(self, self._relaying)
        self._by_node[node] = quota
        if len(self._by_node) > MAX_QUOTAS:
            self._by_node.popitem(last=False)
        return quota

    def draw(self, quota: Quota, now: float) -> bool:
        """Take DRAWN_BYTES for *quota* from the buckets; False if they have not so many."""
        quota.active_at = now
        own, share, node = quota.own, quota.share, self._node
        share.rate = node.rate / self._count(now)
        owned, shared, left = own.fill(now), share.fill(now), node.fill(now)
        if owned < DRAWN_BYTES or max(shared, left) < DRAWN_BYTES:
            return False
        own.level -= DRAWN_BYTES
        # Shares are given even if others have used up what is left: they come off that as well.
        node.level -= DRAWN_BYTES
        if shared >= DRAWN_BYTES:
            share.level -= DRAWN_BYTES
        return True

    def drop_idle(self, is_gone: Callable[[NodeId], bool], now: float) -> None:
        """Forget nodes that push nothing and of which *is_gone* holds."""
        for node, quota in list(self._by_node.items()):
            if now - quota.active_at > FORGET_S and is_gone(node):
                del self._by_node[node]

    def _count(self, now: float) -> int:
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            self._sharers = sum(now - q.active_at < ACTIVE_S for q in self._by_node.values())
        return max(self._sharers, 1)
