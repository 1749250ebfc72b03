"""Asker: whom this node asks, what for, and under which tag.

a packet to an address            ─► streams with whoever has it
new keys, a peer to be met again  ─► streams with a node
a direct way, a newer certificate ─► a tether to a node
a way by others                   ─► a tether to any relay
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from conflux.anchor.asking import Asking
from conflux.anchor.attempts import Attempts
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import address_tag, node_tag, relay_tag
from conflux.anchor.limits import RateLimit
from conflux.anchor.stream import Session
from conflux.anchor.tether import Neighbours
from conflux.api import NodeId
from conflux.wire.control import Purpose, Target, TargetKind

DRAWS = 4
"""For one Ask to any relay."""
DRAW_S = 0.1
"""Who was drawn has at least so long to answer before another is drawn."""
DRAW_ANSWERS = 3
"""And so many times what Answers take."""
REDRAWS_PER_S = 0.2
REDRAWS_BURST = 8.0
"""Of all: where there is no relay, searching for one goes on for ever, and rarely is enough."""


class Asker:
    """Begins the handshakes that the stages want, none of them twice at a time.

    *has_streams(tag)* tells whether there are any with the node of that tag: what is asked of it
    then goes inside them.
    """

    def __init__(
        self,
        standing: Callable[[], Standing],
        asking: Asking,
        neighbours: Neighbours,
        attempts: Attempts,
        *,
        has_streams: Callable[[bytes], bool],
    ) -> None:
        self._standing = standing
        self._asking = asking
        self._neighbours = neighbours
        self._attempts = attempts
        self._has_streams = has_streams
        self._redraws = RateLimit(per_s=REDRAWS_PER_S, burst=REDRAWS_BURST)

    def address(self, address: bytes, *, failed: Callable[[float], None], now: float) -> bool:
        """Ask for streams with whoever has *address*; False if too many Asks are out.

        *failed(now)* is called if nobody answers.
        """
        target = Target(TargetKind.ADDRESS, address)
        tag = address_tag(self._plane_key, address)
        return self._asking.ask(target, tag, purpose=Purpose.STREAM, failed=failed, now=now)

    def streams(self, node: NodeId, *, in_stream: bool = False, in_haste: bool, now: float) -> bool:
        """Ask *node* for streams, unless that is under way; False if too many Asks are out."""
        target = Target(TargetKind.NODE, node)
        return self._asking.is_asking(Purpose.STREAM, target) or self._asking.ask(
            target,
            node_tag(self._plane_key, node),
            purpose=Purpose.STREAM,
            in_stream=in_stream,
            in_haste=in_haste,
            failed=_nothing,
            now=now,
        )

    def rekey(self, session: Session, *, in_haste: bool, now: float) -> bool:
        """Ask for streams that are to follow those of *session*."""
        # An unconfirmed peer may not have the keys of the stream.
        in_stream = session.confirmed
        return self.streams(session.node_id, in_stream=in_stream, in_haste=in_haste, now=now)

    def tether(self, node: NodeId, now: float) -> None:
        """Ask *node* for a tether, unless there is one."""
        if self._neighbours.get(node) is None:
            self._ask_node(node, None, now)

    def certificate(self, node: NodeId, now: float) -> None:
        """Exchange certificates with *node*, and make nothing else."""
        self._ask_node(node, (), now)

    def relay(self, avoid: Sequence[NodeId], now: float) -> None:
        """Ask any relay for a tether but *avoid*, and those on whom an attempt would be lost.

        One of all nodes is drawn, maybe one that is to be avoided and says nothing, or we. Unless
        somebody answers as soon as others do, another one is drawn, and given twice as long.
        """
        self._draw(avoid, 1, now)

    def drop_idle(self, now: float) -> None:
        """Forget what was remembered and counts no more."""
        self._redraws.drop_idle(now)

    def _draw(self, avoid: Sequence[NodeId], draw: int, now: float) -> bool:
        def draws_again(now: float) -> bool:
            return self._redraws.allows(b"", now=now) and self._draw(avoid, draw + 1, now)

        known = [neighbour.node_id for neighbour in self._neighbours.all()]
        patience_s = max(DRAW_S, DRAW_ANSWERS * self._asking.answer_s) * 2 ** (draw - 1)
        return self._asking.ask(
            Target(TargetKind.ANY_RELAY),
            relay_tag(self._plane_key),
            purpose=Purpose.TETHER,
            avoid=self._attempts.avoid(avoid, known, now=now),
            failed=_nothing,
            patience_s=patience_s if draw < DRAWS else math.inf,
            gives_up=draws_again,
            now=now,
        )

    @property
    def _plane_key(self) -> bytes:
        return self._standing().grant.plane_key

    def _ask_node(self, node: NodeId, kinds: Sequence[str] | None, now: float) -> None:
        target = Target(TargetKind.NODE, node)
        if self._asking.is_asking(Purpose.TETHER, target):
            return
        tag = node_tag(self._plane_key, node)
        self._asking.ask(
            target,
            tag,
            purpose=Purpose.TETHER,
            kinds=kinds,
            in_stream=self._has_streams(tag),
            failed=_nothing,
            now=now,
        )


def _nothing(now: float) -> None:
    """Whoever wants it asks again."""
