"""A node's whole protocol, put together: what comes in, which stage it goes to, in packet order.

    TUN burst ─► Egress ─► Session.out ─► Reach ─► Route ─► Neighbour ─► tether
    tether ─► Relay ─► tether                                  (label of another node)
    tether ─► Ingress ─► Session.inbound ─► TUN                (label of this node)
    control message ─► Exchange ─► Sessions, Neighbours
                    ─► Grants ─► Sessions, what is served

The stages know each other only through the callbacks wired here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from conflux.anchor.attempts import Attempts
from conflux.anchor.egress import Egress, Egresser
from conflux.anchor.exchange import Exchange
from conflux.anchor.grants import GUARDIAN_HANDLE, Grants
from conflux.anchor.handshake import FEATURES, Standing
from conflux.anchor.icmp_errors import IcmpErrors
from conflux.anchor.identity import address_tag, due_again_s, node_tag, relay_tag
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
from conflux.api import LinkSample, NodeId, Path, Router, WireError
from conflux.wire import features, inband
from conflux.wire.control import (
    VERSION,
    AuthLevel,
    Kind,
    Purpose,
    Target,
    TargetKind,
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
            on_inband=self._inband,
            on_up=self._neighbour_up,
            on_down=self._neighbour_down,
            on_sample=self._measured,
            on_silent=self._neighbour_silent,
            on_back=self._neighbour_back,
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
        self._attempts = Attempts()
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
            attempts=self._attempts,
            admits=self._admits,
            on_established=self._established,
            on_through=self._through,
            on_opened_again=self._opened_again,
            knows=self._knows,
            ask_tether=self._ask_node,
            auth_level=auth_level,
            features=FEATURES | features.of_mtu(mtu_bytes),
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
            ask=self._ask_address,
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
            ask_relay=self._ask_relay,
            ask_node=self._ask_node,
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
        self.reporter = Reporter(
            self.timers,
            counters,
            session_of=self._session_of,
            want=self._want,
            path_of=self._path_of,
            tell=lambda session, reach, route, message, now: self.egress.tell(
                session, reach, message, route=route, now=now
            ),
        )
        self.relay = Relay(
            me,
            self.timers,
            self.neighbours,
            entropy,
            counters,
            relaying=relaying,
            ask_node=self._ask_node,
            accepts_from=lambda node: node in self.sessions,
            on_accepted=self.routing.hint,
        )
        self.seeking = Seeking(
            me,
            self.timers,
            self.neighbours,
            self._attempts,
            entropy,
            counters,
            is_relay=relaying.enabled,
            ask_relay=self._ask_relay,
            ask_node=self._ask_node,
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
            ask=self._rekey,
        )
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
            self._ask_streams(node, in_haste=True, now=now)

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
                self._ask_streams(node, in_haste=True, now=now)
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
            # Whoever only receives keeps a way back: without answers its peer would give up.
            session.last_sent = now
            reach = self.routing.want(session.peer, is_ready=session.confirmed, now=now)
            # What answers frames goes back the way on which they came: that one is seen to work.
            inbound = session.inbound
            route = self.reporter.way_back(reach, inbound) if inbound is not None else None
            self.egress.tell(session, reach, message, route=route, now=now)

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

    # Asking

    def _ask_address(self, egresser: Egresser, now: float) -> bool:
        return self.exchange.asking.ask(
            Target(TargetKind.ADDRESS, egresser.address),
            address_tag(self.standing.grant.plane_key, egresser.address),
            purpose=Purpose.STREAM,
            failed=lambda now: self.egress.ask_failed(egresser, now),
            now=now,
        )

    def _ask_node(self, node: NodeId, now: float) -> None:
        if self.neighbours.get(node) is None:
            self._ask_tether(node, now)

    def _ask_tether(self, node: NodeId, now: float, kinds: Sequence[str] | None = None) -> None:
        target = Target(TargetKind.NODE, node)
        if self.exchange.asking.is_asking(Purpose.TETHER, target):
            return
        tag = node_tag(self.standing.grant.plane_key, node)
        self.exchange.asking.ask(
            target,
            tag,
            purpose=Purpose.TETHER,
            kinds=kinds,
            in_stream=self.sessions.by_tag(tag) is not None,
            failed=lambda _: None,
            now=now,
        )

    def _rekey(self, session: Session, *, in_haste: bool, now: float) -> bool:
        # An unconfirmed peer may not have the keys of the stream.
        in_stream = session.confirmed
        return self._ask_streams(session.node_id, in_stream=in_stream, in_haste=in_haste, now=now)

    def _ask_streams(
        self, node: NodeId, *, in_stream: bool = False, in_haste: bool, now: float
    ) -> bool:
        """Ask *node* for streams, unless that is under way; False if too many Asks are out."""
        target = Target(TargetKind.NODE, node)
        return self.exchange.asking.is_asking(Purpose.STREAM, target) or self.exchange.asking.ask(
            target,
            node_tag(self.standing.grant.plane_key, node),
            purpose=Purpose.STREAM,
            in_stream=in_stream,
            in_haste=in_haste,
            failed=lambda _: None,
            now=now,
        )

    def _ask_relay(self, avoid: Sequence[NodeId], now: float) -> None:
        known = [neighbour.node_id for neighbour in self.neighbours.all()]
        self.exchange.asking.ask(
            Target(TargetKind.ANY_RELAY),
            relay_tag(self.standing.grant.plane_key),
            purpose=Purpose.TETHER,
            avoid=self._attempts.avoid(avoid, known, now=now),
            failed=lambda _: None,
            now=now,
        )

    def _seek(self, target: NodeId, relays: int, avoid: Sequence[NodeId], now: float) -> None:
        self.seeking.seek(target, relays=relays, avoid=avoid, now=now)

    def _want(self, session: Session, now: float) -> Reach:
        return self.routing.want(session.peer, is_ready=session.confirmed, now=now)

    # Reports

    def _sent(self, session: Session, route: Route, frame: bytearray, now: float) -> None:
        self.resender.kept(session, route, frame, now)

    def _report_owed(self, stream: InStream, now: float) -> None:
        self.reporter.owed(stream, now)

    def _path_of(self, route_id: bytes) -> Path | None:
        return self.relay.path_of(route_id)

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

    # Packet authentication

    def _forged(self, session: Session, now: float) -> None:
        """Packets came in that the peer did not sign: somebody else has this stream's key."""
        self.counters["security_frame_forged"] += 1
        self._world.alarmed(session.node_id, "a frame was forged under the stream's key")
        self.sessions.forged(session, now)

    def _lapsed(self, session: Session, now: float) -> None:
        self.counters["frames_not_vouched_for"] += 1
        self.sessions.lapsed(session, "packets not vouched for", now)

    # Tethers

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

    def _inband(self, neighbour: Neighbour, message: inband.Message, now: float) -> None:
        if isinstance(message, inband.SetupOk):
            ours = self.routing.set_up(neighbour, message, now)
        elif isinstance(message, inband.SetupFailed):
            ours = self.routing.set_up_failed(neighbour, message, now)
        elif isinstance(message, inband.Teardown):
            ours = self.routing.torn_down(neighbour, message.route_id, now)
        elif isinstance(message, inband.LabelUnknown) and message.label == LABEL_HERE:
            self.sessions.forgotten_by(neighbour.node_id, now)
            ours = True
        elif isinstance(message, inband.Flood):
            self.flooding.received(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.Seek):
            self.seeking.received(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.Found):
            self.seeking.found(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.LabelUnknown):
            ours = self.routing.label_unknown(neighbour, message.label, now)
        else:
            ours = False
        if not ours:
            self.relay.received(neighbour, message, now)

    def _neighbour_up(self, neighbour: Neighbour, now: float) -> None:
        self.relay.neighbour_up(neighbour, now)
        self.routing.neighbour_up(neighbour, now)
        self.seeking.neighbour_up(neighbour, now)

    def _neighbour_silent(self, neighbour: Neighbour, now: float) -> None:
        self.counters["neighbour_suspect"] += 1
        self.routing.neighbour_silent(neighbour, now)

    def _neighbour_back(self, neighbour: Neighbour, now: float) -> None:
        self.routing.neighbour_back(neighbour, now)

    def _route_lost(self, reach: Reach, route: Route, now: float) -> None:
        self.resender.lost(reach, route, now)

    def _route_untried(self, reach: Reach, route: Route, now: float) -> None:
        self.resender.untried(reach, route, now)

    def _neighbour_down(self, neighbour: Neighbour, reason: str, now: float) -> None:
        self.counters[f"neighbour_down: {reason}"] += 1
        self.relay.neighbour_down(neighbour, now)
        self.routing.neighbour_down(neighbour, now)
        self.seeking.neighbour_down(neighbour)

    def _measured(self, neighbour: Neighbour, sample: LinkSample, now: float) -> None:
        self.routing.measured(neighbour, sample, now)

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
        self.flooding.drop_idle(now)
        self.seeking.drop_idle(now)
        for neighbour in self.neighbours.all():
            self._check_neighbour(neighbour, now)
        self.timers.at(now + self._idle.housekeeping_s, self._keep_house)

    def _check_neighbour(self, neighbour: Neighbour, now: float) -> None:
        in_use = self.routing.uses(neighbour) or self.relay.uses(neighbour)
        if self.wall(now) >= neighbour.peer.certificate.not_after:
            self.neighbours.drop(neighbour, "certificate ended", now=now)
        elif not in_use and now - neighbour.last_data > self._idle.tether_s:
            self.neighbours.drop(neighbour, "idle", now=now)
        elif in_use and self.wall(now) >= neighbour.certify_at:
            # It has a new one by now. No kinds: nothing but certificates is exchanged.
            neighbour.certify_at = self.wall(now) + due_again_s(neighbour.peer.certificate)
            self._ask_tether(neighbour.node_id, now, kinds=())
