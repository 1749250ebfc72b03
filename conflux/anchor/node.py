"""A node's whole protocol, put together: what comes in, which stage it goes to, in packet order.

    TUN burst ─► Egress ─► Session.out ─► Reach ─► Route ─► Neighbour ─► tether
    tether ─► Relay ─► tether                                  (label of another node)
    tether ─► Ingress ─► Session.inbound ─► TUN                (label of this node)
    in-band message, news of a neighbour ─► Adjacency ─► Routing, Relay, Seeking
    control message ─► Exchange ─► Sessions, Neighbours
                    ─► Grants ─► Sessions, what is served

The stages know each other only through the callbacks wired here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from conflux.anchor.adjacency import Adjacency
from conflux.anchor.asker import Asker
from conflux.anchor.attempts import Attempts
from conflux.anchor.egress import Egress
from conflux.anchor.exchange import Exchange
from conflux.anchor.grants import GUARDIAN_HANDLE, Grants
from conflux.anchor.handshake import FEATURES, Standing
from conflux.anchor.icmp_errors import IcmpErrors
from conflux.anchor.idle import IdleTimes
from conflux.anchor.ingress import Ingress
from conflux.anchor.packet_auth import PacketAuth
from conflux.anchor.path_mtu import PathMtu
from conflux.anchor.post import Flooding, Post
from conflux.anchor.quota import Relaying
from conflux.anchor.reach import Reach, Route
from conflux.anchor.relay import Relay
from conflux.anchor.reporter import Reporter
from conflux.anchor.resend import Resender
from conflux.anchor.route import Routing
from conflux.anchor.seek import Seeking
from conflux.anchor.sessions import Sessions
from conflux.anchor.step import Established
from conflux.anchor.stream import InStream, Session
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.anchor.timers import Timers
from conflux.anchor.weigher import Weigher
from conflux.anchor.world import World
from conflux.api import NodeId, Router, WireError
from conflux.wire import features
from conflux.wire.control import (
    VERSION,
    AuthLevel,
    Kind,
    envelope,
    read_envelope,
)
from conflux.wire.credentials import Grant
from conflux.wire.frame import LABEL_HERE, MessageType, read_outer

SILENCE_FLOOR_S = 0.25
"""No route and no tether is suspect for less silence: two busy cores let a process wait so long."""
_REPORT = bytes((VERSION, Kind.REPORT))


class Anchor:
    """The protocol of one node. Not thread safe: one event loop calls it and gives it the time."""

    def __init__(
        self,
        standing: Standing,
        world: World,
        router: Router,
        *,
        tether_kinds: Sequence[str],
        auth_level: AuthLevel,
        now: float,
        mtu_bytes: int = features.DEFAULT_MTU_BYTES,
        relaying: Relaying = Relaying(),  # noqa: B008 (frozen)
        idle: IdleTimes = IdleTimes(),  # noqa: B008 (frozen)
        silence_floor_s: float = SILENCE_FLOOR_S,
    ) -> None:
        self.auth_level = auth_level
        """What this node offers; the stricter end of a session decides."""
        self.timers = Timers()
        self.counters: Counter[str] = Counter()
        self._world = world
        self._idle = idle
        self.grants = Grants(standing, world, self.counters, on_new=self._granted, now=now)
        me, entropy, counters = standing.node_id, standing.entropy, self.counters
        weigher = Weigher(router, counters)
        weigher.start(me, int.from_bytes(entropy(8), "big"))
        self.neighbours = Neighbours(
            self.timers,
            world.now,
            counters,
            on_datagram=self._datagram,
            floor_s=silence_floor_s,
        )
        self.flooding = Flooding(
            self.neighbours,
            entropy,
            counters,
            own_handle=lambda: self.standing.grant.control.handle,
            own_tags=self._own_tags,
            shared_tag=lambda: self.standing.grant.control.shared_tag,
            is_relay=relaying.enabled,
            deliver=lambda tag, sender, message, now: self.take_control(
                tag, sender, message, now=now
            ),
        )
        self.post = Post(world, self.flooding, tell=self._tell)
        attempts = Attempts()
        self.exchange = Exchange(
            lambda: self.standing,
            world,
            self.timers,
            self.wall,
            counters,
            post=self.post,
            tether_kinds=tether_kinds,
            has_tether=lambda node: self.neighbours.get(node) is not None,
            join_tether=self.neighbours.join,
            attempts=attempts,
            admits=self._admits,
            on_established=self._established,
            on_through=self._through,
            on_opened_again=self._opened_again,
            knows=self._knows,
            ask_tether=self._ask_tether,
            auth_level=auth_level,
            features=FEATURES | features.of_mtu(mtu_bytes),
        )
        self.asker = Asker(
            lambda: self.standing,
            self.exchange.asking,
            self.neighbours,
            attempts,
            has_streams=lambda tag: self.sessions.by_tag(tag) is not None,
        )
        self.icmp = IcmpErrors(world, counters)
        path_mtu = PathMtu(mtu_bytes, self.icmp, counters)
        self.ingress = Ingress(
            world,
            counters,
            on_message=self._in_stream,
            on_owed=self._report_owed,
            path_mtu=path_mtu,
        )
        self.packet_auth = PacketAuth(
            lambda: self.standing,
            world,
            self.timers,
            counters,
            tell=self._tell_node,
            deliver=self.ingress.deliver,
            on_forged=self._forged,
            on_lapsed=self._lapsed,
            on_silent=lambda session, now: self.sessions.lapsed(
                session, "checkpoint not acknowledged", now
            ),
        )
        self.egress = Egress(
            self.timers,
            counters,
            ask=lambda egresser, now: self.asker.address(
                egresser.address,
                failed=lambda now: self.egress.ask_failed(egresser, now),
                now=now,
            ),
            want=self._want,
            on_sent=self._sent,
            on_spent=self._spent,
            path_mtu=path_mtu,
            icmp=self.icmp,
        )
        self.routing = Routing(
            me,
            world,
            self.timers,
            self.neighbours,
            weigher,
            entropy,
            idle=idle,
            ask_relay=self.asker.relay,
            ask_node=self.asker.tether,
            seek=self._seek,
            on_reachable=self._reachable,
            on_lost=self._route_lost,
            on_untried=self._route_untried,
        )
        self.resender = Resender(
            self.timers,
            counters,
            self.routing,
            weigher,
            session_of=self._session_of,
            floor_s=silence_floor_s,
        )
        self.relay = Relay(
            me,
            self.timers,
            self.neighbours,
            entropy,
            counters,
            relaying=relaying,
            ask_node=self.asker.tether,
            accepts_from=lambda node: node in self.sessions,
            on_accepted=self.routing.hint,
        )
        self.reporter = Reporter(
            self.timers,
            counters,
            session_of=self._session_of,
            want=self._want,
            path_of=self.relay.path_of,
            tell=lambda session, reach, route, message, now: self.egress.tell(
                session, reach, message, route=route, now=now
            ),
        )
        self.seeking = Seeking(
            me,
            self.timers,
            self.neighbours,
            attempts,
            entropy,
            counters,
            is_relay=relaying.enabled,
            ask_relay=self.asker.relay,
            ask_node=self.asker.tether,
            accepts_from=lambda node: node in self.sessions,
            on_found=self.routing.found,
        )
        self.sessions = Sessions(
            lambda: self.standing,
            world,
            self.timers,
            self.wall,
            counters,
            egress=self.egress,
            ingress=self.ingress,
            packet_auth=self.packet_auth,
            resender=self.resender,
            routing=self.routing,
            neighbours=self.neighbours,
            idle=idle,
            ask=self.asker.rekey,
        )
        self.adjacency = Adjacency(
            self.neighbours,
            counters,
            self.wall,
            asker=self.asker,
            flooding=self.flooding,
            relay=self.relay,
            routing=self.routing,
            seeking=self.seeking,
            sessions=self.sessions,
            idle=idle,
        )
        self.neighbours.listen(self.adjacency)
        self._serve(standing.grant)
        self.timers.at(now + idle.housekeeping_s, self._keep_house)

    @property
    def standing(self) -> Standing:
        return self.grants.standing

    def wall(self, now: float) -> float:
        """Guardian's time, Unix seconds."""
        return self.grants.wall(now)

    # What comes in

    def take_burst(self, burst: memoryview, *, now: float) -> None:
        """Packets from the TUN device: a layout byte, then records.

        *burst* is writable, may be longer than one frame holds, and is altered.
        """
        self.egress.take(burst, now=now)

    def take_control(self, tag: bytes | None, sender: bytes, message: bytes, *, now: float) -> None:
        """A message to *tag* from the control channel; None: from inside a stream. Never raises."""
        try:
            kind, body = read_envelope(message)
        except WireError:
            self.counters["control_malformed"] += 1
            return
        from_guardian = sender == GUARDIAN_HANDLE and tag is not None
        if kind is Kind.GRANT and from_guardian:
            self.grants.pushed(body)
        elif kind is Kind.REVOCATIONS and from_guardian:
            self.grants.pushed_revocations(body)
        elif kind in (Kind.GRANT, Kind.REVOCATIONS, Kind.GOODBYE):
            # From anybody but Guardian; a goodbye from outside the stream that it ends.
            self.counters["control_malformed"] += 1
        elif kind is Kind.REPORT:
            self.counters["report_outside_a_stream"] += 1
        else:
            self.exchange.received(kind, tag, sender, body, now)

    def renew(self, standing: Standing, *, now: float) -> bool:
        """Take on a new grant, with which sessions of teams that are not ours any more end.

        False if a newer one was pushed while the login was under way: log in again.
        """
        return self.grants.renew(standing, now=now)

    def drop_keys(self, *, now: float, slept_s: float = 0.0) -> None:
        """Forget every key of streams, tethers and handshakes, and seal nothing more under any.

        For a machine that may not be the only one with this memory: a VM that was cloned, or went
        back to a snapshot, would use nonces a second time. Whoever there was traffic with is asked
        for new streams at once. The identity stays. *slept_s*: for how long our clock stood still.
        """
        self.counters["keys_dropped"] += 1
        former = self.sessions.peers_in_use(now)
        self.grants.slept(slept_s)
        # First of all: what the end of a session would tell neighbours must not get out.
        self.neighbours.abandon_tethers()
        self.exchange.forget()
        self.sessions.close_all("keys dropped", now)
        for neighbour in self.neighbours.all():
            self.neighbours.drop(neighbour, "keys dropped", now=now)
        self.egress.start_over(now)
        for node in former:
            self.asker.streams(node, in_haste=True, now=now)

    def close(self, *, now: float) -> None:
        """Close every session, route and tether; erase keys. The identity is the caller's."""
        self.egress.forget()
        for session in self.sessions.all():
            self._tell(session.tag, envelope(Kind.GOODBYE, b""), now)
            self.sessions.close(session, "node stops", now)
        for neighbour in self.neighbours.all():
            self.neighbours.drop(neighbour, "node stops", now=now)
        self.exchange.forget()

    # Grants

    def _granted(self, now: float) -> None:
        self._serve(self.standing.grant)
        self.egress.retry()
        self.exchange.asking.teams_changed(self.standing.grant.teams, now)
        self.sessions.teams_changed(now)
        self.sessions.drop_revoked(now)
        for node in self.exchange.answering.now_friends(now):
            if node not in self.sessions:
                self.asker.streams(node, in_haste=True, now=now)
        self.neighbours.drop_revoked(self.standing.revoked, now=now)

    def _serve(self, grant: Grant) -> None:
        interfaces = grant.certificate.addresses
        own = [interface.packed for interface in interfaces]
        self.egress.serve([i.network for i in interfaces] + list(grant.networks), own)
        self.ingress.accept_for(own)

    # Sending control messages

    def _tell(self, tag: bytes, message: bytes, now: float) -> bool:
        session = self.sessions.by_tag(tag)
        reach = self.routing.get(session.node_id) if session is not None else None
        if session is None or reach is None:
            return False
        return self.egress.tell(session, reach, message, now=now)

    def _tell_node(self, node: NodeId, message: bytes, now: float) -> None:
        session = self.sessions.get(node)
        if session is not None:
            self.reporter.answer(session, message, now)

    def _own_tags(self) -> frozenset[bytes]:
        control = self.standing.grant.control
        return frozenset((*control.tags, control.handle))

    def _in_stream(self, session: Session, message: bytes, now: float) -> None:
        """A control message from inside a stream: its sender is certain."""
        if self.packet_auth.received(session, message, now):
            return
        if message.startswith(_REPORT):
            self.resender.reported(session.node_id, message[len(_REPORT) :], now)
        elif message != envelope(Kind.GOODBYE, b""):
            self.take_control(None, session.tag, message, now=now)
        elif self.sessions.get(session.node_id) is session:
            self.sessions.close(session, "peer stops", now)

    def _knows(self, sender: bytes) -> bool:
        """Tell whether we have a session with the node of this handle, or NodeId."""
        return self.sessions.by_tag(sender) is not None or sender in self.sessions

    def _ask_tether(self, node: NodeId, now: float) -> None:
        self.asker.tether(node, now)

    # Routes and reports

    def _seek(self, target: NodeId, relays: int, avoid: Sequence[NodeId], now: float) -> None:
        self.seeking.seek(target, relays=relays, avoid=avoid, now=now)

    def _want(self, session: Session, now: float) -> Reach:
        return self.routing.want(
            session.peer, is_ready=session.confirmed, answered_s=session.answered_s, now=now
        )

    def _route_lost(self, reach: Reach, route: Route, now: float) -> None:
        self.resender.lost(reach, route, now)

    def _route_untried(self, reach: Reach, route: Route, now: float) -> None:
        self.resender.untried(reach, route, now)

    def _sent(self, session: Session, route: Route, frame: bytearray, now: float) -> None:
        self.resender.kept(session, route, frame, now)

    def _report_owed(self, stream: InStream, now: float) -> None:
        self.reporter.owed(stream, now)

    # Sessions

    def _session_of(self, node: NodeId) -> Session | None:
        return self.sessions.get(node)

    def _admits(self, done: Established, now: float) -> bool:
        return self.sessions.admit(done, now)

    def _established(self, done: Established, now: float) -> None:
        self.neighbours.certified(done.peer)
        self.sessions.established(done, now)

    def _through(self, done: Established, now: float) -> None:
        self.sessions.through(done, now)

    def _opened_again(self, node: NodeId, now: float) -> None:
        self.sessions.greet_again(node, now)

    def _spent(self, session: Session, now: float) -> None:
        self.sessions.spent(session, now)

    def _reachable(self, reach: Reach, now: float) -> None:
        self.sessions.reachable(reach, now)
        self.resender.reachable(reach, now)
        self.egress.flush(reach, now)

    def _forged(self, session: Session, now: float) -> None:
        self.sessions.forged(session, now)

    def _lapsed(self, session: Session, now: float) -> None:
        self.counters["frames_not_vouched_for"] += 1
        self.sessions.lapsed(session, "packets not vouched for", now)

    # Frames

    def _datagram(self, neighbour: Neighbour, message: memoryview) -> None:
        now = self._world.now()
        try:
            kind, hop_limit, label = read_outer(message)
            self.neighbours.heard(neighbour, now)
            neighbour.received_bytes += len(message)
            if kind is MessageType.DATA:
                self._data(neighbour, message, hop_limit, label, now)
            elif kind is MessageType.PROBE:
                self.neighbours.answer_probe(neighbour, message)
            else:
                self.neighbours.probe_answered(neighbour, message, now)
        except WireError:
            self.counters["tether_malformed"] += 1

    def _data(
        self, neighbour: Neighbour, message: memoryview, hop_limit: int, label: int, now: float
    ) -> None:
        neighbour.last_data = now
        came_by = b""
        if label != LABEL_HERE:
            hop = neighbour.labels.get(label)
            if hop is None:
                self.relay.complain(neighbour, label, now=now)
                return
            hop.last_used = now
            if hop.next_hop is not None:
                self.relay.forward(message, hop_limit, hop, now=now)
                return
            came_by = hop.route_id
        session = self.ingress.take(message, now=now, came_by=came_by)
        if session is None:
            if not self.ingress.knows(message):
                self.relay.complain(neighbour, label, now=now)
        elif not session.confirmed:
            self.exchange.asking.confirmed(session.node_id)
            self.sessions.confirm(session, now)

    # Idleness

    def _keep_house(self, now: float) -> None:
        self.grants.drop_idle(now)
        self.sessions.keep_house(now)
        self.routing.drop_idle(now)
        self.relay.drop_idle(now)
        self.egress.drop_idle(now)
        self.icmp.drop_idle(now)
        self.resender.drop_idle(now)
        self.exchange.drop_idle(now)
        self.asker.drop_idle(now)
        self.flooding.drop_idle(now)
        self.seeking.drop_idle(now)
        self.adjacency.keep_house(now)
        self.timers.at(now + self._idle.housekeeping_s, self._keep_house)
