"""A's side of handshakes: Asks that are out, Answers to them, Opens that are repeated.

    asked ──Answer──► verifying ──► tether answered ──► opened ──► established
          └─deadline─► failed

An Ask and an Open are repeated byte for byte until they are answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conflux.anchor import handshake
from conflux.anchor.handshake import (
    PendingAsk,
    ReceivedAnswer,
    Secrets,
    Standing,
    message_ref,
)
from conflux.anchor.identity import Peer, node_tag
from conflux.anchor.step import (
    OPEN_DEADLINE_S,
    RELAY_ASK_DEADLINE_S,
    Established,
    Means,
    Step,
    order_of,
)
from conflux.anchor.timers import Timer
from conflux.api import NodeId, Tether, WireError
from conflux.wire.control import (
    REF_BYTES,
    Description,
    Kind,
    Purpose,
    Target,
    TargetKind,
    envelope,
)
from conflux.wire.credentials import TeamKey

MAX_ASKED = 256
ASK_REPEAT_S = (0.5, 1.0, 2.0)
HASTE_REPEAT_S = (0.1, 0.2, 0.3, 0.4)
"""Also of an Ask with teams that Guardian has just changed: the peer may get its grant later."""
ASK_DEADLINE_S = 5.0
OPEN_REPEAT_S = (0.3, 0.6, 1.2, 2.4, 4.8)


@dataclass(eq=False, kw_only=True)
class _Asked(Step):
    pending: PendingAsk
    tag: bytes
    sent_at: float
    took_s: float = math.inf
    """Until the Answer came."""
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


def _never(now: float) -> bool:
    return False


class Asking:
    """Every handshake that this node began."""

    def __init__(self, use: Means) -> None:
        self._use = use
        self._asked: dict[bytes, _Asked] = {}
        self._opening: set[_Asked] = set()
        """Answered, and an Open is being made."""
        self._opened: dict[bytes, _Opened] = {}
        self.answer_s = math.inf
        """How long Answers take, smoothed; infinite before the first."""

    # Ask

    def ask(
        self,
        target: Target,
        tag: bytes,
        *,
        purpose: Purpose,
        kinds: Sequence[str] | None = None,
        avoid: Sequence[bytes] = (),
        in_stream: bool = False,
        in_haste: bool = False,
        failed: Callable[[float], None],
        patience_s: float = math.inf,
        gives_up: Callable[[float], bool] = _never,
        now: float,
    ) -> bool:
        """Ask *target*, found under *tag*; False if too many Asks are out.

        *in_stream*: the Ask goes inside the stream to a node with which we have one. *kinds* of
        tethers are those worth a try unless given; with none, certificates are all that is shown.
        *in_haste*: the target may be able to answer any moment, so it is asked again and again for
        a while.
        Ends in `on_established`, or in *failed(now)* after the deadline, or without a word if there
        is no Answer after *patience_s* and *gives_up(now)* then says so.
        """
        if len(self._asked) >= MAX_ASKED:
            self._use.counters["ask_over_limit"] += 1
            return False
        pending = handshake.make_ask(
            self._use.standing(),
            target,
            purpose=purpose,
            auth_level=self._use.auth_level,
            tether_kinds=self._kinds_for(target, now) if kinds is None else kinds,
            avoid=avoid,
            wall=self._use.wall(now),
            features=self._use.features,
        )
        ref = pending.ref
        # Sent again to "any relay" the same Ask would reach another node: those are made anew.
        anybody = target.kind is TargetKind.ANY_RELAY
        after_s = RELAY_ASK_DEADLINE_S if anybody else ASK_DEADLINE_S
        deadline = self._use.timers.at(now + after_s, lambda now: self._ask_ran_out(ref, now))
        asked = _Asked(
            key=pending.key,
            deadline=deadline,
            pending=pending,
            tag=tag,
            sent_at=now,
            in_stream=in_stream,
            failed=failed,
        )
        for after in () if anybody else ASK_REPEAT_S:
            asked.repeats.append(
                self._use.timers.at(now + after, lambda now: self._repeat_ask(asked, now))
            )
        for after in HASTE_REPEAT_S if in_haste else ():
            asked.repeats.append(
                self._use.timers.at(now + after, lambda now: self._hurry(asked, now))
            )
        if patience_s < after_s:
            asked.repeats.append(
                self._use.timers.at(
                    now + patience_s, lambda now: self._lose_patience(asked, gives_up, now)
                )
            )
        self._asked[ref] = asked
        self._use.send(in_stream, tag, pending.message, now)
        return True

    def _kinds_for(self, target: Target, now: float) -> Sequence[str]:
        if target.kind is not TargetKind.NODE:
            return self._use.kinds.own
        return self._use.kinds.to_try(NodeId(target.value), now=now)

    def is_asking(self, purpose: Purpose, target: Target) -> bool:
        return any(
            asked.target == target and asked.purpose is purpose for asked in self._asked.values()
        )

    def teams_changed(self, teams: Sequence[TeamKey], now: float) -> None:
        """There is a new grant with *teams*: Asks with the tags of others are made anew."""
        for ref, asked in list(self._asked.items()):
            if asked.purpose is Purpose.STREAM and list(asked.pending.teams) != list(teams):
                del self._asked[ref]
                asked.end()
                self.ask(
                    asked.target,
                    asked.tag,
                    purpose=asked.purpose,
                    in_stream=asked.in_stream,
                    in_haste=True,
                    failed=asked.failed,
                    now=now,
                )

    def stands_against(self, me: Standing, purpose: Purpose, peer: Peer) -> bool:
        """*peer* asks, too: tell whether our own Ask to it stands; if not, it yields."""
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

    def settled(self, purpose: Purpose, peer: Peer) -> None:
        """A handshake with *peer* ended well: an Ask that crossed it, or that went to another of
        its addresses, is not needed any more."""
        for asked in list(self._asked.values()):
            if asked.purpose is purpose and asked.is_to(peer):
                del self._asked[asked.pending.ref]
                asked.end()

    def forget(self) -> None:
        """Drop everything, erasing keys."""
        for asked in self._asked.values():
            asked.end()
        for opened in self._opened.values():
            opened.stop_repeating()
        self._asked.clear()
        self._opening.clear()
        self._opened.clear()

    def _repeat_ask(self, asked: _Asked, now: float) -> None:
        if not asked.yielded and not asked.verifying:
            self._use.post.send_every_way(asked.tag, asked.pending.message, now=now)

    def _hurry(self, asked: _Asked, now: float) -> None:
        if not asked.yielded and not asked.verifying:
            self._use.send(asked.in_stream, asked.tag, asked.pending.message, now)

    def _lose_patience(self, asked: _Asked, gives_up: Callable[[float], bool], now: float) -> None:
        if not asked.verifying and gives_up(now):
            del self._asked[asked.pending.ref]
            asked.end()

    def _ask_ran_out(self, ref: bytes, now: float) -> None:
        asked = self._asked.pop(ref)
        asked.end()
        asked.failed(now)

    # Answer

    def received(self, in_stream: bool, body: bytes, now: float) -> None:
        """Take in an Answer. Raises nothing: what is wrong with it shows later, in a thread."""
        answer_ref = message_ref(envelope(Kind.ANSWER, body))
        opened = self._opened.get(answer_ref)
        if opened is not None:
            self._use.send(in_stream, opened.tag, opened.message, now)
            return
        asked = self._asked.get(body[:REF_BYTES])
        if asked is None:
            self._use.counters["answer_unexpected"] += 1
        elif not asked.is_busy_with(body):
            asked.in_stream = in_stream
            asked.took_s = now - asked.sent_at
            known = self.answer_s if self.answer_s < math.inf else asked.took_s
            self.answer_s = known + (asked.took_s - known) / 4
            self._verify_answer(asked, body, now)

    def _verify_answer(self, asked: _Asked, body: bytes, now: float) -> None:
        me, wall, pending = self._use.standing(), self._use.wall(now), asked.pending
        asked.verifying = True
        self._use.world.defer(
            lambda: handshake.open_answer(me, pending, body, wall=wall),
            lambda received, _: self._answer_verified(asked, me, received),
            lambda error, now: self._answer_false(asked, error, now),
        )

    def _answer_false(self, asked: _Asked, error: WireError, now: float) -> None:
        asked.verified()
        self._use.dropped(error)
        if asked.rivals and not asked.ended:
            self._verify_answer(asked, asked.rivals.pop(0), now)

    def _answer_verified(self, asked: _Asked, me: Standing, received: ReceivedAnswer) -> None:
        asked.verified()
        if self._asked.pop(asked.pending.ref, None) is None:
            return
        asked.end()
        self._opening.add(asked)
        offer = received.answer.tether
        if offer.kind in self._use.kinds.own and not self._use.has_tether(received.peer.node_id):
            self._use.world.answer_tether(
                offer.kind,
                offer.data,
                lambda tether, now: self._tether_made(asked, me, received, tether, now),
            )
        else:
            self._open(asked, me, received, None)

    def _tether_made(
        self,
        asked: _Asked,
        me: Standing,
        received: ReceivedAnswer,
        tether: Tether | None,
        now: float,
    ) -> None:
        if tether is None:
            kind = received.answer.tether.kind
            self._use.kinds.failed(received.peer.node_id, kind, now=now)
        self._open(asked, me, received, tether)

    # Open

    def _open(
        self, asked: _Asked, me: Standing, received: ReceivedAnswer, tether: Tether | None
    ) -> None:
        description = Description()
        if tether is not None:
            description = Description(received.answer.tether.kind, tether.description)
        self._use.world.defer(
            lambda: handshake.make_open(me, received, tether=description),
            lambda made, now: self._opened_now(asked, me, received, tether, *made, now),
            lambda error, now: self._open_not_made(asked, tether, error, now),
        )

    def _open_not_made(
        self, asked: _Asked, tether: Tether | None, error: WireError, now: float
    ) -> None:
        if self._was_forgotten(asked, tether):
            return
        if tether is not None:
            tether.close()
        self._use.dropped(error)
        asked.failed(now)

    def _was_forgotten(self, asked: _Asked, tether: Tether | None) -> bool:
        """Tell whether `forget` came while the Open was made: then nothing comes of it."""
        if asked in self._opening:
            self._opening.remove(asked)
            return False
        if tether is not None:
            tether.close()
        return True

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
        if self._was_forgotten(asked, tether):
            secrets.erase()
            return
        answer, peer = received.answer, received.peer
        tag = node_tag(me.grant.plane_key, peer.node_id)
        purpose = received.pending.ask.purpose
        # Without streams or a tether to be nothing hangs on it: it only lets the peer forget.
        matters = purpose is Purpose.STREAM or tether is not None
        repeats = [
            self._use.timers.at(
                now + after, lambda now: self._use.send(asked.in_stream, tag, message, now)
            )
            for after in (OPEN_REPEAT_S if matters else ())
        ]
        ref = message_ref(received.message)
        opened = self._opened[ref] = _Opened(message, tag, peer.node_id, repeats)
        self._use.timers.at(now + OPEN_DEADLINE_S, lambda _: self._over(ref))
        self._use.send(asked.in_stream, tag, message, now)
        done = Established(
            purpose,
            peer,
            received.teams,
            answer.suite,
            answer.auth_level,
            secrets,
            answer.features,
            asked=True,
            order=order_of(received.pending.ask),
            took_s=asked.took_s,
            tether_kind=answer.tether.kind if tether is not None else "",
        )
        self._use.finish(done, tether, None, opened.stop_repeating, now)

    def _over(self, answer_ref: bytes) -> None:
        self._opened.pop(answer_ref, None)

    def confirmed(self, node: NodeId) -> None:
        """*node* has shown that it got our Open: stop repeating it."""
        for opened in self._opened.values():
            if opened.node == node:
                opened.stop_repeating()
