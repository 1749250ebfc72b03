"""A node's whole protocol, put together: what comes in, which stage it goes to, in packet order.

    TUN burst ─► Egress ─► Session.out ─► Reach ─► Route ─► Neighbour ─► tether
    tether ─► Relay ─► tether                                  (label of another node)
    tether ─► Ingress ─► Session.inbound ─► TUN                (label of this node)
    control message ─► Exchange ─► Session, Neighbour

The stages know each other only through the callbacks wired here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from conflux.anchor.egress import Egress, Egresser
from conflux.anchor.exchange import OPEN_DEADLINE_S, Established, Exchange
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import (
    PUSH_BINDING,
    Peer,
    address_tag,
    guardian_fingerprint,
    node_tag,
    open_grant,
    relay_tag,
)
from conflux.anchor.ingress import Ingress
from conflux.anchor.packet_auth import PacketAuth
from conflux.anchor.post import Flooding
from conflux.anchor.relay import Relay
from conflux.anchor.reporter import Reporter
from conflux.anchor.resend import Resender
from conflux.anchor.route import Reach, Route, Routing
from conflux.anchor.stream import REKEY_S, InStream, OutStream, Session
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.anchor.timers import Timers
from conflux.anchor.weigher import Weigher
from conflux.anchor.world import World
from conflux.api import LinkSample, NodeId, Path, Router, WireError
from conflux.wire import inband
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
from conflux.wire.credentials import Grant, TeamKey
from conflux.wire.frame import LABEL_HERE, MessageType, read_outer

GUARDIAN_HANDLE = bytes(16)
"""The handle under which Guardian publishes grants; the Master gives it to no node."""

STREAM_IDLE_S = 60.0
INBOUND_IDLE_S = 90.0
"""Longer than STREAM_IDLE_S: the sender forgets first, so that nobody sends into the void."""
TETHER_IDLE_S = 75.0
NO_ROUTE_S = 10.0
"""A session that no route reaches for this long is closed: the peer may have started anew."""
SUPERSEDED_S = OPEN_DEADLINE_S
"""How long a replaced inbound stream still opens frames: the peer may not know yet."""
REKEY_TURN_S = 10.0
"""How much later the greater NodeId begins to rekey, if the smaller one has not."""
REKEY_RETRY_S = 10.0
AT_ONCE_S = 15.0
"""Two handshakes of one pair within this time: the one asked for later stands, at both ends."""
UNCONFIRMED_S = 12.0
"""A session whose peer sent no frame for this long is closed: it did not get our Open."""
HOUSEKEEPING_S = 5.0
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
        silence_floor_s: float = SILENCE_FLOOR_S,
    ) -> None:
        self.standing = standing
        self.auth_level = auth_level
        """What this node offers; the stricter end of a session decides."""
        self.timers = Timers()
        self.counters: Counter[str] = Counter()
        self.sessions: dict[NodeId, Session] = {}
        self._successors: dict[NodeId, Session] = {}
        """Rekeyed sessions, which take over once the peer has shown that it has the keys."""
        self._sessions_by_tag: dict[bytes, Session] = {}
        self._opening_grant = False
        self._waiting_grant: bytes | None = None
        self._world = world
        self._clock_offset_s = standing.grant.time_ms / 1000 - now
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
        self.exchange = Exchange(
            lambda: self.standing,
            world,
            self.timers,
            self.wall,
            counters,
            post=self._post,
            post_in_stream=self._post_in_stream,
            post_every_way=self._post_every_way,
            tether_kinds=tether_kinds,
            has_tether=lambda node: self.neighbours.get(node) is not None,
            join_tether=self.neighbours.join,
            on_established=self._established,
            on_opened_again=self._opened_again,
            auth_level=auth_level,
        )
        self.flooding = Flooding(
            self.neighbours,
            entropy,
            counters,
            own_handle=lambda: self.standing.grant.control.handle,
            own_tags=self._own_tags,
            shared_tag=lambda: self.standing.grant.control.shared_tag,
            deliver=lambda sender, message, now: self.take_control(sender, message, now=now),
        )
        self.ingress = Ingress(
            world, counters, on_message=self._in_stream, on_owed=self._report_owed
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
            on_silent=lambda session, now: self._close(session, "checkpoint not acknowledged", now),
        )
        self.egress = Egress(
            self.timers,
            counters,
            ask=self._ask_address,
            want=self._want,
            on_sent=self._sent,
            on_spent=lambda session, now: self._close(session, "key spent", now),
        )
        self.routing = Routing(
            me,
            world,
            self.timers,
            self.neighbours,
            weigher,
            entropy,
            ask_relay=self._ask_relay,
            ask_node=self._ask_node,
            on_reachable=self._reachable,
            on_lost=self._route_lost,
        )
        self.resender = Resender(
            self.timers,
            counters,
            self.routing,
            weigher,
            session_of=self.sessions.get,
            floor_s=silence_floor_s,
        )
        self.reporter = Reporter(
            self.timers,
            counters,
            session_of=self.sessions.get,
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
            ask_node=self._ask_node,
            accepts_from=lambda node: node in self.sessions,
            on_accepted=self.routing.hint,
        )
        self._serve(standing.grant)
        self.timers.at(now + HOUSEKEEPING_S, self._keep_house)

    def wall(self, now: float) -> float:
        """Guardian's time, Unix seconds: its clock at login, carried on by ours."""
        return now + self._clock_offset_s

    # What comes in

    def take_burst(self, superframe: memoryview, *, now: float) -> None:
        """Packets from the TUN device: a layout byte, then records."""
        self.egress.take(superframe, now=now)

    def take_control(
        self, sender: bytes, message: bytes, *, in_stream: bool = False, now: float
    ) -> None:
        """A message from the control channel, or from inside a stream. Never raises."""
        try:
            kind, body = read_envelope(message)
        except WireError:
            self.counters["control_malformed"] += 1
            return
        if kind is Kind.GRANT and sender == GUARDIAN_HANDLE and not in_stream:
            self._take_grant(body)
        elif kind in (Kind.GRANT, Kind.GOODBYE):
            # A grant from anybody but Guardian; a goodbye from outside the stream that it ends.
            self.counters["control_malformed"] += 1
        elif kind is Kind.REPORT:
            self.counters["report_outside_a_stream"] += 1
        else:
            self.exchange.received(kind, sender, body, in_stream=in_stream, now=now)

    def renew(self, standing: Standing, *, now: float) -> bool:
        """Take on a new grant: sessions whose common teams are not all still ours are closed.

        False if a newer one was pushed while the login was under way: log in again.
        """
        if standing.grant.revision < self.standing.grant.revision:
            return False
        self._clock_offset_s = standing.grant.time_ms / 1000 - now
        self._take_on(standing, now)
        return True

    def close(self, *, now: float) -> None:
        """Close every session, route and tether; erase keys. The identity is the caller's."""
        self.egress.forget()
        for session in list(self.sessions.values()):
            self._tell(session.tag, envelope(Kind.GOODBYE, b""), now)
            self._close(session, "node stops", now)
        for neighbour in self.neighbours.all():
            self.neighbours.drop(neighbour, "node stops", now=now)
        self.exchange.forget()

    # Grants

    def _take_grant(self, sealed: bytes) -> None:
        """Open a grant in a thread, one at a time; of those that wait only the newest counts."""
        if self._opening_grant:
            self._waiting_grant = sealed
            return
        self._opening_grant = True
        me = self.standing
        fingerprint = guardian_fingerprint(me.guardian.public)
        self._world.defer(
            lambda: open_grant(
                me.crypto, me.identity, sealed, binding=PUSH_BINDING, fingerprint=fingerprint
            ),
            lambda opened, now: self._granted(opened[0], now),
            lambda error, _: self._grant_false(error),
        )

    def _granted(self, grant: Grant, now: float) -> None:
        self._grant_opened()
        me = self.standing
        if grant.revision > me.grant.revision:
            # Guardian's clock, but the Master may have held the message back: it cannot have come
            # early, so it may set our clock forward only.
            self._clock_offset_s = max(self._clock_offset_s, grant.time_ms / 1000 - now)
            standing = Standing(me.crypto, me.entropy, me.identity, me.guardian, grant)
            self._take_on(standing, now)
            self._world.granted(grant)

    def _grant_false(self, error: WireError) -> None:
        self.counters[f"grant: {error}"] += 1
        self._grant_opened()

    def _grant_opened(self) -> None:
        self._opening_grant = False
        waiting, self._waiting_grant = self._waiting_grant, None
        if waiting is not None:
            self._take_grant(waiting)

    def _take_on(self, standing: Standing, now: float) -> None:
        self.standing = standing
        self._serve(standing.grant)
        self.egress.retry()
        for session in list(self.sessions.values()):
            if not self._are_ours(session.teams):
                self._close(session, "team changed", now)

    def _are_ours(self, teams: Sequence[TeamKey]) -> bool:
        ours = {(team.team_id, team.key) for team in self.standing.grant.teams}
        return all((team.team_id, team.key) in ours for team in teams)

    def _serve(self, grant: Grant) -> None:
        interfaces = grant.certificate.addresses
        own = [interface.packed for interface in interfaces]
        self.egress.serve([i.network for i in interfaces] + list(grant.networks), own)
        self.ingress.accept_for(own)

    # Sending control messages

    def _post(self, tag: bytes, message: bytes, now: float) -> None:
        """Send by the Master; if it is gone, or the tag was heard from by flood, flood."""
        if not self._world.publish(tag, message) or self.flooding.knows_way(tag, now=now):
            self.flooding.send(tag, message, now=now)

    def _post_every_way(self, tag: bytes, message: bytes, now: float) -> None:
        """What had no answer goes out again by every way there is."""
        self._tell(tag, message, now)
        self._world.publish(tag, message)
        self.flooding.send(tag, message, now=now)

    def _post_in_stream(self, tag: bytes, message: bytes, now: float) -> None:
        """Send inside the stream to a node that has one with us; else as any other."""
        if not self._tell(tag, message, now):
            self._post(tag, message, now)

    def _tell(self, tag: bytes, message: bytes, now: float) -> bool:
        session = self._sessions_by_tag.get(tag)
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
            self.take_control(session.tag, message, in_stream=True, now=now)
        elif self.sessions.get(session.node_id) is session:
            self._close(session, "peer stops", now)

    # Asking

    def _ask_address(self, egresser: Egresser, now: float) -> bool:
        return self.exchange.ask(
            Target(TargetKind.ADDRESS, egresser.address),
            address_tag(self.standing.grant.plane_key, egresser.address),
            purpose=Purpose.STREAM,
            failed=lambda now: self.egress.ask_failed(egresser, now),
            now=now,
        )

    def _ask_node(self, node: NodeId, now: float) -> None:
        target = Target(TargetKind.NODE, node)
        if self.neighbours.get(node) or self.exchange.is_asking(Purpose.TETHER, target):
            return
        tag = node_tag(self.standing.grant.plane_key, node)
        self.exchange.ask(
            target,
            tag,
            purpose=Purpose.TETHER,
            in_stream=tag in self._sessions_by_tag,
            failed=lambda _: None,
            now=now,
        )

    def _ask_relay(self, avoid: Sequence[bytes], now: float) -> None:
        self.exchange.ask(
            Target(TargetKind.ANY_RELAY),
            relay_tag(self.standing.grant.plane_key),
            purpose=Purpose.TETHER,
            avoid=avoid,
            failed=lambda _: None,
            now=now,
        )

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

    def _established(self, done: Established, now: float) -> None:
        if done.purpose is Purpose.TETHER:
            return
        if not self._may_talk(done):
            self.egress.refused(done.peer.covers, now)
            return
        session = self._session(done, now)
        if session.inbound is not None:
            self.ingress.add(session.inbound)
        former = self.sessions.get(session.node_id)
        if former is not None and former.order > session.order and now - former.opened < AT_ONCE_S:
            self._retire(session, now)
            return
        if former is not None and done.asked and former.confirmed:
            self._give_up_successor(session.node_id)
            self._successors[session.node_id] = session
            self.egress.answered(session.peer.covers)
            return
        self._take_over(session, now)
        if not done.asked:
            self._greet(session, now)
        self._close_older_starts(done.peer, now)
        addresses = done.peer.certificate.addresses
        self._world.stream_opened(session.node_id, str(addresses[0].ip) if addresses else "")

    def _take_over(self, session: Session, now: float) -> None:
        """From now on packets to the peer go out under *session*."""
        former = self.sessions.get(session.node_id)
        self.sessions[session.node_id] = self._sessions_by_tag[session.tag] = session
        self.egress.bind(session, now=now)
        if former is not None:
            self._retire(former, now)
        turn_s = 0.0 if self.standing.node_id < session.node_id else REKEY_TURN_S
        self.timers.at(now + REKEY_S + turn_s, lambda now: self._rekey(session, now))

    def _rekey(self, session: Session, now: float) -> None:
        """Begin a new handshake inside the stream; what is idle is left to dissolve."""
        idle_s = now - max(session.last_sent, session.last_received)
        if session.closed or idle_s > STREAM_IDLE_S or self._is_rekeying(session):
            return
        target = Target(TargetKind.NODE, session.node_id)
        self.exchange.ask(
            target,
            session.tag,
            purpose=Purpose.STREAM,
            in_stream=True,
            failed=lambda _: None,
            now=now,
        )
        self.timers.at(now + REKEY_RETRY_S, lambda now: self._rekey(session, now))

    def _is_rekeying(self, session: Session) -> bool:
        return session.node_id in self._successors

    def _session(self, done: Established, now: float) -> Session:
        ours, theirs = done.secrets.ask_to_answer, done.secrets.answer_to_ask
        if not done.asked:
            ours, theirs = theirs, ours
        session = Session(
            peer=done.peer,
            teams=done.teams,
            suite=done.suite,
            auth_level=done.auth_level,
            tag=node_tag(self.standing.grant.plane_key, done.peer.node_id),
            transcript=done.secrets.transcript,
            out=OutStream(ours, now=now),
            opened=now,
            last_sent=now,
            last_received=now,
            order=done.order,
            # Who answered has seen the Open; who asked waits for the first frame.
            confirmed=not done.asked,
        )
        session.inbound = InStream(theirs, session)
        self.packet_auth.watch(session)
        return session

    def _may_talk(self, done: Established) -> bool:
        """A handshake takes time: tell whether its teams are still ours, its peer the latest."""
        if not self._are_ours(done.teams):
            self.counters["team_changed_meanwhile"] += 1
            return False
        mine = done.peer.certificate
        for session in self.sessions.values():
            other = session.peer.certificate
            if other.conflux_id == mine.conflux_id and other.serial > mine.serial:
                self.counters["peer_superseded"] += 1
                return False
        return True

    def _close_older_starts(self, peer: Peer, now: float) -> None:
        mine = peer.certificate
        for session in list(self.sessions.values()):
            other = session.peer.certificate
            if other.conflux_id != mine.conflux_id or session.node_id == peer.node_id:
                continue
            self._close(session, "peer started anew", now)
            neighbour = self.neighbours.get(session.node_id)
            if neighbour is not None:
                self.neighbours.drop(neighbour, "peer started anew", now=now)

    def _greet(self, session: Session, now: float) -> None:
        """Show the peer by an empty frame that we hold the keys, as soon as there is a way."""
        reach = self.routing.want(session.peer, is_ready=True, now=now)
        session.owes_greeting = not self.egress.greet(session, reach, now=now)

    def _opened_again(self, node: NodeId, now: float) -> None:
        """The peer repeats its Open: our first frame was lost."""
        session = self.sessions.get(node)
        if session is not None:
            self._greet(session, now)

    def _reachable(self, reach: Reach, now: float) -> None:
        session = self.sessions.get(reach.node_id)
        if session is not None and session.owes_greeting:
            self._greet(session, now)
        self.resender.reachable(reach, now)
        self.egress.flush(reach, now)

    def _retire(self, former: Session, now: float) -> None:
        """A new session took over: the old inbound stream stays for what is on its way."""
        former.closed = True
        self.packet_auth.finish(former, now)
        self.timers.at(now + SUPERSEDED_S, lambda _: self._forget_streams(former))

    def _close(self, session: Session, reason: str, now: float) -> None:
        if session.closed:
            return
        session.closed = True
        self.resender.forget(session)
        self._forget_streams(session)
        self.sessions.pop(session.node_id, None)
        self._sessions_by_tag.pop(session.tag, None)
        self._give_up_successor(session.node_id)
        self.routing.release(session.node_id)
        self.egress.unbind(session, now=now)
        self._world.stream_closed(session.node_id, reason)

    def _give_up_successor(self, node: NodeId) -> None:
        successor = self._successors.pop(node, None)
        if successor is not None:
            successor.closed = True
            self._forget_streams(successor)

    def _forget_streams(self, session: Session) -> None:
        self.packet_auth.release(session)
        if session.inbound is not None:
            self.ingress.remove(session.inbound)

    # Packet authentication

    def _forged(self, session: Session, now: float) -> None:
        """Packets came in that the peer did not sign: somebody else has this stream's key."""
        self.counters["security_frame_forged"] += 1
        self._world.alarmed(session.node_id, "a frame was forged under the stream's key")
        self._distrust(session, "forged frame", now)

    def _lapsed(self, session: Session, now: float) -> None:
        self.counters["frames_not_vouched_for"] += 1
        self._distrust(session, "packets not vouched for", now)

    def _distrust(self, session: Session, reason: str, now: float) -> None:
        """Close *session*, and the one that replaced it if there is one."""
        self._forget_streams(session)
        current = self.sessions.get(session.node_id)
        if current is not None:
            self._close(current, reason, now)

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
            session.confirmed = True
            self.exchange.confirmed(session.node_id)
            if self._successors.get(session.node_id) is session:
                del self._successors[session.node_id]
                self._take_over(session, now)
            self.routing.ready(session.node_id, now=now)

    def _inband(self, neighbour: Neighbour, message: inband.Message, now: float) -> None:
        if isinstance(message, inband.SetupOk):
            ours = self.routing.set_up(neighbour, message, now)
        elif isinstance(message, inband.SetupFailed):
            ours = self.routing.set_up_failed(neighbour, message, now)
        elif isinstance(message, inband.Teardown):
            ours = self.routing.torn_down(neighbour, message.route_id, now)
        elif isinstance(message, inband.LabelUnknown) and message.label == LABEL_HERE:
            ours = self._forgotten_by(neighbour, now)
        elif isinstance(message, inband.Flood):
            self.flooding.received(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.LabelUnknown):
            ours = self.routing.label_unknown(neighbour, message.label, now)
        else:
            ours = False
        if not ours:
            self.relay.received(neighbour, message, now)

    def _forgotten_by(self, neighbour: Neighbour, now: float) -> bool:
        """*neighbour* does not know our stream to it; while the Open is under way that is fine."""
        session = self.sessions.get(neighbour.node_id)
        if session is not None and now - session.opened > OPEN_DEADLINE_S:
            self._close(session, "forgotten by the peer", now)
        return True

    def _neighbour_up(self, neighbour: Neighbour, now: float) -> None:
        self.relay.neighbour_up(neighbour, now)
        self.routing.neighbour_up(neighbour, now)

    def _neighbour_silent(self, neighbour: Neighbour, now: float) -> None:
        self.counters["neighbour_suspect"] += 1
        self.routing.neighbour_silent(neighbour, now)

    def _neighbour_back(self, neighbour: Neighbour, now: float) -> None:
        self.routing.neighbour_back(neighbour, now)

    def _route_lost(self, reach: Reach, route: Route, now: float) -> None:
        self.resender.lost(reach, route, now)

    def _neighbour_down(self, neighbour: Neighbour, reason: str, now: float) -> None:
        self.counters[f"neighbour_down: {reason}"] += 1
        self.relay.neighbour_down(neighbour, now)
        self.routing.neighbour_down(neighbour, now)

    def _measured(self, neighbour: Neighbour, sample: LinkSample, now: float) -> None:
        self.routing.measured(neighbour, sample, now)

    # Idleness

    def _keep_house(self, now: float) -> None:
        for session in list(self.sessions.values()):
            self._check_session(session, now)
        for successor in list(self._successors.values()):
            if now - successor.opened > UNCONFIRMED_S:
                self._give_up_successor(successor.node_id)
        self.routing.drop_idle(now)
        self.relay.drop_idle(now)
        self.egress.drop_idle(now)
        for neighbour in self.neighbours.all():
            self._check_neighbour(neighbour, now)
        self.timers.at(now + HOUSEKEEPING_S, self._keep_house)

    def _check_neighbour(self, neighbour: Neighbour, now: float) -> None:
        in_use = self.routing.uses(neighbour) or self.relay.uses(neighbour)
        if self.wall(now) >= neighbour.peer.certificate.not_after:
            self.neighbours.drop(neighbour, "certificate ended", now=now)
        elif not in_use and now - neighbour.last_data > TETHER_IDLE_S:
            self.neighbours.drop(neighbour, "idle", now=now)

    def _check_session(self, session: Session, now: float) -> None:
        sent_s, received_s = now - session.last_sent, now - session.last_received
        reach: Reach | None = self.routing.get(session.node_id)
        since = reach.without_route_since if reach is not None else None
        if self.wall(now) >= session.peer.certificate.not_after:
            self._close(session, "certificate ended", now)
        elif not session.confirmed and now - session.opened > UNCONFIRMED_S:
            self._close(session, "not confirmed", now)
        elif since is not None and min(now - since, received_s) > NO_ROUTE_S:
            self._close(session, "no route", now)
        elif sent_s > STREAM_IDLE_S and received_s > INBOUND_IDLE_S:
            self._close(session, "idle", now)
        elif sent_s > STREAM_IDLE_S:
            # Our stream is over; the peer's to us is its own affair.
            self.egress.unbind(session, now=now)
            self.routing.release(session.node_id)
