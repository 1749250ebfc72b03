"""Resending: what was sent and not reported yet, and what follows when nothing is reported.

    Egress ─► kept ─► Ledger ──report──► forgotten; round trips, losses ─► Health ─► router
                        └── route silent, lost or suspect ──► sent again over another route

Frames of the last 500 ms are kept, 4 MB a node. A frame sent again is the same bytes, so whichever
copy comes second falls to the replay window. docs/protocol/report.md §4.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

from conflux.anchor.ledger import Ledger
from conflux.anchor.limits import RateLimit
from conflux.anchor.reach import Reach, Route
from conflux.anchor.route import Routing
from conflux.anchor.stream import Session, Spent
from conflux.anchor.timers import Timer, Timers
from conflux.anchor.weigher import Weigher
from conflux.api import Layout, NodeId, PathSample, WireError
from conflux.wire.report import Report

KEEP_S = 0.5
KEEP_BYTES = 4 * 2**20
MAX_SLOTS = 32_768
"""Counters remembered in all, the reported ones of the last 500 ms included."""
AGAIN_S = 1.0
"""For how long after a route failed its frames are worth sending again."""
AGAIN_BYTES = 262_144
"""Sent again at once; more follows every AGAIN_PAUSE_S, so that new packets find room."""
AGAIN_PAUSE_S = 0.005
REPORTS_PER_S = 100.0
REPORTS_BURST = 50.0
"""Taken in from one peer; it sends 40 a second for each stream, of which a rekey has two."""
TELL_ROUTER_S = 0.25
SOONEST = 0.75
"""Of a route's measured round trip: no report of what is sent over it comes back sooner."""
TICK_S = 0.025
"""Between looks at a doubted route, and the empty frames that it gets if it carries little."""
ROUNDING_S = 1e-6
STALL_S = 0.02
"""A timer that is later than this: we were asleep ourselves, and reports may lie unread."""
TRY_S = (0.1, 0.2, 0.4, 0.8, 1.0)
"""Between empty frames over a suspect route, to see whether it carries again."""
GIVE_UP_S = 3.0
"""A relayed route that is suspect for this long, while another one is not, is torn down."""
FORGIVE_S = 5.0
"""Without a packet to the peer for this long nobody is interested in its suspect routes."""
_EMPTY = memoryview(bytes((Layout.BARE,)))


@dataclass(slots=True, eq=False)
class _Trial:
    """A route, new or suspect, that is tried now and then."""

    session: Session
    reach: Reach
    route: Route
    since: float
    tries: int = 0


