"""Seeking: paths over several relays, found by asking neighbours, as RFC 4728 §3.1 does with
Route Requests and Replies (docs/protocol/route.md §8).

    source ── SEEK ──► relay ── SEEK ──► relay, whose neighbour the target is
           ◄─ FOUND ──       ◄─ FOUND ──

What a relay does with one, each id once:

    held, if it is to be avoided, so that other ways come first
      ├─► the target is a neighbour: FOUND
      ├─► relays are left: on to neighbours, now and while it lives; too few: asks for any relay
      └─► none is left: asks the target for a tether              (FOUND, once it comes up)

A FOUND is a hint. The source sets its path up as any other, and only that proves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from conflux.anchor.attempts import Attempts
from conflux.anchor.limits import RateLimit, SeenNonces
from conflux.anchor.seal import Entropy
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.anchor.timers import Timer, Timers
from conflux.api import NodeId, Path
from conflux.wire.inband import MAX_SEEK_AVOID, SEEK_ID_BYTES, Found, Seek

SEEK_S = 5.0
"""How long a seek lives in each node: time for tethers to come up on three relays in turn."""
MAX_ONWARD = 8
"""Neighbours that one node passes one seek on to: of n nodes at most 8 n messages."""
HOLD_S = 0.15
"""What a relay that is to be avoided waits: more than other ways take longer, so that each node
hears first of the way with the fewest such relays."""
WANTED_ONWARD = 2
"""With fewer neighbours to pass a seek on to, none of which is to be avoided, ask for more."""
ASKS = 2
ASK_AGAIN_S = 0.5
"""Asks for any relay, repeated as long as there are too few neighbours. For a seek that has
something to avoid, which is for a spare way, one at a time is enough."""
SEEKS_PER_S = 10.0
SEEKS_BURST = 20.0
"""Taken in from one neighbour; half of it begun by this node itself."""
ASKS_PER_S = 1.0
ASKS_BURST = 16.0
ALL_ASKS_PER_S = 8.0
ALL_ASKS_BURST = 32.0
"""Asks that seeks of one neighbour, and of all, make this node send. Each lasts 5 s at most: so at
most 72 of the 256 that may be out, and others' needs do not use up our own."""
MAX_PER_NEIGHBOUR = 64
MAX_LIVE = 512
MAX_FOUND = 4
"""Answers to one seek that are taken from one neighbour."""
KEEP_S = 60.0
MAX_SEEN = 16_384


@dataclass(slots=True, eq=False)
class _Live:
    """A seek that is under way: `onward` is what goes on. Without `before` it is our own."""

    onward: Seek
    before: Neighbour | None
    ends: Timer
    told: set[NodeId] = field(default_factory=set)
    found: Counter[NodeId] = field(default_factory=Counter)
    later: Timer | None = None
    is_quiet: bool = False
    """Whether it is held, answered or replaced: nothing is sent but answers passed back."""

    @property
    def pair(self) -> tuple[Neighbour | None, NodeId, NodeId]:
        return self.before, self.onward.path[0], self.onward.target

    def hush(self) -> None:
        self.is_quiet = True
        self.rest()

    def rest(self) -> None:
        if self.later is not None:
            self.later.cancel()
            self.later = None


