"""Routes: how frames reach a destination, and the search for more of them.

A Reach is one destination in use. Its routes come from a direct tether (no set-up, label 0) and
from relays (set up hop by hop). The search, while there is no direct route:

    want ──► known neighbours and hints at once ──0.1 s──► ask for relays ──back-off──► again
                                                     ├─0.15 to 1 s──► seek paths over 2, 3, 4 relays
                                                     └─30 s, doubling──► try directly again

Two routes are wanted, without a common relay if that can be.

Until the destination has shown that it holds the stream's keys, a neighbour that it is is no route,
and a relayed route, which stands, takes nothing: what would be sent now could overtake the Open.

The direct way and the relayed ones are tried side by side, as RFC 8305 does with addresses.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from conflux.anchor.failures import LONGEST_S
from conflux.anchor.identity import Peer
from conflux.anchor.idle import IdleTimes
from conflux.anchor.reach import DIRECT_RETRY_S, Pending, Reach, Route, overlap
from conflux.anchor.seal import Entropy
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.anchor.timers import Timers
from conflux.anchor.weigher import Weigher
from conflux.anchor.world import World
from conflux.api import Link, LinkSample, NodeId, Path
from conflux.wire.frame import LABEL_HERE
from conflux.wire.inband import (
    MAX_PATH_NODES,
    MAX_RELAYS,
    ROUTE_ID_BYTES,
    Reason,
    Setup,
    SetupFailed,
    SetupOk,
    Teardown,
)

WANTED_RELAYED = 2
ATTEMPT_DELAY_S = 0.25
"""Head start of the direct way at most (RFC 8305 §5, Connection Attempt Delay)."""
ATTEMPT_DELAY_MIN_S = 0.1
"""At least: RFC 8305 §5 recommends no less."""
ATTEMPT_ANSWERS = 3
"""Between them so many times what the peer took to answer in the handshake: the Open is under way
for a half, and a tether takes two round trips."""
SEARCH_S = (0.4, 0.6, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
NO_ROUTE_SEARCH_S = 2.0
"""The longest pause of the search while there is no route at all."""
RELAY_ASKS = 4
"""Asks for a relay in one round without any route: each reaches one random node, maybe one that
cannot help. For a spare route one Ask a round is enough, two where one relay is not."""
SEEK_DELAY_S = 1.0
"""After the first Asks for a relay, paths over several are sought. By then one relay would have
worked: two handshakes by the Master, two tethers of up to 300 ms, one set-up. Where it did not, the
neighbours know no relay that is a neighbour of both ends."""
SEEK_DELAY_MIN_S = 0.15
"""The same, at least, while there is no route: a relay is a busy machine, too."""
RELAY_ANSWERS = 8
"""Between them so many times what the peer took to answer in the handshake: a handshake and its
tether are three such times, and with a relay they happen twice."""
MIN_RING = 2
"""Relays that the first seek may find: to one alone there are quicker ways."""
RING_S = 0.5
"""Before the next, wider seek: what tethers there are have answered by then."""
SHARE_AFTER_S = 1.0
"""How long a path that was found waits for a better one if it shares relays with what there is."""
FOUND_KEEP_S = 10.0
MAX_FOUND_PATHS = 16
SETUP_SLOW_S = 1.0
"""A set-up that takes longer keeps nobody from trying other ways as well."""
DIRECT_RETRY_MAX_S = 300.0
SETUP_DEADLINE_S = 8.0
RETRY_SOON_S = 0.3
RETRY_LATER_S = 10.0
LEAVE_S = 1.0
"""After so long what a route that is to be torn down took has been reported."""
WEIGH_S = 1.0
MAX_HINTS = 1_024

Seek = Callable[[NodeId, int, Sequence[NodeId], float], None]
"""Looks for paths: (target, most relays, relays to be avoided, now)."""


class Routing:
    """Every Reach of a node. `on_reachable` tells that waiting packets can go."""

    def __init__(
        self,
        me: NodeId,
        world: World,
        timers: Timers,
        neighbours: Neighbours,
        weigher: Weigher,
        entropy: Entropy,
        *,
        idle: IdleTimes,
        ask_relay: Callable[[Sequence[NodeId], float], None],
        ask_node: Callable[[NodeId, float], None],
        seek: Seek,
        on_reachable: Callable[[Reach, float], None],
        on_lost: Callable[[Reach, Route, float], None],
        on_untried: Callable[[Reach, Route, float], None],
    ) -> None:
        self._me = me
        self._world = world
        self._timers = timers
        self._neighbours = neighbours
        self._weigher = weigher
        self._entropy = entropy
        self._idle = idle
        self._ask_relay = ask_relay
        self._ask_node = ask_node
        self._seek = seek
        self._on_reachable = on_reachable
        self._on_lost = on_lost
        self._on_untried = on_untried
        self._reaches: dict[NodeId, Reach] = {}
        self._pending: dict[bytes, Pending] = {}
        self._hints: dict[NodeId, Path] = {}

    def get(self, node: NodeId) -> Reach | None:
        return self._reaches.get(node)

    def all(self) -> list[Reach]:
        return list(self._reaches.values())

    def neighbours_in_use(self) -> set[NodeId]:
        """The nodes at which a route of ours starts, or may soon."""
        starts = {r.neighbour.node_id for reach in self._reaches.values() for r in reach.routes}
        return starts | self._reaches.keys()

    def want(
        self, peer: Peer, *, is_ready: bool, answered_s: float = math.inf, now: float
    ) -> Reach:
        """Begin to reach *peer*, or go on doing so. *is_ready*: it has shown that it has the keys.

        *answered_s*: how long it took to answer in the handshake, as far as that is known.
        Until `ready` is called for it, routes to a peer that is not are set up and take nothing.
        """
        reach = self._reaches.get(peer.node_id)
        if reach is not None:
            if is_ready and not reach.is_ready:
                self.ready(peer.node_id, now=now)
            return reach
        reach = self._reaches[peer.node_id] = Reach(peer, without_route_since=now)
        reach.direct_retry_at = now + DIRECT_RETRY_S
        likely_s = max(RELAY_ANSWERS * answered_s, SEEK_DELAY_MIN_S)
        reach.seek_delay_s = min(likely_s, SEEK_DELAY_S)
        if is_ready:
            self.ready(peer.node_id, now=now)
        if not reach.has_direct:
            self._try_known(reach, now)
            likely_s = max(ATTEMPT_ANSWERS * answered_s, ATTEMPT_DELAY_MIN_S)
            self._search_after(reach, min(likely_s, ATTEMPT_DELAY_S), now)
        return reach

    def ready(self, node: NodeId, *, now: float) -> None:
        """*node* has the keys: its routes take packets, and a tether that leads there is one."""
        reach, neighbour = self._reaches.get(node), self._neighbours.get(node)
        if reach is None:
            return
        if not reach.is_ready:
            reach.is_ready = True
            self._weigh(reach, now)
            if reach.usable:
                self._on_reachable(reach, now)
        if neighbour is not None:
            self._add_direct(reach, neighbour, now)

    def release(self, node: NodeId) -> None:
        """The destination is not in use any more: its routes are torn down."""
        reach = self._reaches.pop(node, None)
        if reach is None:
            return
        reach.stop()
        for route in reach.routes:
            self._teardown(route.neighbour, route.route_id)
        for pending in list(reach.pending):
            self._give_up(pending)

    def hint(self, origin: NodeId, path: Path, now: float) -> None:
        """*origin* reaches this node along *path*: backwards it may work for us too."""
        if len(self._hints) >= MAX_HINTS:
            self._hints.pop(next(iter(self._hints)))
        self._hints[origin] = back = tuple(reversed(path))
        reach = self._reaches.get(origin)
        # Who comes by relays though there is a direct way may know that it is broken: be ready.
        if reach is not None and reach.has_direct and len(reach.routes) < WANTED_RELAYED:
            self._try(reach, back, now, is_told=True)
        self.found(origin, back, now)

    def found(self, target: NodeId, path: Path, now: float) -> None:
        """Somebody told of *path* to *target*: nobody vouches for it."""
        reach = self._reaches.get(target)
        if reach is None:
            return
        reach.found.pop(path, None)
        if len(reach.found) >= MAX_FOUND_PATHS:
            reach.found.pop(next(iter(reach.found)))
        reach.found[path] = now
        if self._is_of_use(reach, path, now):
            self._try(reach, path, now, is_told=True)

    # Suspicion

    def suspected(self, reach: Reach, route: Route, now: float) -> None:
        """Frames on *route* go unreported: leave it for another one, and look for more."""
        self._neighbours.hurry(route.neighbour, now)
        self.changed(reach, now)

    def changed(self, reach: Reach, now: float) -> None:
        """A route became suspect, or is not any more."""
        reach.found.clear()  # what was walked before may lead over what has failed
        self._weigh(reach, now)
        if self._lacks_relayed(reach, now):
            reach.begin_rounds()
            self._try_known(reach, now)
            self._search_after(reach, ATTEMPT_DELAY_S, now)

    def give_up(self, reach: Reach, route: Route, now: float) -> None:
        """A relayed route stayed suspect: tear it down."""
        self._teardown(route.neighbour, route.route_id, Reason.BROKEN)
        self._broke(reach, route, RETRY_LATER_S, now)

    # Neighbours

    def neighbour_silent(self, neighbour: Neighbour, now: float) -> None:
        """Probes of *neighbour* go unanswered: its routes are suspect."""
        for reach in self.all():
            for route in [r for r in reach.routes if r.neighbour is neighbour]:
                self.changed(reach, now)
                self._on_lost(reach, route, now)

    def neighbour_back(self, neighbour: Neighbour, now: float) -> None:
        for reach in self.all():
            if any(route.neighbour is neighbour for route in reach.routes):
                self.changed(reach, now)
                self._on_reachable(reach, now)

    def neighbour_up(self, neighbour: Neighbour, now: float) -> None:
        for reach in self.all():
            if reach.node_id == neighbour.node_id:
                if reach.is_ready:
                    self._add_direct(reach, neighbour, now)
            elif self._lacks_relayed(reach, now):
                self._try(reach, (self._me, neighbour.node_id, reach.node_id), now)

    def neighbour_down(self, neighbour: Neighbour, now: float) -> None:
        self._weigher.link_lost((self._me, neighbour.node_id), now=now)
        lost = neighbour.node_id
        self._hints = {node: path for node, path in self._hints.items() if path[1] != lost}
        for pending in [p for p in self._pending.values() if p.neighbour is neighbour]:
            self._forget(pending)
        for reach in self.all():
            self._remove(reach, [r for r in reach.routes if r.neighbour is neighbour], now)

    def measured(self, neighbour: Neighbour, sample: LinkSample, now: float) -> None:
        self._weigher.link_measured((self._me, neighbour.node_id), sample, now=now)

    # In-band messages about our own routes

    def set_up(self, neighbour: Neighbour, message: SetupOk, now: float) -> bool:
        """Take in a SETUP_OK; False if the route is not ours."""
        pending = self._pending.get(message.route_id)
        if pending is None or pending.neighbour is not neighbour:
            return False
        self._forget(pending)
        reach, path = pending.reach, pending.path
        for link, rtt_us in zip(_links(path)[1:], message.rtts_us, strict=False):
            self._weigher.link_measured(link, LinkSample(rtt_s=rtt_us / 1e6), now=now)
        route = Route(message.route_id, path, neighbour, message.label, now)
        route.beyond_s = sum(message.rtts_us) / 1e6
        self._add(reach, route, now)
        return True

    def set_up_failed(self, neighbour: Neighbour, message: SetupFailed, now: float) -> bool:
        pending = self._pending.get(message.route_id)
        if pending is None or pending.neighbour is not neighbour:
            return False
        self._forget(pending)
        soon = message.reason is Reason.NO_HANDSHAKE
        wait_s = RETRY_SOON_S if soon else RETRY_LATER_S
        pending.reach.failures.failed(pending.path, wait_s, now=now)
        if soon:
            self._search_after(pending.reach, RETRY_SOON_S, now)
        else:
            self._try_known(pending.reach, now)
        return True

    def torn_down(self, neighbour: Neighbour, route_id: bytes, now: float) -> bool:
        for reach in self.all():
            broken = [r for r in reach.routes if r.route_id == route_id]
            if broken and broken[0].neighbour is neighbour and route_id:
                self._broke(reach, broken[0], RETRY_SOON_S, now)
                return True
        return False

    def label_unknown(self, neighbour: Neighbour, label: int, now: float) -> bool:
        for reach in self.all():
            for route in reach.routes:
                if route.neighbour is neighbour and route.label == label != LABEL_HERE:
                    # A relay that began anew has forgotten it: that is worth another try at once.
                    self._broke(reach, route, 0.0, now)
                    return True
        return False

    def drop_idle(self, now: float) -> None:
        for reach in self.all():
            idle = [
                r for r in reach.routes if now - r.last_used > self._idle.route_s and r.route_id
            ]
            if len(idle) < len(reach.routes):
                for route in idle:
                    self._teardown(route.neighbour, route.route_id)
                self._remove(reach, idle, now)

    # Adding and removing

    def _add_direct(self, reach: Reach, neighbour: Neighbour, now: float) -> None:
        if reach.has_direct:
            return
        reach.direct_retry_s = DIRECT_RETRY_S
        path = (self._me, reach.node_id)
        self._add(reach, Route(b"", path, neighbour, LABEL_HERE, now), now)

    def _add(self, reach: Reach, route: Route, now: float) -> None:
        route.is_untried = reach.reports and bool(reach.sound) and not route.is_direct
        reach.routes.append(route)
        reach.without_route_since = None
        reach.relays = len(route.relays)
        reach.begin_rounds()
        self._weigh(reach, now)
        self._changed(reach)
        if reach.usable:
            self._on_reachable(reach, now)
        if route.is_untried:
            self._on_untried(reach, route, now)
        else:
            self._prune(reach, now)

    def tried(self, reach: Reach, route: Route, now: float) -> None:
        """What was sent over a new route has arrived, or nobody wants to know."""
        route.is_untried = False
        self._weigh(reach, now)
        self._prune(reach, now)

    def _prune(self, reach: Reach, now: float) -> None:
        """Keep those two relayed routes that share the fewest relays: what a failed one took goes
        over another, which should not be one that failed with it."""
        relayed = [r for r in reach.sound if not r.is_direct and not r.is_untried]
        if len(relayed) <= WANTED_RELAYED:
            return
        pairs = itertools.combinations(relayed, WANTED_RELAYED)
        kept = min(pairs, key=lambda pair: overlap([route.relays for route in pair]))
        leaving = [route for route in relayed if route not in kept]
        for route in leaving:
            route.is_leaving = True
        self._weigh(reach, now)
        self._timers.at(now + LEAVE_S, lambda now: self._leave(reach, leaving, now))

    def _leave(self, reach: Reach, leaving: Sequence[Route], now: float) -> None:
        """Tear down those that are to leave, unless of the others too few have held."""
        here = [route for route in leaving if route in reach.routes]
        if sum(not route.is_untried for route in reach.sound) >= WANTED_RELAYED:
            for route in here:
                self._teardown(route.neighbour, route.route_id)
            self._remove(reach, here, now)
        else:
            for route in here:
                route.is_leaving = False
            self._weigh(reach, now)

    def _broke(self, reach: Reach, route: Route, pause_s: float, now: float) -> None:
        is_last = reach.routes == [route]
        longest_s = NO_ROUTE_SEARCH_S if is_last else LONGEST_S
        reach.failures.broke(route.path, pause_s, longest_s=longest_s, now=now)
        self._remove(reach, [route], now)

    def _remove(self, reach: Reach, gone: Sequence[Route], now: float) -> None:
        if not gone:
            return
        reach.routes = [route for route in reach.routes if route not in gone]
        if any(route.is_direct for route in gone):
            reach.direct_retry_at = now + RETRY_SOON_S
        if not reach.routes:
            reach.without_route_since = now
        reach.found.clear()
        self._weigh(reach, now)
        self._changed(reach)
        for route in gone:
            self._on_lost(reach, route, now)
        if self._lacks_relayed(reach, now):
            reach.begin_rounds()
            self._search(reach, now)
        elif not reach.has_direct:
            self._search_after(reach, SEARCH_S[0], now)

    def _changed(self, reach: Reach) -> None:
        self._world.route_changed(reach.node_id, [route.path for route in reach.routes])

    def _teardown(
        self, neighbour: Neighbour, route_id: bytes, reason: Reason = Reason.IDLE
    ) -> None:
        if route_id:
            neighbour.send_inband(Teardown(route_id, reason))

    # Searching

    def _lacks_relayed(self, reach: Reach, now: float) -> bool:
        if reach.has_sound_direct:
            return False
        under_way = sum(1 for pending in reach.pending if now - pending.since < SETUP_SLOW_S)
        return len(reach.sound) + under_way < WANTED_RELAYED

    def _ways(self, reach: Reach, now: float) -> list[frozenset[NodeId]]:
        """The relays of each way that works, or will if who told of it is right."""
        return [frozenset(route.relays) for route in reach.sound] + [
            frozenset(pending.path[1:-1])
            for pending in reach.pending
            if pending.is_told and now - pending.since < SETUP_SLOW_S
        ]

    def _is_of_use(self, reach: Reach, path: Path, now: float) -> bool:
        """Tell whether to set up a path that was told of: it is the first, or shares fewer relays
        with a way than any two ways do. If it shares some, it waits for one that does not."""
        if reach.has_sound_direct:
            return False
        ways = self._ways(reach, now)
        if not ways:
            return True
        shared = min(len(way.intersection(path)) for way in ways)
        waited_s = now - reach.found.get(path, now)
        return shared < overlap(ways) and (not shared or waited_s >= SHARE_AFTER_S)

    def _search_after(self, reach: Reach, wait_s: float, now: float) -> None:
        self._search_at(reach, now + wait_s)

    def _search_at(self, reach: Reach, when: float) -> None:
        if reach.search is not None:
            reach.search.cancel()
        reach.search = self._timers.at(when, lambda now: self._search(reach, now))

    def _search(self, reach: Reach, now: float) -> None:
        if self._reaches.get(reach.node_id) is not reach or reach.has_sound_direct:
            return
        if now >= reach.direct_retry_at:
            reach.direct_retry_at = now + reach.direct_retry_s
            reach.direct_retry_s = min(2 * reach.direct_retry_s, DIRECT_RETRY_MAX_S)
            self._ask_node(reach.node_id, now)
        reach.failures.drop_old(now)
        self._try_known(reach, now)
        if not reach.round:
            reach.seek_at = now + (SEEK_DELAY_S if reach.routes else reach.seek_delay_s)
        if self._lacks_relayed(reach, now) or 0 < overlap(self._ways(reach, now)) <= MAX_RELAYS:
            is_far = reach.relays >= MIN_RING
            if not reach.is_widening:
                for _ in range(RELAY_ASKS if not reach.routes else 1 + is_far):
                    self._ask_relay([reach.node_id], now)
            if is_far or now >= reach.seek_at:
                self._seek_paths(reach, now)
                if reach.is_widening:
                    self._search_after(reach, RING_S, now)
                    return
        wait_s = SEARCH_S[min(reach.round, len(SEARCH_S) - 1)]
        if not reach.routes:
            wait_s = min(wait_s, NO_ROUTE_SEARCH_S)
        following = now + wait_s
        if now < reach.seek_at:
            following = min(following, reach.seek_at)
        reach.round += 1
        self._search_at(reach, following)

    def _seek_paths(self, reach: Reach, now: float) -> None:
        """Seek in the next ring (RFC 4728 §3.3.3).

        Asked to stay away are the relays of one way that there is, and those in doubt.
        """
        ring = max(reach.ring, MIN_RING)
        ways = self._ways(reach, now)
        avoid = {node for r in reach.routes if r.is_doubtful for node in r.relays}
        if ways:
            avoid |= ways[reach.round % len(ways)]
        self._seek(reach.node_id, ring, sorted(avoid), now)
        reach.is_widening = ring < MAX_RELAYS
        reach.ring = ring + 1 if reach.is_widening else MIN_RING

    def _try_known(self, reach: Reach, now: float) -> None:
        for path in self._told_paths(reach, now):
            if self._is_of_use(reach, path, now):
                self._try(reach, path, now, is_told=True)
        for path in self._known_paths(reach, now):
            if not self._lacks_relayed(reach, now):
                return
            self._try(reach, path, now)

    def _told_paths(self, reach: Reach, now: float) -> Iterable[Path]:
        """Those that share the fewest relays with a way that there is come first."""
        reach.found = {path: at for path, at in reach.found.items() if now - at < FOUND_KEEP_S}
        ways = self._ways(reach, now) or [frozenset()]
        return sorted(
            reach.found,
            key=lambda path: (min(len(way.intersection(path)) for way in ways), len(path)),
        )

    def _known_paths(self, reach: Reach, now: float) -> Iterable[Path]:
        hint = self._hints.get(reach.node_id)
        if hint is not None:
            yield hint
        yield from self._weigher.propose(reach.node_id, limit=WANTED_RELAYED, now=now)
        # A heap: mostly the first ones are enough, and of neighbours there may be a thousand.
        nearest = [(n.srtt_s or math.inf, n.node_id) for n in self._neighbours.all()]
        heapq.heapify(nearest)
        while nearest:
            yield (self._me, heapq.heappop(nearest)[1], reach.node_id)

    def _try(self, reach: Reach, path: Path, now: float, *, is_told: bool = False) -> None:
        """Set *path* up unless it is nonsense, in use, under way, or failed a moment ago."""
        simple = len(set(path)) == len(path) and 3 <= len(path) <= MAX_PATH_NODES
        if not simple or path[0] != self._me or path[-1] != reach.node_id:
            return
        in_use = any(route.path == path for route in reach.routes)
        under_way = any(pending.path == path for pending in reach.pending)
        neighbour = self._neighbours.get(path[1])
        if in_use or under_way or neighbour is None or not reach.failures.is_over(path, now=now):
            return
        route_id = self._entropy(ROUTE_ID_BYTES)
        deadline = self._timers.at(
            now + SETUP_DEADLINE_S, lambda now: self._set_up_ran_out(route_id, now)
        )
        pending = Pending(route_id, reach, path, neighbour, now, deadline, is_told)
        self._pending[route_id] = pending
        reach.pending.append(pending)
        neighbour.send_inband(Setup(route_id, self._idle.relay_s, path))

    def _set_up_ran_out(self, route_id: bytes, now: float) -> None:
        pending = self._pending[route_id]
        self._give_up(pending)
        pending.reach.failures.failed(pending.path, RETRY_LATER_S, now=now)
        self._try_known(pending.reach, now)

    def _give_up(self, pending: Pending) -> None:
        self._forget(pending)
        self._teardown(pending.neighbour, pending.route_id)

    def _forget(self, pending: Pending) -> None:
        pending.deadline.cancel()
        pending.reach.pending.remove(pending)
        del self._pending[pending.route_id]

    # Weighing

    def _weigh(self, reach: Reach, now: float) -> None:
        if reach.weighing is not None:
            reach.weighing.cancel()
            reach.weighing = None
        good = [r for r in reach.routes if not (r.is_suspect or r.is_untried or r.is_leaving)]
        reach.usable = (good or reach.routes) if reach.is_ready else []
        if len(reach.usable) < 2:
            return
        paths = [route.path for route in reach.usable]
        reach.shares = self._weigher.shares(reach.node_id, paths, now=now)
        reach.weighing = self._timers.at(now + WEIGH_S, lambda now: self._weigh(reach, now))


def _links(path: Path) -> list[Link]:
    return list(itertools.pairwise(path))