class Resender:
    """Every Ledger of a node.

    `floor_s` is the least time for which a route must be silent to become suspect: more than the
    far end may stall.
    """

    def __init__(
        self,
        timers: Timers,
        counters: Counter[str],
        routing: Routing,
        weigher: Weigher,
        *,
        session_of: Callable[[NodeId], Session | None],
        floor_s: float,
    ) -> None:
        self._timers = timers
        self._counters = counters
        self._routing = routing
        self._weigher = weigher
        self._session_of = session_of
        self._floor_s = floor_s
        self._by_stream: dict[int, Ledger] = {}
        self._order: deque[Ledger] = deque()
        """The owner of each slot, in order of time."""
        self._sweeping: Timer | None = None
        self._pumping: dict[NodeId, Timer] = {}
        self._rate = RateLimit(per_s=REPORTS_PER_S, burst=REPORTS_BURST)
        self.kept_bytes = 0

    @property
    def slots(self) -> int:
        return len(self._order)

    # The packet path

    def kept(self, session: Session, route: Route, frame: bytearray, now: float) -> None:
        """*frame*, the latest of *session*, went out over *route*. Keeps the frame itself."""
        ledger = session.ledger
        order = self._order
        used = ledger.keep(session.out.counter, frame, route, now)
        if used == 1:
            order.append(ledger)
        else:
            order.extend(repeat(ledger, used))
        self.kept_bytes += len(frame)
        if not ledger.is_listed:
            self._list(session, now)
        if self.kept_bytes > KEEP_BYTES or len(order) > MAX_SLOTS:
            self._make_room()
        if route.health.timer is None:
            self._watch(session, route, now)

    def _list(self, session: Session, now: float) -> None:
        ledger = session.ledger
        ledger.is_listed = True
        ledger.node_id = session.node_id
        self._by_stream[session.out.stream_id] = ledger
        if self._sweeping is None:
            self._sweeping = self._timers.at(now + KEEP_S, self._sweep)

    def _make_room(self) -> None:
        while self._order and (self.kept_bytes > KEEP_BYTES or len(self._order) > MAX_SLOTS):
            self._drop_oldest()
        for ledger in self._by_stream.values():
            while self.kept_bytes > KEEP_BYTES and (freed := ledger.drop_again()):
                self.kept_bytes -= freed

    def _drop_oldest(self) -> Route | None:
        """Give up the oldest slot of all; return its route if it was never reported."""
        frame, route = self._order.popleft().drop_oldest()
        if frame is None:
            return None
        self.kept_bytes -= len(frame)
        return route

    def _sweep(self, now: float) -> None:
        order = self._order
        while order and order[0].oldest_at + KEEP_S <= now:
            route = self._drop_oldest()
            if route is not None and route.health.srtt_s is not None:
                route.health.lost += 1
        for stream_id, ledger in list(self._by_stream.items()):
            self.kept_bytes -= ledger.expire_again(now)
            if not ledger.slots and not ledger.again:
                ledger.is_listed = False
                del self._by_stream[stream_id]
        self._sweeping = None
        if self._by_stream:
            oldest_at = order[0].oldest_at + KEEP_S if order else now + KEEP_S
            self._sweeping = self._timers.at(max(oldest_at, now + KEEP_S / 10), self._sweep)

    # Reports

    def reported(self, node: NodeId, body: bytes, now: float) -> None:
        """Take in a report of *node*'s. Never raises."""
        if not self._rate.allows(node, now=now):
            self._counters["report_over_rate"] += 1
            return
        try:
            report = Report.decode(body)
        except WireError:
            self._counters["report_malformed"] += 1
            return
        ledger = self._by_stream.get(report.stream_id)
        reach = self._routing.get(node)
        if ledger is None or ledger.node_id != node or reach is None:
            self._counters["report_of_nothing_kept"] += 1
            return
        if report.highest >= ledger.end:
            self._counters["report_of_unsent"] += 1
            return
        reach.reports = True
        self._take(reach, ledger, report, now)

    def _take(self, reach: Reach, ledger: Ledger, report: Report, now: float) -> None:
        sent_at = ledger.sent_at(report.highest)
        heard, freed = ledger.take_reported(report, now)
        self.kept_bytes -= freed
        for route, said in heard.items():
            health = route.health
            health.heard(said.count, said.last_at)
            health.measured(now - said.first_at)
            if sent_at == said.last_at and (delay_s := now - sent_at - report.held_us / 1e6) >= 0:
                health.delayed(delay_s)
            if health.is_suspect or route.is_untried:
                self._clear(reach, route, now)
            if now - health.told_at >= TELL_ROUTER_S:
                self._tell_router(route, now)

    def _tell_router(self, route: Route, now: float) -> None:
        health = route.health
        sample = PathSample(delay_s=health.delay_s, delivered=health.delivered, lost=health.lost)
        health.told_at, health.delivered, health.lost = now, 0, 0
        self._weigher.path_measured(route.path, sample, now=now)

    # Silence

    def _watch(self, session: Session, route: Route, now: float) -> None:
        self._check_at(session, route, now + self._bound_s(route))

    def _bound_s(self, route: Route) -> float:
        return route.health.bound_s(route.rtt_s, self._floor_s)

    def _check_at(self, session: Session, route: Route, when: float) -> None:
        route.health.timer = self._timers.at(
            when, lambda now: self._check(session, route, when, now)
        )

    def _check(self, session: Session, route: Route, due: float, now: float) -> None:
        health = route.health
        health.timer = None
        if now - due > STALL_S:
            self._check_at(session, route, now + STALL_S)
            return
        reach = self._routing.get(session.node_id)
        current = self._session_of(session.node_id)
        if reach is None or current is None or route not in reach.routes:
            health.doubts.clear()
            return
        bound_s = self._bound_s(route)
        if health.doubts:
            health.doubts += current.ledger.unheard(route, health.doubts[-1])
        else:
            times = session.ledger.unheard(route, health.heard_until)
            if times and times[0] + bound_s > now + ROUNDING_S:
                self._check_at(current, route, times[0] + bound_s)
            if not times or times[0] + bound_s > now + ROUNDING_S:
                return
            if health.is_suspect or route.is_untried or not reach.reports:
                return
            self._doubt(reach, route, times, now)
        overdue_at = health.overdue_at()
        if overdue_at is not None and overdue_at + bound_s <= now + ROUNDING_S:
            self._suspect(current, reach, route, now)
            return
        if now - health.doubts[-1] > STALL_S:
            self._try_once(current, route, now)
        if health.timer is None:
            self._check_at(current, route, now + TICK_S)

    def _doubt(self, reach: Reach, route: Route, times: list[float], now: float) -> None:
        """Too little is overdue to leave *route*: be ready to, and send it again meanwhile."""
        self._counters["route_doubted"] += 1
        route.health.doubts = times
        self._routing.suspected(reach, route, now)
        if reach.sound:
            self._send_again(route, now)
            self._pump(reach, now)

    def _suspect(self, session: Session, reach: Reach, route: Route, now: float) -> None:
        self._counters["route_suspect"] += 1
        route.health.is_suspect = True
        route.health.doubts.clear()
        self._send_again(route, now)
        self._routing.suspected(reach, route, now)
        self._pump(reach, now)
        self._try(_Trial(session, reach, route, now), now)

    def untried(self, reach: Reach, route: Route, now: float) -> None:
        """*route* is new beside others: see whether it carries before packets depend on it."""
        session = self._session_of(reach.node_id)
        if session is None:
            self._routing.tried(reach, route, now)
        else:
            self._try(_Trial(session, reach, route, now), now)

    def _clear(self, reach: Reach, route: Route, now: float) -> None:
        health = route.health
        if health.trial is not None:
            health.trial.cancel()
            health.trial = None
        if route.is_untried:
            self._routing.tried(reach, route, now)
        if not health.is_suspect:
            return
        health.is_suspect = False
        health.doubts.clear()
        self._counters["route_back"] += 1
        self._routing.changed(reach, now)
        self.reachable(reach, now)

    def _try(self, trial: _Trial, now: float) -> None:
        """Try a route as long as it is new or suspect and matters to anybody."""
        session, reach, route = trial.session, trial.reach, trial.route
        current = self._session_of(session.node_id)
        if not (route.health.is_suspect or route.is_untried) or current is None:
            return
        if route not in reach.routes:
            return
        if self._routing.get(session.node_id) is not reach:
            return
        if now - current.last_sent > FORGIVE_S:
            self._clear(reach, route, now)
            return
        has_other = any(other is not route and not other.is_suspect for other in reach.routes)
        if has_other and not route.is_direct and now - trial.since > GIVE_UP_S:
            self._routing.give_up(reach, route, now)
            return
        self._try_once(current, route, now)
        wait_s = TRY_S[min(trial.tries, len(TRY_S) - 1)]
        trial.tries += 1
        route.health.trial = self._timers.at(now + wait_s, lambda now: self._try(trial, now))

    def _try_once(self, session: Session, route: Route, now: float) -> None:
        """Send an empty frame, which the peer reports like any with packets."""
        try:
            frame = session.out.seal(_EMPTY, now=now)
        except Spent:
            return
        if route.send(frame, now=now):
            self.kept(session, route, frame, now)

    # Sending again

    def lost(self, reach: Reach, route: Route, now: float) -> None:
        """*route* is gone, or its neighbour is silent: what it took is to be sent again."""
        if route.health.timer is not None:
            route.health.timer.cancel()
            route.health.timer = None
        self._send_again(route, now)
        self._pump(reach, now)

    def reachable(self, reach: Reach, now: float) -> None:
        """There is a route that works: send what waits for one, or took one that does not."""
        for route in reach.routes:
            if route.is_doubtful:
                self._send_again(route, now)
        self._pump(reach, now)

    def forget(self, session: Session) -> None:
        """The session is closed: nothing of it is sent any more."""
        self.kept_bytes -= session.ledger.forget()

    def drop_idle(self, now: float) -> None:
        """Forget the rates of peers that report no more."""
        self._rate.drop_idle(now)

    def _send_again(self, route: Route, now: float) -> None:
        for ledger in self._by_stream.values():
            ledger.send_again(route, until=now + AGAIN_S)

    def _pump(self, reach: Reach, now: float) -> None:
        """Send over a route that works what has been sent over one that does not."""
        waiting = [
            again
            for ledger in self._by_stream.values()
            if ledger.again and ledger.node_id == reach.node_id
            for again in ledger.again.values()
            if again.route is None and again.until > now
        ]
        # Who shares a relay with a way that fails may be about to fail with it.
        failing = {node for route in reach.routes if route.is_doubtful for node in route.relays}
        routes = sorted(
            reach.sound, key=lambda r: (r.is_untried, len(failing.intersection(r.relays)))
        )
        if not waiting or not routes or reach.node_id in self._pumping:
            return
        room = AGAIN_BYTES
        for again in waiting:
            room -= len(again.frame)
            if room < 0 or not routes[0].send(again.frame, now=now):
                self._pumping[reach.node_id] = self._timers.at(
                    now + AGAIN_PAUSE_S, lambda now: self._pump_on(reach, now)
                )
                return
            again.route = routes[0]
            # Measured end to end: what relays say of their hops may be anything.
            again.told_apart_until = now + SOONEST * (routes[0].health.delay_s or 0.0)
            self._counters["frame_sent_again"] += 1

    def _pump_on(self, reach: Reach, now: float) -> None:
        del self._pumping[reach.node_id]
        if self._routing.get(reach.node_id) is reach:
            self._pump(reach, now)
