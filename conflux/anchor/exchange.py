"""Handshakes of a node: who asks whom, in messages that come by the Master, streams or floods.

    A (asking.py)                         B (answering.py)
    ask      ── Ask ──►                   received_ask
    received ◄── Answer ──
             ── Open ──►                  received_open
             both: finish ──► tether, on_established

Repeats are byte-identical in both directions; of two crossing Asks the smaller NodeId's wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from conflux.anchor.answering import Answering
from conflux.anchor.asking import Asking
from conflux.anchor.attempts import Attempts
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import Peer
from conflux.anchor.kinds import TetherKinds
from conflux.anchor.limits import RateLimit
from conflux.anchor.post import Post
from conflux.anchor.step import Established, Means
from conflux.anchor.timers import Timers
from conflux.anchor.world import World
from conflux.api import NodeId, Tether, WireError
from conflux.wire.control import AuthLevel, Kind, Purpose

MESSAGES_PER_S = 20.0
MESSAGES_BURST = 40.0
CONNECT_DEADLINE_S = 10.0
"""How long a tether may take to connect."""
FALLBACK_DEADLINE_S = 4.0
"""The same while there is another kind to fall back to."""

ASK_TETHER_S = 0.1
"""After an Open: the peer has verified it by then."""


class Exchange:
    """All handshakes of a node: `asking` those that it began, `answering` those of others.

    *admits(done, now)* tells whether what ended a moment ago still counts: a handshake takes time.
    """

    def __init__(
        self,
        standing: Callable[[], Standing],
        world: World,
        timers: Timers,
        wall: Callable[[float], float],
        counters: Counter[str],
        *,
        post: Post,
        tether_kinds: Sequence[str],
        has_tether: Callable[[NodeId], bool],
        join_tether: Callable[[Peer, Tether, str], Callable[[float], None]],
        attempts: Attempts,
        admits: Callable[[Established, float], bool],
        on_established: Callable[[Established, float], None],
        on_through: Callable[[Established, float], None],
        on_opened_again: Callable[[NodeId, float], None],
        knows: Callable[[bytes], bool],
        ask_tether: Callable[[NodeId, float], None],
        auth_level: AuthLevel,
        features: int,
    ) -> None:
        self._kinds = TetherKinds(tether_kinds)
        self._use = Means(
            standing=standing,
            world=world,
            timers=timers,
            wall=wall,
            counters=counters,
            post=post,
            kinds=self._kinds,
            auth_level=auth_level,
            features=features,
            has_tether=has_tether,
            finish=self._finish,
        )
        self._join_tether = join_tether
        self._attempts = attempts
        self._admits = admits
        self._on_established = on_established
        self._on_through = on_through
        self._knows = knows
        self._ask_tether = ask_tether
        self._connecting: set[Tether] = set()
        self._rate = RateLimit(per_s=MESSAGES_PER_S, burst=MESSAGES_BURST)
        self.asking = Asking(self._use)
        self.answering = Answering(
            self._use,
            knows=knows,
            stands_against=self.asking.stands_against,
            on_opened_again=on_opened_again,
        )

    def received(
        self, kind: Kind, tag: bytes | None, sender: bytes, body: bytes, now: float
    ) -> None:
        """Take in Ask, Answer or Open; the reply goes the way that it came. Never raises.

        *tag* is the one that it was sent to, None inside a stream.
        """
        if not self._rate.allows(sender, now=now):
            self._use.counters["control_over_rate"] += 1
            return
        try:
            if kind is not Kind.ASK and tag not in (None, self._handle()):
                # What answers us comes to us. Elsewhere it would show whoever sends it once more
                # that an address is ours.
                raise WireError("Answer or Open under another tag")
            if kind is Kind.ASK:
                self.answering.received_ask(tag, sender, body, now=now)
            elif kind is Kind.ANSWER:
                self.asking.received(tag is None, body, now)
            else:
                self.answering.received_open(body, now)
        except WireError as error:
            self._use.dropped(error)

    def _handle(self) -> bytes:
        return self._use.standing().grant.control.handle

    def drop_idle(self, now: float) -> None:
        """Forget what was remembered of others and counts no more."""
        self._rate.drop_idle(now)
        self._kinds.drop_idle(now)
        self._attempts.drop_idle(now)
        self.answering.drop_idle(now)

    def forget(self) -> None:
        """Drop everything, erasing keys. Tethers that are connecting get no word out."""
        self.asking.forget()
        self.answering.forget()
        for tether in self._connecting:
            tether.abandon()
        self._connecting.clear()

    def _finish(
        self,
        done: Established,
        tether: Tether | None,
        remote: bytes | None,
        confirmed: Callable[[], None],
        now: float,
    ) -> None:
        if not self._admits(done, now):
            confirmed()
            if tether is not None:
                tether.close()
            done.secrets.erase()
            return
        self.asking.settled(done.purpose, done.peer)
        if tether is not None:
            self._connect(done, tether, remote, confirmed, now)
        self._on_established(done, now)
        done.secrets.erase()
        node, is_stream = done.peer.node_id, done.purpose is Purpose.STREAM
        lacks = tether is None and done.asked and is_stream and not self._use.has_tether(node)
        if lacks and self._kinds.is_untried(node, now=now):
            # A busy peer begins no tethers with those whom it does not know: soon it knows us.
            self._use.timers.at(now + ASK_TETHER_S, lambda now: self._ask_known(node, now))

    def _ask_known(self, node: NodeId, now: float) -> None:
        if self._knows(node):
            self._ask_tether(node, now)

    def _connect(
        self,
        done: Established,
        tether: Tether,
        remote: bytes | None,
        confirmed: Callable[[], None],
        now: float,
    ) -> None:
        node, kind = done.peer.node_id, done.tether_kind
        joined = self._join_tether(done.peer, tether, kind)

        def connected(up: bool, now: float) -> None:
            self._connecting.discard(tether)
            self._attempts.ended(node, up=up, now=now)
            if up and done.peer.certificate.serial in self._use.standing().revoked:
                tether.close()
                self._use.counters["peer_revoked"] += 1
            elif up:
                # The tether's secret came out of the handshake: the peer has seen our Open.
                confirmed()
                self._kinds.worked(node, kind)
                joined(now)
                self._on_through(done, now)
            else:
                self._failed(done, now)

        self._attempts.began(node, now=now)
        self._connecting.add(tether)
        has_other = self._kinds.has_other(node, kind, now=now)
        self._use.world.connect_tether(
            tether,
            done.secrets.tether,
            remote,
            deadline_s=FALLBACK_DEADLINE_S if has_other else CONNECT_DEADLINE_S,
            then=connected,
        )

    def _failed(self, done: Established, now: float) -> None:
        """No tether of this kind connects the two: whoever asked asks for another kind."""
        self._use.counters["tether_failed"] += 1
        node, kind = done.peer.node_id, done.tether_kind
        has_other = self._kinds.has_other(node, kind, now=now)
        self._kinds.failed(node, kind, now=now)
        if has_other and done.asked and not self._use.has_tether(node):
            self._ask_tether(node, now)
