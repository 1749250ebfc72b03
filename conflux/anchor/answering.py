"""B's side of handshakes: Asks that come in, Answers that wait for their Open.

    received ──its turn──► certified ──► tether offered ──► answered ──Open──► established
          └────────────────────┴──────has to give way──────────┘

An Ask that comes again gets the same bytes again. places.py says whose turn it is, and who has to
give way under a flood.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass

from conflux.anchor import handshake
from conflux.anchor.affinity import Strangers
from conflux.anchor.handshake import (
    NoCommonTeam,
    PendingAnswer,
    ReceivedAsk,
    Secrets,
    Standing,
    message_ref,
)
from conflux.anchor.identity import (
    CLOCK_SKEW_S,
    Peer,
    address_tag,
    node_id,
    node_tag,
    relay_tag,
)
from conflux.anchor.limits import RateLimit, SeenNonces, Shares
from conflux.anchor.places import Claim, Places
from conflux.anchor.step import (
    OPEN_DEADLINE_S,
    RELAY_ASK_DEADLINE_S,
    Established,
    Means,
    Step,
    order_of,
)
from conflux.api import TAG_BYTES, NodeId, Tether, WireError
from conflux.wire.control import (
    REF_BYTES,
    Ask,
    Description,
    Kind,
    Open,
    Purpose,
    Target,
    TargetKind,
    envelope,
)

MAX_ANSWERED = 1_024
"""Asks that wait, are being worked on, or answered and not yet opened."""
MAX_PER_SENDER = 4
MAX_AT_WORK = 32
"""Asks that the worker threads are given at once: the order of the others is decided later."""
MAX_OFFERS_PER_SENDER = 2
MAX_OFFERS = 128
"""Tethers begun for others and not yet opened: each holds sockets. Half of them are for those with
whom there are streams: everybody else can open these without a tether, and ask for one then."""
MAX_NONCES = 65_536


@dataclass(slots=True, eq=False)
class _Working:
    """An Ask that passed the cheap checks."""

    ref: bytes
    sender: bytes
    in_stream: bool
    claim: Claim
    me: Standing
    received: ReceivedAsk
    wall: float


@dataclass(frozen=True, slots=True)
class _Again:
    """An Answer for an Ask to *target* that comes once more, and the asker's tag."""

    tag: bytes
    message: bytes
    target: Target


@dataclass(eq=False, kw_only=True)
class _Answered(Step):
    pending: PendingAnswer
    ask_ref: bytes
    sender: bytes
    tether: Tether | None
    sent_at: float
    took_s: float = math.inf
    """Until the Open came."""


