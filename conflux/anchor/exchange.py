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
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import Peer
from conflux.anchor.limits import RateLimit
from conflux.anchor.step import Established, Means, Post
from conflux.anchor.timers import Timers
from conflux.anchor.world import World
from conflux.api import NodeId, Tether, WireError
from conflux.wire.control import AuthLevel, Kind

MESSAGES_PER_S = 20.0
MESSAGES_BURST = 40.0
CONNECT_DEADLINE_S = 10.0


class Exchange:
    """All handshakes of a node: `asking` those that it began, `answering` those of others."""

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
        self._use = Means(
            standing=standing,
            world=world,
            timers=timers,
            wall=wall,
            counters=counters,
            post=post,
            post_in_stream=post_in_stream,
            post_every_way=post_every_way,
            tether_kinds=tether_kinds,
            auth_level=auth_level,
            has_tether=has_tether,
            finish=self._finish,
        )
        self._join_tether = join_tether
        self._on_established = on_established
        self._rate = RateLimit(per_s=MESSAGES_PER_S, burst=MESSAGES_BURST)
        self.asking = Asking(self._use)
        self.answering = Answering(
            self._use,
            stands_against=self.asking.stands_against,
            on_opened_again=on_opened_again,
        )

    def received(
        self, kind: Kind, sender: bytes, body: bytes, *, in_stream: bool, now: float
    ) -> None:
        """Take in Ask, Answer or Open; the reply goes the way that it came. Never raises."""
        if not self._rate.allows(sender, now=now):
            self._use.counters["control_over_rate"] += 1
            return
        try:
            if kind is Kind.ASK:
                self.answering.received_ask(sender, body, in_stream=in_stream, now=now)
            elif kind is Kind.ANSWER:
                self.asking.received(in_stream, body, now)
            else:
                self.answering.received_open(body, now)
        except WireError as error:
            self._use.dropped(error)

    def forget(self) -> None:
        """Drop everything, erasing keys."""
        self.asking.forget()
        self.answering.forget()

    def _finish(
        self,
        done: Established,
        tether: Tether | None,
        remote: bytes | None,
        confirmed: Callable[[], None],
        now: float,
    ) -> None:
        self.asking.settled(done.purpose, done.peer)
        if tether is not None:
            joined = self._join_tether(done.peer, tether)
            self._use.world.connect_tether(
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
            self._use.counters["tether_failed"] += 1
