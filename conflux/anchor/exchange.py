"""The state of handshakes: what was asked and answered, repeats, crossing Asks, limits.

    asked ──Answer──► verifying ──► tether answered ──► opened ──► established      (A)
          └─deadline─► failed
    received ──► certified ──► tether offered ──► answered ──Open──► established    (B)

Repeats are byte-identical in both directions; of two crossing Asks the smaller NodeId's wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conflux.anchor import handshake
from conflux.anchor.handshake import (
    PendingAnswer,
    PendingAsk,
    ReceivedAnswer,
    ReceivedAsk,
    Secrets,
    Standing,
    message_ref,
)
from conflux.anchor.identity import CLOCK_SKEW_S, Peer, node_id, node_tag
from conflux.anchor.limits import RateLimit, SeenNonces
from conflux.anchor.seal import HybridKey
from conflux.anchor.timers import Timer, Timers
from conflux.anchor.world import World
from conflux.api import TAG_BYTES, NodeId, Tether, WireError
from conflux.wire.control import (
    REF_BYTES,
    Ask,
    AuthLevel,
    Description,
    Kind,
    Open,
    Purpose,
    Target,
    TargetKind,
    envelope,
)
from conflux.wire.credentials import TeamKey

MAX_ASKED = 256
MAX_ANSWERED = 1_024
MAX_PER_SENDER = 4
MAX_OFFERS_PER_SENDER = 2
MAX_OFFERS = 128
"""Tethers begun for others and not yet opened: each holds sockets."""
MAX_RIVALS = 4
MESSAGES_PER_S = 20.0
MESSAGES_BURST = 40.0

ASK_REPEAT_S = (0.5, 1.0, 2.0)
ASK_DEADLINE_S = 5.0
RELAY_ASK_DEADLINE_S = 2.0
OPEN_REPEAT_S = (0.3, 0.6, 1.2, 2.4, 4.8)
OPEN_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 10.0
MAX_NONCES = 65_536


@dataclass(slots=True, eq=False)
class Established:
    """A finished handshake. `tether` is still connecting, if there is one at all."""

    purpose: Purpose
    peer: Peer
    teams: Sequence[TeamKey]
    suite: int
    auth_level: AuthLevel
    secrets: Secrets
    asked: bool
    """Whether this node asked: which of the two streams is its own."""
    order: tuple[int, bytes]
    """When it was asked for, and the Ask's nonce: of two handshakes both ends prefer one."""


@dataclass(eq=False, kw_only=True)
class _Step:
    """A handshake that waits for the peer's next message; `key` opens that message.

    A worker thread may be using the key when the step ends: then it is erased after that.
    """

    key: HybridKey
    deadline: Timer
    verifying: bool = False
    ended: bool = False
    rivals: list[bytes] = field(default_factory=list)
    """Messages that came while one was being verified: a forged one must not keep the true out."""

    def is_busy_with(self, body: bytes) -> bool:
        """Tell whether another message is being verified; *body* then waits for its turn."""
        if self.verifying and len(self.rivals) < MAX_RIVALS and body not in self.rivals:
            self.rivals.append(body)
        return self.verifying

    def verified(self) -> None:
        """The thread is done with the key, whatever it found."""
        self.verifying = False
        if self.ended:
            self.key.erase()

    def end(self) -> None:
        self.deadline.cancel()
        self.ended = True
        if not self.verifying:
            self.key.erase()


Post = Callable[[bytes, bytes, float], None]
"""Sends a message to a tag: (tag, message, now)."""


@dataclass(eq=False, kw_only=True)
class _Asked(_Step):
    pending: PendingAsk
    tag: bytes
    in_stream: bool
    """Which way Ask and Open go; the Answer's way decides in the end."""
    failed: Callable[[float], None]
    repeats: list[Timer] = field(default_factory=list)
    yielded: bool = False
    """A crossing Ask won: this one is not repeated any more. Whoever made that Ask has not signed
    yet, so if this one is answered all the same, that counts."""

    @property
    def target(self) -> Target:
        return self.pending.ask.target

    @property
    def purpose(self) -> Purpose:
        return self.pending.ask.purpose

    def is_to(self, peer: Peer) -> bool:
        if self.target.kind is TargetKind.ADDRESS:
            return peer.covers(self.target.value)
        return self.target.value == peer.node_id

    def end(self) -> None:
        super().end()
        for repeat in self.repeats:
            repeat.cancel()


@dataclass(eq=False, kw_only=True)
class _Answered(_Step):
    pending: PendingAnswer
    sender: bytes
    tether: Tether | None


