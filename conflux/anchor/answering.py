"""B's side of handshakes: Asks that come in, Answers that wait for their Open.

    received ──► certified ──► tether offered ──► answered ──Open──► established

An Ask that comes again gets the same bytes again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conflux.anchor import handshake
from conflux.anchor.handshake import (
    PendingAnswer,
    ReceivedAsk,
    Secrets,
    Standing,
    message_ref,
)
from conflux.anchor.identity import CLOCK_SKEW_S, Peer, node_id, node_tag
from conflux.anchor.limits import RateLimit, SeenNonces
from conflux.anchor.step import (
    OPEN_DEADLINE_S,
    RELAY_ASK_DEADLINE_S,
    Established,
    Means,
    Step,
    order_of,
)
from conflux.api import TAG_BYTES, NodeId, Tether, WireError
from conflux.wire.control import REF_BYTES, Description, Kind, Open, Purpose, envelope

MAX_ANSWERED = 1_024
MAX_PER_SENDER = 4
MAX_OFFERS_PER_SENDER = 2
MAX_OFFERS = 128
"""Tethers begun for others and not yet opened: each holds sockets."""
MAX_NONCES = 65_536


@dataclass(frozen=True, slots=True)
class _Working:
    """Where an Ask that is being looked at came from."""

    sender: bytes
    in_stream: bool


@dataclass(eq=False, kw_only=True)
class _Answered(Step):
    pending: PendingAnswer
    sender: bytes
    tether: Tether | None


class Answering:
    """Every handshake that another node began.

    *stands_against(me, purpose, peer)* tells whether our own Ask to *peer* beats the one of *peer*.
    *on_opened_again(node, now)*: *node* repeats the Open of a session that is established.
    """

    def __init__(
        self,
        use: Means,
        *,
        stands_against: Callable[[Standing, Purpose, Peer], bool],
        on_opened_again: Callable[[NodeId, float], None],
    ) -> None:
        self._use = use
        self._stands_against = stands_against
        self._on_opened_again = on_opened_again
        self._working: dict[bytes, _Working] = {}
        self._answered: dict[bytes, _Answered] = {}
        self._answers: dict[bytes, tuple[bytes, bytes]] = {}
        self._established: dict[bytes, tuple[Purpose, NodeId]] = {}
        self._nonces = SeenNonces(keep_s=2 * CLOCK_SKEW_S, limit=MAX_NONCES)
        self._offers = RateLimit(per_s=1 / RELAY_ASK_DEADLINE_S, burst=1)

    def drop_idle(self, now: float) -> None:
        self._nonces.drop_idle(now)
        self._offers.drop_idle(now)

    def forget(self) -> None:
        """Drop everything, erasing keys."""
        for answered in self._answered.values():
            answered.end()
            if answered.tether is not None:
                answered.tether.close()
        self._working.clear()
        self._answered.clear()
        self._answers.clear()
        self._established.clear()

    # Ask

    def received_ask(self, sender: bytes, body: bytes, *, in_stream: bool, now: float) -> None:
        """Take in an Ask. Raises WireError for one that is dropped."""
        origin = _Working(sender, in_stream)
        ref = message_ref(envelope(Kind.ASK, body))
        if ref in self._answers:
            tag, message = self._answers[ref]
            self._use.send(origin.in_stream, tag, message, now)
            return
        if ref in self._working:
            return
        theirs = sum(1 for other in self._working.values() if other.sender == origin.sender)
        theirs += sum(1 for other in self._answered.values() if other.sender == origin.sender)
        if theirs >= MAX_PER_SENDER or len(self._answered) + len(self._working) >= MAX_ANSWERED:
            self._use.counters["ask_over_limit"] += 1
            return
        me, wall = self._use.standing(), self._use.wall(now)
        received = handshake.open_ask(me, body, wall=wall)
        self._check_origin(me, origin, received)
        if not self._nonces.fresh(received.ask.nonce, now=now):
            raise WireError("Ask seen before")
        self._working[ref] = origin
        self._use.world.defer(
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

    def _certified(
        self, ref: bytes, me: Standing, received: ReceivedAsk, peer: Peer, now: float
    ) -> None:
        origin = self._working.get(ref, _Working(b"", in_stream=False)).sender
        if not self._is_worth_answering(me, origin, received.ask.purpose, peer, now):
            self._working.pop(ref, None)
            return
        kinds = self._use.kinds.common(peer.node_id, received.ask.tether_kinds, now=now)
        # Who asks for a tether alone has none, even if we think that there is one.
        wanted = received.ask.purpose is Purpose.TETHER or not self._use.has_tether(peer.node_id)
        offerable = kinds if wanted and self._may_offer(origin) else []
        self._offer(ref, me, received, peer, list(offerable))

    def _offer(
        self, ref: bytes, me: Standing, received: ReceivedAsk, peer: Peer, kinds: list[str]
    ) -> None:
        """Begin a tether of the first of *kinds* that can be made, and answer with it."""
        if not kinds:
            self._answer(ref, me, received, peer, "", None)
            return
        kind, *others = kinds

        def made(tether: Tether | None, _: float) -> None:
            if tether is None:
                self._offer(ref, me, received, peer, others)
            else:
                self._answer(ref, me, received, peer, kind, tether)

        self._use.world.offer_tether(kind, made)

    def _may_offer(self, origin: bytes) -> bool:
        offered = [answered for answered in self._answered.values() if answered.tether is not None]
        theirs = sum(1 for answered in offered if answered.sender == origin)
        return theirs < MAX_OFFERS_PER_SENDER and len(offered) < MAX_OFFERS

    def _is_worth_answering(
        self, me: Standing, origin: bytes, purpose: Purpose, peer: Peer, now: float
    ) -> bool:
        if self._stands_against(me, purpose, peer):
            self._use.counters["ask_crossed"] += 1
            return False
        # Several Asks for "any relay" may have been drawn to this one: one tether is enough.
        if purpose is Purpose.TETHER and not self._offers.allows(origin + peer.node_id, now=now):
            self._use.counters["ask_doubled"] += 1
            return False
        return True

    # Answer

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
        self._use.world.defer(
            lambda: handshake.make_answer(
                me,
                received,
                peer,
                tether=offer,
                auth_level=self._use.auth_level,
                features=self._use.features,
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
        deadline = self._use.timers.at(
            now + OPEN_DEADLINE_S, lambda _: self._answer_ran_out(ref, ask_ref)
        )
        self._answered[ref] = _Answered(
            key=pending.key, deadline=deadline, pending=pending, sender=origin.sender, tether=tether
        )
        self._answers[ask_ref] = (tag, pending.message)
        self._use.send(origin.in_stream, tag, pending.message, now)

    def _answer_ran_out(self, ref: bytes, ask_ref: bytes) -> None:
        self._answers.pop(ask_ref, None)
        self._established.pop(ref, None)
        answered = self._answered.pop(ref, None)
        if answered is None:
            return
        answered.end()
        if answered.tether is not None:
            answered.tether.close()

    def _gave_up(self, ref: bytes, error: WireError, tether: Tether | None = None) -> None:
        self._working.pop(ref, None)
        if tether is not None:
            tether.close()
        self._use.dropped(error)

    # Open

    def received_open(self, body: bytes, now: float) -> None:
        """Take in an Open. Raises nothing: what is wrong with it shows later, in a thread."""
        ref = body[:REF_BYTES]
        if ref in self._established:
            purpose, node = self._established[ref]
            if purpose is Purpose.STREAM:
                self._on_opened_again(node, now)
            return
        answered = self._answered.get(ref)
        if answered is None:
            self._use.counters["open_unexpected"] += 1
        elif not answered.is_busy_with(body):
            self._verify_open(answered, body)

    def _verify_open(self, answered: _Answered, body: bytes) -> None:
        me, pending = self._use.standing(), answered.pending
        answered.verifying = True
        self._use.world.defer(
            lambda: handshake.open_open(me, pending, body),
            lambda done, now: self._open_verified(answered, *done, now),
            lambda error, _: self._open_false(answered, error),
        )

    def _open_false(self, answered: _Answered, error: WireError) -> None:
        answered.verified()
        self._use.dropped(error)
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
            pending.received.ask.features,
            asked=False,
            order=order_of(pending.received.ask),
            tether_kind=pending.answer.tether.kind if tether is not None else "",
        )
        self._use.finish(done, tether, opening.tether.data, _nothing, now)


def _nothing() -> None:
    """For the end that has nothing to repeat."""