class Answering:
    """Every handshake that another node began.

    *knows(sender)* tells whether there are streams with the node of a handle, or of a NodeId.
    *stands_against(me, purpose, peer)* tells whether our own Ask to *peer* beats the one of *peer*.
    *on_opened_again(node, now)*: *node* repeats the Open of a session that is established.
    """

    def __init__(
        self,
        use: Means,
        *,
        knows: Callable[[bytes], bool],
        stands_against: Callable[[Standing, Purpose, Peer], bool],
        on_opened_again: Callable[[NodeId, float], None],
    ) -> None:
        self._use = use
        self._knows = knows
        self._stands_against = stands_against
        self._on_opened_again = on_opened_again
        self._places = Places(limit=MAX_ANSWERED, per_sender=MAX_PER_SENDER)
        self._working: dict[bytes, _Working] = {}
        self._at_work = 0
        self._begun = Shares()
        """Tethers begun for others, by sender, each named by its Ask."""
        self._answered: dict[bytes, _Answered] = {}
        self._answers: dict[bytes, _Again] = {}
        self._established: dict[bytes, tuple[Purpose, NodeId]] = {}
        self._nonces = SeenNonces(keep_s=2 * CLOCK_SKEW_S, limit=MAX_NONCES)
        self._strangers = Strangers()
        self._offers = RateLimit(per_s=1 / RELAY_ASK_DEADLINE_S, burst=1)

    def drop_idle(self, now: float) -> None:
        self._nonces.drop_idle(now)
        self._offers.drop_idle(now)
        self._strangers.drop_idle(now)

    def now_friends(self, now: float) -> list[NodeId]:
        """Who asked in vain lately, and shares a team with us by the present grant."""
        return self._strangers.that_share(self._use.standing().grant.teams, now=now)

    def forget(self) -> None:
        """Drop everything, erasing keys."""
        for ask_ref in [*self._working, *(one.ask_ref for one in self._answered.values())]:
            self._give_way(ask_ref)
        self._answers.clear()
        self._established.clear()
        # What was asked before may be asked once more, and gets another answer.
        self._nonces = SeenNonces(keep_s=2 * CLOCK_SKEW_S, limit=MAX_NONCES)

    # Ask

    def received_ask(self, tag: bytes | None, sender: bytes, body: bytes, *, now: float) -> None:
        """Take in an Ask that was sent to *tag*, None inside a stream.

        Raises WireError for one that is dropped.
        """
        in_stream = tag is None
        ref = message_ref(envelope(Kind.ASK, body))
        me, wall = self._use.standing(), self._use.wall(now)
        if ref in self._answers:
            again = self._answers[ref]
            _check_tag(me, tag, again.target)
            self._use.send(in_stream, again.tag, again.message, now)
            return
        if ref in self._working:
            return
        is_known = in_stream or self._knows(sender)
        if not self._places.has_room(sender, Claim.KNOWN if is_known else Claim.TEAM):
            self._use.counters["ask_over_limit"] += 1
            return
        try:
            received = handshake.open_ask(me, body, wall=wall)
        except NoCommonTeam as vain:
            _check_tag(me, tag, vain.ask.target)
            self._check_origin(me, sender, vain.ask)
            node = node_id(vain.ask.certificate.sign_public)
            self._strangers.note(node, vain.core_hash, vain.ask.team_tags, now=now)
            raise
        _check_tag(me, tag, received.ask.target)
        self._check_origin(me, sender, received.ask)
        claim = _claim(received, is_known=is_known)
        # First the room: an Ask that found none is welcome when it comes again.
        if not self._places.has_room(sender, claim):
            self._use.counters["ask_over_limit"] += 1
            return
        if not self._nonces.fresh(received.ask.nonce, by=sender, now=now):
            raise WireError("Ask seen before")
        yields = self._places.take(ref, sender, claim)
        if yields is not None:
            self._use.counters["ask_gave_way"] += 1
            self._give_way(yields)
        self._working[ref] = _Working(ref, sender, in_stream, claim, me, received, wall)
        self._work()

    def _give_way(self, ask_ref: bytes) -> None:
        """Forget an Ask, whatever became of it; what threads still do with it comes to nothing."""
        if self._working.pop(ask_ref, None) is not None:
            self._places.leave(ask_ref)
        else:
            self._answer_ran_out(message_ref(self._answers[ask_ref].message), ask_ref)

    def _work(self) -> None:
        """Give the threads what is next."""
        while self._at_work < MAX_AT_WORK and (ref := self._places.next()) is not None:
            self._at_work += 1
            self._verify(self._working[ref])

    def _verify(self, work: _Working) -> None:
        self._use.world.defer(
            lambda: work.me.verify(work.received.ask, work.wall),
            lambda peer, now: self._certified(work, peer, now),
            lambda error, _: self._gave_up(work, error),
        )

    def _rest(self) -> None:
        """The threads are done with an Ask for now: there is room for another."""
        self._at_work -= 1
        self._work()

    def _counts(self, work: _Working) -> bool:
        """Tell whether *work* has not had to give way meanwhile."""
        return self._working.get(work.ref) is work

    def _dismiss(self, work: _Working) -> None:
        if self._counts(work):
            del self._working[work.ref]
            self._places.leave(work.ref)

    def _check_origin(self, me: Standing, sender: bytes, ask: Ask) -> None:
        """An Ask is not signed: the Master's handles at least must be those of its certificate.

        Flooded ones come under the name of who brought them, and count against him.
        """
        asker = node_id(ask.certificate.sign_public)
        brought = len(sender) != TAG_BYTES
        if not brought and sender != node_tag(me.grant.plane_key, asker):
            raise WireError("Ask under another node's handle")

    def _certified(self, work: _Working, peer: Peer, now: float) -> None:
        self._rest()
        if not self._counts(work):
            return
        if not self._is_worth_answering(work, peer, now):
            self._dismiss(work)
            return
        ask = work.received.ask
        kinds = self._use.kinds.common(peer.node_id, ask.tether_kinds, now=now)
        # Who asks for a tether alone has none, even if we think that there is one.
        wanted = ask.purpose is Purpose.TETHER or not self._use.has_tether(peer.node_id)
        if not (kinds and wanted and self._may_begin(work)):
            self._answer(work, peer, "", None)
            return
        self._begun.add(work.sender, work.ref)
        self._offer(work, peer, list(kinds))

    def _may_begin(self, work: _Working) -> bool:
        most = MAX_OFFERS if work.claim is Claim.KNOWN else MAX_OFFERS // 2
        return self._begun.of(work.sender) < MAX_OFFERS_PER_SENDER and len(self._begun) < most

    def _offer(self, work: _Working, peer: Peer, kinds: list[str]) -> None:
        """Begin a tether of the first of *kinds* that can be made, and answer with it."""
        if not kinds:
            self._begun.remove(work.sender, work.ref)
            self._answer(work, peer, "", None)
            return
        kind, *others = kinds

        def made(tether: Tether | None, _: float) -> None:
            if tether is None:
                self._offer(work, peer, others)
            else:
                self._answer(work, peer, kind, tether)

        self._use.world.offer_tether(kind, made)

    def _end(self, sender: bytes, ask_ref: bytes, tether: Tether | None) -> None:
        """Close our end of a tether that nobody will connect."""
        if tether is not None:
            self._begun.remove(sender, ask_ref)
            tether.close()

    def _is_worth_answering(self, work: _Working, peer: Peer, now: float) -> bool:
        purpose = work.received.ask.purpose
        if self._stands_against(work.me, purpose, peer):
            self._use.counters["ask_crossed"] += 1
            return False
        # Several Asks for "any relay" may have been drawn to this one: one tether is enough.
        origin = work.sender + peer.node_id
        if purpose is Purpose.TETHER and not self._offers.allows(origin, now=now):
            self._use.counters["ask_doubled"] += 1
            return False
        return True

    # Answer

    def _answer(self, work: _Working, peer: Peer, kind: str, tether: Tether | None) -> None:
        offer = Description()
        if tether is not None:
            offer = Description(kind, tether.description)
        me, received = work.me, work.received
        self._at_work += 1
        self._use.world.defer(
            lambda: handshake.make_answer(
                me,
                received,
                peer,
                tether=offer,
                auth_level=self._use.auth_level,
                features=self._use.features,
            ),
            lambda pending, now: self._answered_now(work, pending, tether, now),
            lambda error, _: self._gave_up(work, error, tether),
        )

    def _answered_now(
        self, work: _Working, pending: PendingAnswer, tether: Tether | None, now: float
    ) -> None:
        self._rest()
        if not self._counts(work):
            pending.key.erase()
            self._end(work.sender, work.ref, tether)
            return
        del self._working[work.ref]
        tag = node_tag(work.me.grant.plane_key, pending.peer.node_id)
        ref, ask_ref = pending.ref, work.ref
        deadline = self._use.timers.at(
            now + OPEN_DEADLINE_S, lambda _: self._answer_ran_out(ref, ask_ref)
        )
        self._answered[ref] = _Answered(
            key=pending.key,
            deadline=deadline,
            pending=pending,
            ask_ref=ask_ref,
            sender=work.sender,
            tether=tether,
            sent_at=now,
        )
        self._answers[ask_ref] = _Again(tag, pending.message, work.received.ask.target)
        self._use.send(work.in_stream, tag, pending.message, now)

    def _answer_ran_out(self, ref: bytes, ask_ref: bytes) -> None:
        self._answers.pop(ask_ref, None)
        self._established.pop(ref, None)
        answered = self._answered.pop(ref, None)
        if answered is None:
            return
        self._places.leave(ask_ref)
        answered.end()
        self._end(answered.sender, ask_ref, answered.tether)

    def _gave_up(self, work: _Working, error: WireError, tether: Tether | None = None) -> None:
        self._rest()
        self._dismiss(work)
        self._end(work.sender, work.ref, tether)
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
            answered.took_s = now - answered.sent_at
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
            secrets.erase()
            return
        self._places.leave(answered.ask_ref)
        self._begun.remove(answered.sender, answered.ask_ref)
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
            took_s=answered.took_s,
            tether_kind=pending.answer.tether.kind if tether is not None else "",
        )
        self._use.finish(done, tether, opening.tether.data, _nothing, now)


def _check_tag(me: Standing, tag: bytes | None, target: Target) -> None:
    """An Ask counts under the tag of what it asks for, or inside a stream.

    Whoever asks for a node or any relay learns that it is there. Under the tag of an address he
    would learn that somebody has that address.
    """
    plane_key = me.grant.plane_key
    if target.kind is TargetKind.ADDRESS:
        expected = address_tag(plane_key, target.value)
    elif target.kind is TargetKind.NODE:
        expected = node_tag(plane_key, NodeId(target.value))
    else:
        expected = relay_tag(plane_key)
    if tag is not None and not hmac.compare_digest(tag, expected):
        raise WireError("Ask under another tag than that of its target")


def _claim(received: ReceivedAsk, *, is_known: bool) -> Claim:
    if is_known:
        return Claim.KNOWN
    return Claim.TEAM if received.ask.purpose is Purpose.STREAM else Claim.STRANGER


def _nothing() -> None:
    """For the end that has nothing to repeat."""