@dataclass(slots=True, eq=False)
class _Opened:
    """An Open that is repeated until the peer's first frame, and sent again for each Answer."""

    message: bytes
    tag: bytes
    node: NodeId
    repeats: list[Timer]

    def stop_repeating(self) -> None:
        for repeat in self.repeats:
            repeat.cancel()


@dataclass(frozen=True, slots=True)
class _Working:
    """Where an Ask that is being looked at came from."""

    sender: bytes
    in_stream: bool


class Exchange:
    """All handshakes of a node."""

    def __init__(
        self,
        standing: Callable[[], Standing],
        world: World,
        timers: Timers,
        wall: Callable[[float], float],
        counters: Counter[str],
        *,
        post: Post,
        post_in_stream: Post,
        post_every_way: Post,
        tether_kinds: Sequence[str],
        has_tether: Callable[[NodeId], bool],
        join_tether: Callable[[Peer, Tether], Callable[[float], None]],
        on_established: Callable[[Established, float], None],
        on_opened_again: Callable[[NodeId, float], None],
        auth_level: AuthLevel,
    ) -> None:
        self._standing = standing
        self._world = world
        self._timers = timers
        self._wall = wall
        self._counters = counters
        self._post = post
        self._post_in_stream = post_in_stream
        self._post_every_way = post_every_way
        self._tether_kinds = tether_kinds
        self._has_tether = has_tether
        self._join_tether = join_tether
        self._on_established = on_established
        self._on_opened_again = on_opened_again
        self._auth_level = auth_level
        self._asked: dict[bytes, _Asked] = {}
        self._working: dict[bytes, _Working] = {}
        self._answered: dict[bytes, _Answered] = {}
        self._answers: dict[bytes, tuple[bytes, bytes]] = {}
        self._established: dict[bytes, tuple[Purpose, NodeId]] = {}
        self._opened: dict[bytes, _Opened] = {}
        self._nonces = SeenNonces(keep_s=2 * CLOCK_SKEW_S, limit=MAX_NONCES)
        self._rate = RateLimit(per_s=MESSAGES_PER_S, burst=MESSAGES_BURST)
        self._offers = RateLimit(per_s=1 / RELAY_ASK_DEADLINE_S, burst=1)

    # A's side

    def ask(
        self,
        target: Target,
        tag: bytes,
        *,
        purpose: Purpose,
        avoid: Sequence[bytes] = (),
        in_stream: bool = False,
        failed: Callable[[float], None],
        now: float,
    ) -> bool:
        """Ask *target*, found under *tag*; False if too many Asks are out.

        *in_stream*: the Ask goes inside the stream to a node with which we have one.
        Ends in `on_established`, or in *failed(now)* after the deadline.
        """
        if len(self._asked) >= MAX_ASKED:
            self._counters["ask_over_limit"] += 1
            return False
        pending = handshake.make_ask(
            self._standing(),
            target,
            purpose=purpose,
            auth_level=self._auth_level,
            tether_kinds=self._tether_kinds,
            avoid=avoid,
            wall=self._wall(now),
        )
        ref = pending.ref
        # Sent again to "any relay" the same Ask would reach another node: those are made anew.
        anybody = target.kind is TargetKind.ANY_RELAY
        after_s = RELAY_ASK_DEADLINE_S if anybody else ASK_DEADLINE_S
        deadline = self._timers.at(now + after_s, lambda now: self._ask_ran_out(ref, now))
        asked = _Asked(
            key=pending.key,
            deadline=deadline,
            pending=pending,
            tag=tag,
            in_stream=in_stream,
            failed=failed,
        )
        if not anybody:
            asked.repeats = [
                self._timers.at(now + after, lambda now: self._repeat_ask(asked, now))
                for after in ASK_REPEAT_S
            ]
        self._asked[ref] = asked
        self._send(in_stream, tag, pending.message, now)
        return True

    def is_asking(self, purpose: Purpose, target: Target) -> bool:
        return any(
            asked.target == target and asked.purpose is purpose for asked in self._asked.values()
        )

    def confirmed(self, node: NodeId) -> None:
        """*node* has shown that it got our Open: stop repeating it."""
        for opened in self._opened.values():
            if opened.node == node:
                opened.stop_repeating()

    def forget(self) -> None:
        """Drop everything, erasing keys."""
        for asked in self._asked.values():
            asked.end()
        for answered in self._answered.values():
            answered.end()
            if answered.tether is not None:
                answered.tether.close()
        for opened in self._opened.values():
            opened.stop_repeating()
        self._asked.clear()
        self._working.clear()
        self._answered.clear()
        self._answers.clear()
        self._established.clear()
        self._opened.clear()

    def _repeat_ask(self, asked: _Asked, now: float) -> None:
        if not asked.yielded and not asked.verifying:
            self._post_every_way(asked.tag, asked.pending.message, now)

    def _ask_ran_out(self, ref: bytes, now: float) -> None:
        asked = self._asked.pop(ref)
        asked.end()
        asked.failed(now)

    # Messages

    def received(
        self, kind: Kind, sender: bytes, body: bytes, *, in_stream: bool, now: float
    ) -> None:
        """Take in Ask, Answer or Open; the reply goes the way that it came. Never raises."""
        if not self._rate.allows(sender, now=now):
            self._counters["control_over_rate"] += 1
            return
        try:
            if kind is Kind.ASK:
                self._received_ask(_Working(sender, in_stream), body, now)
            elif kind is Kind.ANSWER:
                self._received_answer(in_stream, body, now)
            else:
                self._received_open(body, now)
        except WireError as error:
            self._dropped(error)

    def _received_ask(self, origin: _Working, body: bytes, now: float) -> None:
        ref = message_ref(envelope(Kind.ASK, body))
        if ref in self._answers:
            tag, message = self._answers[ref]
            self._send(origin.in_stream, tag, message, now)
            return
        if ref in self._working:
            return
        theirs = sum(1 for other in self._working.values() if other.sender == origin.sender)
        theirs += sum(1 for other in self._answered.values() if other.sender == origin.sender)
        if theirs >= MAX_PER_SENDER or len(self._answered) + len(self._working) >= MAX_ANSWERED:
            self._counters["ask_over_limit"] += 1
            return
        me, wall = self._standing(), self._wall(now)
        received = handshake.open_ask(me, body, wall=wall)
        self._check_origin(me, origin, received)
        if not self._nonces.fresh(received.ask.nonce, now=now):
            raise WireError("Ask seen before")
        self._working[ref] = origin
        self._world.defer(
            lambda: me.verify(received.ask, wall),
            lambda peer, now: self._certified(ref, me, received, peer, now),
            lambda error, _: self._gave_up(ref, error),
        )

    def _check_origin(self, me: Standing, origin: _Working, received: ReceivedAsk) -> None:
        """An Ask is not signed: the Master's handles at least must be those of its certificate.

        Flooded ones come under the name of who brought them, and count against him.
        """
        asker = node_id(received.ask.certificate.sign_public)
        brought = len(origin.sender) != TAG_BYTES
        if not brought and origin.sender != node_tag(me.grant.plane_key, asker):
            raise WireError("Ask under another node's handle")

    def _received_answer(self, in_stream: bool, body: bytes, now: float) -> None:
        answer_ref = message_ref(envelope(Kind.ANSWER, body))
        opened = self._opened.get(answer_ref)
        if opened is not None:
            self._send(in_stream, opened.tag, opened.message, now)
            return
        asked = self._asked.get(body[:REF_BYTES])
        if asked is None:
            self._counters["answer_unexpected"] += 1
        elif not asked.is_busy_with(body):
            asked.in_stream = in_stream
            self._verify_answer(asked, body, now)

    def _verify_answer(self, asked: _Asked, body: bytes, now: float) -> None:
        me, wall, pending = self._standing(), self._wall(now), asked.pending
        asked.verifying = True
        self._world.defer(
            lambda: handshake.open_answer(me, pending, body, wall=wall),
            lambda received, _: self._answer_verified(asked, me, received),
            lambda error, now: self._answer_false(asked, error, now),
        )

    def _received_open(self, body: bytes, now: float) -> None:
        ref = body[:REF_BYTES]
        if ref in self._established:
            purpose, node = self._established[ref]
            if purpose is Purpose.STREAM:
                self._on_opened_again(node, now)
            return
        answered = self._answered.get(ref)
        if answered is None:
            self._counters["open_unexpected"] += 1
        elif not answered.is_busy_with(body):
            self._verify_open(answered, body)

    def _verify_open(self, answered: _Answered, body: bytes) -> None:
        me, pending = self._standing(), answered.pending
        answered.verifying = True
        self._world.defer(
            lambda: handshake.open_open(me, pending, body),
            lambda done, now: self._open_verified(answered, *done, now),
            lambda error, _: self._open_false(answered, error),
        )

    # A, after the Answer

    def _answer_false(self, asked: _Asked, error: WireError, now: float) -> None:
        asked.verified()
        self._dropped(error)
        if asked.rivals and not asked.ended:
            self._verify_answer(asked, asked.rivals.pop(0), now)

    def _answer_verified(self, asked: _Asked, me: Standing, received: ReceivedAnswer) -> None:
        asked.verified()
        if self._asked.pop(asked.pending.ref, None) is None:
            return
        asked.end()
        offer = received.answer.tether
        if offer.kind in self._tether_kinds and not self._has_tether(received.peer.node_id):
            self._world.answer_tether(
                offer.kind,
                offer.data,
                lambda tether, _: self._open(asked, me, received, tether),
            )
        else:
            self._open(asked, me, received, None)

    def _open(
        self, asked: _Asked, me: Standing, received: ReceivedAnswer, tether: Tether | None
    ) -> None:
        description = Description()
        if tether is not None:
            description = Description(received.answer.tether.kind, tether.description)
        self._world.defer(
            lambda: handshake.make_open(me, received, tether=description),
            lambda made, now: self._opened_now(asked, me, received, tether, *made, now),
            lambda error, now: self._open_not_made(asked, tether, error, now),
        )

    def _open_not_made(
        self, asked: _Asked, tether: Tether | None, error: WireError, now: float
    ) -> None:
        if tether is not None:
            tether.close()
        self._dropped(error)
        asked.failed(now)

    def _opened_now(
        self,
        asked: _Asked,
        me: Standing,
        received: ReceivedAnswer,
        tether: Tether | None,
        message: bytes,
        secrets: Secrets,
        now: float,
    ) -> None:
        answer, peer = received.answer, received.peer
        tag = node_tag(me.grant.plane_key, peer.node_id)
        purpose = received.pending.ask.purpose
        # Without streams or a tether to be nothing hangs on it: it only lets the peer forget.
        matters = purpose is Purpose.STREAM or tether is not None
        repeats = [
            self._timers.at(now + after, lambda now: self._send(asked.in_stream, tag, message, now))
            for after in (OPEN_REPEAT_S if matters else ())
        ]
        ref = message_ref(received.message)
        opened = self._opened[ref] = _Opened(message, tag, peer.node_id, repeats)
        self._timers.at(now + OPEN_DEADLINE_S, lambda _: self._over(ref))
        self._send(asked.in_stream, tag, message, now)
        done = Established(
            purpose,
            peer,
            received.teams,
            answer.suite,
            answer.auth_level,
            secrets,
            asked=True,
            order=_order(received.pending.ask),
        )
        self._finish(done, tether, None, opened.stop_repeating, now)

    def _over(self, answer_ref: bytes) -> None:
        self._opened.pop(answer_ref, None)

    # B, after the Ask and after the Open

    def _certified(
        self, ref: bytes, me: Standing, received: ReceivedAsk, peer: Peer, now: float
    ) -> None:
        origin = self._working.get(ref, _Working(b"", in_stream=False)).sender
        if not self._is_worth_answering(me, origin, received.ask.purpose, peer, now):
            self._working.pop(ref, None)
            return
        kinds = [kind for kind in self._tether_kinds if kind in received.ask.tether_kinds]
        # Who asks for a tether alone has none, even if we think that there is one.
        wanted = received.ask.purpose is Purpose.TETHER or not self._has_tether(peer.node_id)
        if kinds and wanted and self._may_offer(origin):
            self._world.offer_tether(
                kinds[0],
                lambda tether, _: self._answer(ref, me, received, peer, kinds[0], tether),
            )
        else:
            self._answer(ref, me, received, peer, "", None)

    def _may_offer(self, origin: bytes) -> bool:
        offered = [answered for answered in self._answered.values() if answered.tether is not None]
        theirs = sum(1 for answered in offered if answered.sender == origin)
        return theirs < MAX_OFFERS_PER_SENDER and len(offered) < MAX_OFFERS

    def _is_worth_answering(
        self, me: Standing, origin: bytes, purpose: Purpose, peer: Peer, now: float
    ) -> bool:
        if self._crossing_ask_wins(me, purpose, peer):
            self._counters["ask_crossed"] += 1
            return False
        # Several Asks for "any relay" may have been drawn to this one: one tether is enough.
        if purpose is Purpose.TETHER and not self._offers.allows(origin + peer.node_id, now=now):
            self._counters["ask_doubled"] += 1
            return False
        return True

    def _crossing_ask_wins(self, me: Standing, purpose: Purpose, peer: Peer) -> bool:
        """Tell whether our own Ask to *peer* stands; if not, it yields."""
        crossing = [
            asked
            for asked in self._asked.values()
            if asked.purpose is purpose and asked.is_to(peer)
        ]
        if crossing and me.node_id < peer.node_id:
            return True
        for asked in crossing:
            asked.yielded = True
        return False

    def _answer(
        self,
        ref: bytes,
        me: Standing,
        received: ReceivedAsk,
        peer: Peer,
        kind: str,
        tether: Tether | None,
    ) -> None:
        offer = Description()
        if tether is not None:
            offer = Description(kind, tether.description)
        self._world.defer(
            lambda: handshake.make_answer(
                me, received, peer, tether=offer, auth_level=self._auth_level
            ),
            lambda pending, now: self._answered_now(ref, me, pending, tether, now),
            lambda error, _: self._gave_up(ref, error, tether),
        )

    def _answered_now(
        self,
        ask_ref: bytes,
        me: Standing,
        pending: PendingAnswer,
        tether: Tether | None,
        now: float,
    ) -> None:
        origin = self._working.pop(ask_ref, _Working(b"", in_stream=False))
        tag = node_tag(me.grant.plane_key, pending.peer.node_id)
        ref = pending.ref
        deadline = self._timers.at(
            now + OPEN_DEADLINE_S, lambda _: self._answer_ran_out(ref, ask_ref)
        )
        self._answered[ref] = _Answered(
            key=pending.key, deadline=deadline, pending=pending, sender=origin.sender, tether=tether
        )
        self._answers[ask_ref] = (tag, pending.message)
        self._send(origin.in_stream, tag, pending.message, now)

    def _answer_ran_out(self, ref: bytes, ask_ref: bytes) -> None:
        self._answers.pop(ask_ref, None)
        self._established.pop(ref, None)
        answered = self._answered.pop(ref, None)
        if answered is None:
            return
        answered.end()
        if answered.tether is not None:
            answered.tether.close()

    def _open_false(self, answered: _Answered, error: WireError) -> None:
        answered.verified()
        self._dropped(error)
        if answered.rivals and not answered.ended:
            self._verify_open(answered, answered.rivals.pop(0))

    def _open_verified(
        self, answered: _Answered, opening: Open, secrets: Secrets, now: float
    ) -> None:
        answered.verified()
        pending, tether = answered.pending, answered.tether
        if self._answered.pop(pending.ref, None) is None:
            return
        pending.key.erase()
        # The deadline stays: until then repeated Asks and Opens are known for what they are.
        purpose = pending.received.ask.purpose
        self._established[pending.ref] = purpose, pending.peer.node_id
        if tether is not None and opening.tether.kind != pending.answer.tether.kind:
            tether.close()
            tether = None
        done = Established(
            purpose,
            pending.peer,
            pending.received.teams,
            pending.answer.suite,
            pending.answer.auth_level,
            secrets,
            asked=False,
            order=_order(pending.received.ask),
        )
        self._finish(done, tether, opening.tether.data, _nothing, now)

    # Both

    def _send(self, in_stream: bool, tag: bytes, message: bytes, now: float) -> None:
        (self._post_in_stream if in_stream else self._post)(tag, message, now)

    def _finish(
        self,
        done: Established,
        tether: Tether | None,
        remote: bytes | None,
        confirmed: Callable[[], None],
        now: float,
    ) -> None:
        for asked in list(self._asked.values()):
            if asked.purpose is done.purpose and asked.is_to(done.peer):
                # Another handshake came first: an Ask that crossed, or one to another address.
                del self._asked[asked.pending.ref]
                asked.end()
        if tether is not None:
            joined = self._join_tether(done.peer, tether)
            self._world.connect_tether(
                tether,
                done.secrets.tether,
                remote,
                deadline_s=CONNECT_DEADLINE_S,
                then=lambda up, now: self._connected(joined, confirmed, up, now),
            )
        self._on_established(done, now)

    def _connected(
        self,
        joined: Callable[[float], None],
        confirmed: Callable[[], None],
        up: bool,
        now: float,
    ) -> None:
        if up:
            # The tether's secret came out of the handshake: the peer has seen our Open.
            confirmed()
            joined(now)
        else:
            self._counters["tether_failed"] += 1

    def _gave_up(self, ref: bytes, error: WireError, tether: Tether | None = None) -> None:
        self._working.pop(ref, None)
        if tether is not None:
            tether.close()
        self._dropped(error)

    def _dropped(self, error: WireError) -> None:
        self._counters[f"control: {error}"] += 1


def _order(ask: Ask) -> tuple[int, bytes]:
    return ask.time_ms, ask.nonce


def _nothing() -> None:
    """For the end that has nothing to repeat."""