class Seeking:
    """Every seek of a node: its own, and those of others that it passes on or answers."""

    def __init__(
        self,
        me: NodeId,
        timers: Timers,
        neighbours: Neighbours,
        attempts: Attempts,
        entropy: Entropy,
        counters: Counter[str],
        *,
        is_relay: bool,
        ask_relay: Callable[[Sequence[NodeId], float], None],
        ask_node: Callable[[NodeId, float], None],
        accepts_from: Callable[[NodeId], bool],
        on_found: Callable[[NodeId, Path, float], None],
    ) -> None:
        self._me = me
        self._timers = timers
        self._neighbours = neighbours
        self._attempts = attempts
        self._entropy = entropy
        self._counters = counters
        self._is_relay = is_relay
        self._ask_relay = ask_relay
        self._ask_node = ask_node
        self._accepts_from = accepts_from
        self._on_found = on_found
        self._live: dict[bytes, _Live] = {}
        self._seen = SeenNonces(keep_s=KEEP_S, limit=MAX_SEEN)
        self._rate = RateLimit(per_s=SEEKS_PER_S, burst=SEEKS_BURST)
        self._own_rate = RateLimit(per_s=SEEKS_PER_S / 2, burst=SEEKS_BURST / 2)
        self._asks = RateLimit(per_s=ASKS_PER_S, burst=ASKS_BURST)
        self._all_asks = RateLimit(per_s=ALL_ASKS_PER_S, burst=ALL_ASKS_BURST)

    @property
    def live(self) -> int:
        """How many seeks are under way here, our own included."""
        return len(self._live)

    # Our own

    def seek(self, target: NodeId, *, relays: int, avoid: Sequence[NodeId], now: float) -> None:
        """Look for paths to *target* over at most *relays* relays; `on_found` gets what comes.

        Another seek for it takes the place of the former one, whose answers still count.
        """
        if not self._own_rate.allows(b"", now=now):
            self._counters["seek_own_over_rate"] += 1
            return
        seek_id = self._entropy(SEEK_ID_BYTES)
        self._seen.fresh(seek_id, by=self._me, now=now)
        onward = Seek(seek_id, relays, target, [self._me], list(avoid)[:MAX_SEEK_AVOID])
        self._spread(self._begin(onward, None, now))

    # Those of others

    def received(self, neighbour: Neighbour, seek: Seek, now: float) -> None:
        """Take in a SEEK: answer it, pass it on, or drop it."""
        if not self._rate.allows(neighbour.node_id, now=now):
            self._counters["seek_over_rate"] += 1
        elif seek.path[-1] != neighbour.node_id or self._me in seek.path:
            self._counters["seek_refused"] += 1
        elif not self._is_news(seek, now):
            self._counters["seek_seen"] += 1
        elif seek.target == self._me:
            # To a neighbour there is no path to be found.
            if len(seek.path) > 1 and self._accepts_from(seek.path[0]):
                neighbour.send_inband(Found(seek.seek_id, (*seek.path, self._me)))
        elif self._is_relay and seek.relays_left > 0:
            self._take(neighbour, seek, now)

    def _is_news(self, seek: Seek, now: float) -> bool:
        """Tell whether its id is new, or the same seek came over more relays before."""
        former = self._live.get(seek.seek_id)
        if former is None:
            return self._seen.fresh(seek.seek_id, by=seek.path[-1], now=now)
        sent = former.onward
        is_same = (sent.path[0], sent.target) == (seek.path[0], seek.target)
        if not is_same or former.before is None or sent.relays_left >= seek.relays_left - 1:
            return False
        self._end(former)
        return True

    def _take(self, neighbour: Neighbour, seek: Seek, now: float) -> None:
        theirs = sum(live.before is neighbour for live in self._live.values())
        if theirs >= MAX_PER_NEIGHBOUR or len(self._live) >= MAX_LIVE:
            self._counters["seek_over_limit"] += 1
            return
        path = [*seek.path, self._me]
        onward = replace(seek, relays_left=seek.relays_left - 1, path=path)
        live = self._begin(onward, neighbour, now)
        if self._me in seek.avoid:
            live.is_quiet = True
            live.later = self._timers.at(now + HOLD_S, lambda now: self._work(live, now))
        else:
            self._work(live, now)

    def _begin(self, onward: Seek, before: Neighbour | None, now: float) -> _Live:
        ends = self._timers.at(now + SEEK_S, lambda _: self._end(live))
        live = _Live(onward, before, ends)
        for former in self._live.values():
            if former.pair == live.pair:
                former.hush()
        self._live[onward.seek_id] = live
        return live

    def _end(self, live: _Live) -> None:
        live.hush()
        live.ends.cancel()
        del self._live[live.onward.seek_id]

    # At a relay

    def _work(self, live: _Live, now: float) -> None:
        live.is_quiet = False
        target = self._neighbours.get(live.onward.target)
        if target is not None and not target.is_suspect:
            self._answer(live)
        elif live.onward.relays_left > 0:
            self._spread(live)
            self._ask_for_more(live, now)
        elif self._is_worth_it(live.onward.target, now) and self._may_ask(live, now):
            self._ask_node(live.onward.target, now)

    def _answer(self, live: _Live) -> None:
        live.hush()
        if live.before is not None:
            path = (*live.onward.path, live.onward.target)
            live.before.send_inband(Found(live.onward.seek_id, path))

    def _spread(self, live: _Live) -> None:
        """Pass *live* on to neighbours, drawn by lot, but those that are to be avoided last."""
        onward = [n for n in self._neighbours.all() if not n.is_suspect]
        onward.sort(key=lambda n: (n.node_id in live.onward.avoid, self._entropy(4)))
        for neighbour in onward:
            self._pass_on(live, neighbour)

    def _pass_on(self, live: _Live, neighbour: Neighbour) -> None:
        node = neighbour.node_id
        if node in live.onward.path or node in live.told or len(live.told) >= MAX_ONWARD:
            return
        live.told.add(node)
        neighbour.send_inband(live.onward)

    def _ask_for_more(self, live: _Live, now: float) -> None:
        live.later = None
        avoid = live.onward.avoid
        if sum(node not in avoid for node in live.told) >= WANTED_ONWARD:
            return
        for _ in range(1 if avoid else ASKS):
            if self._may_ask(live, now):
                self._ask_one(live, now)
        due = now + ASK_AGAIN_S
        live.later = self._timers.at(due, lambda now: self._ask_for_more(live, now))

    def _ask_one(self, live: _Live, now: float) -> None:
        """Relays on the way that there is are alive, and may be next to us: better than a draw."""
        for node in live.onward.avoid:
            if node != self._me and node not in live.onward.path and self._is_worth_it(node, now):
                self._ask_node(node, now)
                return
        self._ask_relay(live.onward.path, now)

    def _is_worth_it(self, node: NodeId, now: float) -> bool:
        return not self._neighbours.get(node) and not self._attempts.is_recent(node, now=now)

    def _may_ask(self, live: _Live, now: float) -> bool:
        before = live.before.node_id if live.before is not None else self._me
        if self._asks.allows(before, now=now) and self._all_asks.allows(b"", now=now):
            return True
        self._counters["seek_ask_over_rate"] += 1
        return False

    # Answers

    def found(self, neighbour: Neighbour, message: Found, now: float) -> None:
        """Take in a FOUND: it is for us, or goes back by the way that its SEEK came."""
        live = self._live.get(message.seek_id)
        if live is None or not _continues(live, neighbour.node_id, message.path):
            self._counters["found_unexpected"] += 1
            return
        live.found[neighbour.node_id] += 1
        if live.found[neighbour.node_id] > MAX_FOUND:
            self._counters["found_over_limit"] += 1
        elif live.before is None:
            self._on_found(live.onward.target, tuple(message.path), now)
        else:
            live.rest()
            live.before.send_inband(message)

    # Neighbours

    def neighbour_up(self, neighbour: Neighbour, now: float) -> None:
        for live in list(self._live.values()):
            if live.is_quiet:
                continue
            if neighbour.node_id == live.onward.target:
                self._answer(live)
            elif live.onward.relays_left > 0:
                self._pass_on(live, neighbour)

    def neighbour_down(self, neighbour: Neighbour) -> None:
        for live in [live for live in self._live.values() if live.before is neighbour]:
            self._end(live)

    def drop_idle(self, now: float) -> None:
        """Forget what was remembered of others and counts no more."""
        self._seen.drop_idle(now)
        for rate in (self._rate, self._own_rate, self._asks, self._all_asks):
            rate.drop_idle(now)


def _continues(live: _Live, by: NodeId, path: Sequence[NodeId]) -> bool:
    """Tell whether *path* is one that *by* may have found for the seek that we sent it."""
    sent = live.onward
    came = len(sent.path)
    return (
        by in live.told
        and [*path[: came + 1]] == [*sent.path, by]
        and path[-1] == sent.target
        and len(path) - 1 - came <= sent.relays_left
    )
