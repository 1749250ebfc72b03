"""Sessions: the pair of streams with each peer, from the end of a handshake to their own.

    established ──► in use ──► closed: idle, no route, forged ...
        │             └─ new grant: a team has another key ──► rekey at once ──0.5 s──► closed
        └─ we asked, while another is in use:
           successor ──first frame──► in use    the one before: retired, opens frames for 10 s more
               └─12 s─► given up

A successor takes over once the peer has shown that it has the keys: make before break.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from conflux.anchor.egress import Egress
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import Peer, due_again_s, due_from, node_tag
from conflux.anchor.idle import IdleTimes
from conflux.anchor.ingress import Ingress
from conflux.anchor.packet_auth import PacketAuth
from conflux.anchor.reach import Reach
from conflux.anchor.resend import Resender
from conflux.anchor.route import Routing
from conflux.anchor.step import OPEN_DEADLINE_S, Established
from conflux.anchor.stream import REKEY_S, InStream, OutStream, Session
from conflux.anchor.tether import Neighbours
from conflux.anchor.timers import Timers
from conflux.anchor.world import World
from conflux.api import NodeId
from conflux.wire.control import Purpose
from conflux.wire.credentials import TeamKey
from conflux.wire.features import TAKES_VIRTIO, mtu_of

NO_ROUTE_S = 10.0
"""A session that no route reaches for this long is closed: the peer may have started anew."""
SUPERSEDED_S = OPEN_DEADLINE_S
"""How long a replaced inbound stream still opens frames: the peer may not know yet."""
REKEY_TURN_S = 10.0
"""How much later the greater NodeId begins to rekey, if the smaller one has not."""
REKEY_RETRY_S = 10.0
TEAM_GRACE_S = 0.5
"""How long a session lives on under a team key that Guardian has replaced. Guardian looks for
changes every 0.25 s: 0.25 s are left for its work and the way, and who was removed is cut off in
less than 1 s. New keys take 2.5 round trips: if they are up to 0.18 s, nothing is lost."""
ASK_AGAIN_S = 0.05
AT_ONCE_S = 15.0
"""Two handshakes of one pair within this time: the one asked for later stands, at both ends."""
UNCONFIRMED_S = 12.0
"""A session whose peer sent no frame for this long is closed: it did not get our Open."""


class Ask(Protocol):
    """Begins a handshake with the session's peer, inside its stream, unless one is under way;
    False if too many are."""

    def __call__(self, session: Session, *, in_haste: bool, now: float) -> bool: ...


class Sessions(Mapping[NodeId, Session]):
    """Every session of a node; as a mapping, those in use, by the peer's NodeId."""

    def __init__(
        self,
        standing: Callable[[], Standing],
        world: World,
        timers: Timers,
        wall: Callable[[float], float],
        counters: Counter[str],
        *,
        egress: Egress,
        ingress: Ingress,
        packet_auth: PacketAuth,
        resender: Resender,
        routing: Routing,
        neighbours: Neighbours,
        idle: IdleTimes,
        ask: Ask,
    ) -> None:
        self._standing = standing
        self._world = world
        self._timers = timers
        self._wall = wall
        self._counters = counters
        self._egress = egress
        self._ingress = ingress
        self._packet_auth = packet_auth
        self._resender = resender
        self._routing = routing
        self._neighbours = neighbours
        self._idle = idle
        self._ask = ask
        self._in_use: dict[NodeId, Session] = {}
        self._by_tag: dict[bytes, Session] = {}
        self._successors: dict[NodeId, Session] = {}
        self._starts: dict[bytes, dict[NodeId, Session]] = {}
        """Those in use with each conflux: with one start of it, but for moments."""

    def __getitem__(self, node: NodeId) -> Session:
        return self._in_use[node]

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._in_use)

    def __len__(self) -> int:
        return len(self._in_use)

    def all(self) -> list[Session]:
        """Those in use; the list stays as it is while sessions open and close."""
        return list(self._in_use.values())

    def peers_in_use(self, now: float) -> list[NodeId]:
        """Those with whom there is traffic."""
        return [session.node_id for session in self.values() if not self._is_idle(session, now)]

    def by_tag(self, tag: bytes) -> Session | None:
        """The session in use with the node of this pseudonym."""
        return self._by_tag.get(tag)

    # Opening

    def admit(self, done: Established, now: float) -> bool:
        """A handshake takes time: tell whether its peer still counts, and its teams are ours."""
        if done.peer.certificate.serial in self._standing().revoked:
            self._counters["peer_revoked"] += 1
            self._egress.refused(done.peer.covers, now)
            return False
        if done.purpose is Purpose.TETHER:
            return True
        if not self.are_ours(done.teams):
            self._counters["team_changed_meanwhile"] += 1
            self._egress.ask_again(done.peer.covers, now)
            return False
        if self._is_superseded(done.peer):
            self._counters["peer_superseded"] += 1
            self._egress.refused(done.peer.covers, now)
            return False
        return True

    def established(self, done: Established, now: float) -> None:
        """An admitted handshake ended: open its session, unless it loses to another."""
        if done.purpose is Purpose.TETHER:
            return
        session = self._open(done, now)
        if session.inbound is not None:
            self._ingress.add(session.inbound)
        former = self.get(session.node_id)
        if former is not None and self._stands_against(former, session, now):
            self._retire(session, now)
            return
        if former is not None and done.asked and former.confirmed:
            self._give_up_successor(session.node_id)
            self._successors[session.node_id] = session
            self._egress.answered(session.peer.covers)
            return
        self._take_over(session, now)
        if not done.asked:
            self._greet(session, now)
        self._close_older_starts(done.peer, now)
        addresses = done.peer.certificate.addresses
        self._world.stream_opened(session.node_id, str(addresses[0].ip) if addresses else "")

    def confirm(self, session: Session, now: float) -> None:
        """A frame proved that the peer has the keys: a successor takes over."""
        session.confirmed = True
        if self._successors.get(session.node_id) is session:
            del self._successors[session.node_id]
            self._take_over(session, now)
        self._routing.ready(session.node_id, now=now)

    def through(self, done: Established, now: float) -> None:
        """The tether that a handshake made is up: who has its secret has our Open, and the keys.

        Another tether would prove nothing: what crosses it could overtake the Open.
        """
        session = self.get(done.peer.node_id)
        if session is not None and session.transcript == done.secrets.transcript:
            self.confirm(session, now)

    def _stands_against(self, former: Session, session: Session, now: float) -> bool:
        """Tell whether *former* stays in use though a handshake made *session*, too."""
        at_once = now - former.opened < AT_ONCE_S
        return at_once and former.order > session.order and former.ends_at == math.inf

    def _is_superseded(self, peer: Peer) -> bool:
        """Tell whether there is a session with a later start of the same conflux."""
        mine = peer.certificate
        starts = self._starts.get(mine.conflux_id, {}).values()
        return any(other.peer.certificate.serial > mine.serial for other in starts)

    def _open(self, done: Established, now: float) -> Session:
        ours, theirs = done.secrets.ask_to_answer, done.secrets.answer_to_ask
        if not done.asked:
            ours, theirs = theirs, ours
        session = Session(
            peer=done.peer,
            teams=done.teams,
            suite=done.suite,
            auth_level=done.auth_level,
            mtu_bytes=mtu_of(done.features),
            takes_virtio=bool(done.features & TAKES_VIRTIO),
            tag=node_tag(self._standing().grant.plane_key, done.peer.node_id),
            transcript=done.secrets.transcript,
            out=OutStream(ours, now=now),
            opened=now,
            last_sent=now,
            last_received=now,
            order=done.order,
            answered_s=done.took_s,
            # Who answered has seen the Open; who asked waits for the first frame.
            confirmed=not done.asked,
        )
        session.inbound = InStream(theirs, session)
        self._packet_auth.watch(session)
        return session

    def _take_over(self, session: Session, now: float) -> None:
        """From now on packets to the peer go out under *session*."""
        former = self.get(session.node_id)
        self._in_use[session.node_id] = self._by_tag[session.tag] = session
        self._starts.setdefault(session.peer.certificate.conflux_id, {})[session.node_id] = session
        self._egress.bind(session, now=now)
        if former is not None:
            self._retire(former, now)
        self._rekey_later(session, self._rekey_at(session, now))

    def _close_older_starts(self, peer: Peer, now: float) -> None:
        for session in list(self._starts.get(peer.certificate.conflux_id, {}).values()):
            if session.node_id == peer.node_id:
                continue
            self.close(session, "peer started anew", now)
            neighbour = self._neighbours.get(session.node_id)
            if neighbour is not None:
                self._neighbours.drop(neighbour, "peer started anew", now=now)

    # Greeting

    def greet_again(self, node: NodeId, now: float) -> None:
        """The peer repeats its Open: our first frame was lost."""
        session = self.get(node)
        if session is not None:
            self._greet(session, now)

    def reachable(self, reach: Reach, now: float) -> None:
        """There is a route: greet who waits for it."""
        session = self.get(reach.node_id)
        if session is not None and session.owes_greeting:
            self._greet(session, now)

    def _greet(self, session: Session, now: float) -> None:
        """Show the peer by an empty frame that we hold the keys, as soon as there is a way."""
        reach = self._routing.want(
            session.peer, is_ready=True, answered_s=session.answered_s, now=now
        )
        session.owes_greeting = not self._egress.greet(session, reach, now=now)

    # New keys

    def rekey(self, session: Session, now: float) -> None:
        """Begin a new handshake inside the stream; what is idle is left to dissolve."""
        if session.closed or self._is_idle(session, now) or self._is_rekeying(session):
            return
        self._ask(session, in_haste=False, now=now)
        self._rekey_later(session, now + REKEY_RETRY_S)

    def _rekey_later(self, session: Session, when: float) -> None:
        session.rekeying = self._timers.at(when, lambda now: self.rekey(session, now))

    def _rekey_soon(self, session: Session, now: float) -> None:
        """Its key is worn: begin sooner than by age, unless that is near, or was tried just now."""
        due = session.rekeying
        if due is not None and due.when > now + REKEY_RETRY_S:
            due.cancel()
            self.rekey(session, now)

    def _rekey_at(self, session: Session, now: float) -> float:
        """At the age that keys may have, or before a certificate of either end runs out: the
        handshake shows its successor. The smaller NodeId begins."""
        me, wall = self._standing(), self._wall(now)
        wait_s = REKEY_S
        for certificate in (me.grant.certificate, session.peer.certificate):
            wait_s = min(wait_s, max(due_from(certificate) - wall, due_again_s(certificate)))
        return now + wait_s + (0 if me.node_id < session.node_id else min(REKEY_TURN_S, wait_s / 4))

    def _is_idle(self, session: Session, now: float) -> bool:
        return now - max(session.last_sent, session.last_received) > self._idle.stream_s

    def _is_rekeying(self, session: Session) -> bool:
        return session.node_id in self._successors

    # Teams

    def teams_changed(self, now: float) -> None:
        """There is a new grant: what hangs on a team key that is not ours any more ends.

        At once if none of its teams is ours any more; else after TEAM_GRACE_S, in which new keys
        are made with what is still common. Replaced sessions that still open frames end, too.
        """
        ours = {team.team_id for team in self._standing().grant.teams}
        for session in [stream.session for stream in self._ingress.streams]:
            if self.are_ours(session.teams):
                continue
            if ours.isdisjoint(team.team_id for team in session.teams):
                self._outdate(session, now)
                continue
            session.end_at(now + TEAM_GRACE_S)
            self._outdate_after(session, TEAM_GRACE_S, now)
            if self.get(session.node_id) is session:
                self._rekey_in_haste(session, now)

    def are_ours(self, teams: Sequence[TeamKey]) -> bool:
        """Tell whether all of *teams* are ours, with these keys."""
        ours = {(team.team_id, team.key) for team in self._standing().grant.teams}
        return all((team.team_id, team.key) in ours for team in teams)

    def drop_revoked(self, now: float) -> None:
        """Close every session whose peer's certificate counts no more, replaced ones included."""
        revoked = self._standing().revoked
        for session in [stream.session for stream in self._ingress.streams]:
            if session.peer.certificate.serial not in revoked:
                continue
            self._forget_streams(session)
            if self.get(session.node_id) is session:
                self.close(session, "revoked", now)

    def _rekey_in_haste(self, session: Session, now: float) -> None:
        if session.closed or self._is_idle(session, now):
            return
        if not self._ask(session, in_haste=True, now=now):
            self._timers.at(now + ASK_AGAIN_S, lambda now: self._rekey_in_haste(session, now))

    def _outdate_after(self, session: Session, wait_s: float, now: float) -> None:
        self._timers.at(now + wait_s, lambda now: self._outdate(session, now))

    def _outdate(self, session: Session, now: float) -> None:
        """The grace of *session* is over, whether it is in use or not."""
        node, successor = session.node_id, self._successors.get(session.node_id)
        if session is successor:
            self._give_up_successor(node)
        elif session.closed:
            self._forget_streams(session)
        elif successor is None or successor.ends_at != math.inf:
            self.close(session, "team changed", now)
        else:
            self._hasten(successor, now)

    def _hasten(self, successor: Session, now: float) -> None:
        """What *successor* was to replace is over: packets wait until it is confirmed, as at first
        contact."""
        del self._successors[successor.node_id]
        self._routing.release(successor.node_id)
        self._take_over(successor, now)

    # Closing

    def spent(self, session: Session, now: float) -> None:
        """*session* refused to seal: its keys are used up, or its time is over."""
        if now > session.ends_at:
            self._outdate(session, now)
        else:
            self.close(session, "key spent", now)

    def close(self, session: Session, reason: str, now: float) -> None:
        """End *session*, and the successor that it may have. Twice is fine."""
        if session.closed:
            return
        session.end()
        self._resender.forget(session)
        self._forget_streams(session)
        self._in_use.pop(session.node_id, None)
        self._by_tag.pop(session.tag, None)
        self._forget_start(session)
        self._give_up_successor(session.node_id)
        self._routing.release(session.node_id)
        self._egress.unbind(session, now=now)
        self._world.stream_closed(session.node_id, reason)

    def _forget_start(self, session: Session) -> None:
        conflux_id = session.peer.certificate.conflux_id
        starts = self._starts.get(conflux_id, {})
        starts.pop(session.node_id, None)
        if not starts:
            self._starts.pop(conflux_id, None)

    def close_all(self, reason: str, now: float) -> None:
        """End all of them at once, replaced ones included."""
        for session in self.all():
            self.close(session, reason, now)
        for node in list(self._successors):
            self._give_up_successor(node)
        for session in [stream.session for stream in self._ingress.streams]:
            self._forget_streams(session)

    def forged(self, session: Session, now: float) -> None:
        """Packets came in that the peer did not sign, so somebody else has a key of *session*.

        It is closed, and the one that replaced it, if any.
        """
        self._counters["security_frame_forged"] += 1
        self._world.alarmed(session.node_id, "a frame was forged under the stream's key")
        self._forget_streams(session)
        current = self.get(session.node_id)
        if current is not None:
            self.close(current, "forged frame", now)

    def lapsed(self, session: Session, reason: str, now: float) -> None:
        """Packets of *session* were not vouched for, or our word for them not taken: close it.

        One that was replaced is over already. Its peer may have dropped its keys: it cannot vouch.
        So it may where a successor waits to be confirmed, whose handshake proved the peer anew.
        """
        self._forget_streams(session)
        successor = self._successors.get(session.node_id)
        if successor is not None and self.get(session.node_id) is session:
            self._hasten(successor, now)
        else:
            self.close(session, reason, now)

    def forgotten_by(self, node: NodeId, now: float) -> None:
        """*node* does not know our stream to it; while the Open is under way that is fine."""
        session = self.get(node)
        if session is not None and now - session.opened > OPEN_DEADLINE_S:
            self.close(session, "forgotten by the peer", now)

    def _retire(self, former: Session, now: float) -> None:
        """A new session took over: the old inbound stream stays for what is on its way."""
        former.end()
        former.out.erase()
        self._packet_auth.finish(former, now)
        until = min(now + SUPERSEDED_S, former.ends_at)
        self._timers.at(until, lambda _: self._forget_streams(former))

    def _give_up_successor(self, node: NodeId) -> None:
        successor = self._successors.pop(node, None)
        if successor is not None:
            successor.end()
            self._forget_streams(successor)

    def _forget_streams(self, session: Session) -> None:
        self._packet_auth.release(session)
        session.out.erase()
        if session.inbound is not None:
            self._ingress.remove(session.inbound)
            session.inbound.erase()

    # Idleness

    def keep_house(self, now: float) -> None:
        """Close what is idle, out of reach, unconfirmed, or past its certificate."""
        for session in self.all():
            self._check(session, now)
        for successor in list(self._successors.values()):
            if now - successor.opened > UNCONFIRMED_S:
                self._give_up_successor(successor.node_id)

    def _check(self, session: Session, now: float) -> None:
        sent_s, received_s = now - session.last_sent, now - session.last_received
        reach = self._routing.get(session.node_id)
        since = reach.without_route_since if reach is not None else None
        if self._wall(now) >= session.peer.certificate.not_after:
            self.close(session, "certificate ended", now)
        elif not session.confirmed and now - session.opened > UNCONFIRMED_S:
            self.close(session, "not confirmed", now)
        elif since is not None and min(now - since, received_s) > NO_ROUTE_S:
            self.close(session, "no route", now)
        elif sent_s > self._idle.stream_s and received_s > self._idle.inbound_s:
            self.close(session, "idle", now)
        elif sent_s > self._idle.stream_s:
            # Our stream is over; the peer's to us is its own affair.
            self._egress.unbind(session, now=now)
            self._routing.release(session.node_id)
        elif session.out.is_worn and not self._is_rekeying(session):
            self._rekey_soon(session, now)
