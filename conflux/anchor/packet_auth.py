"""Packet authentication of a node: for each stream what its session's level asks for.

    handshake    nothing beyond AES-256-GCM
    checkpoint   a Witness at the sender, a Guard at the receiver; frames are delivered at once
    strict       the same; frames are delivered once they are covered

Leaves name their stream, so they go inside whichever session the two nodes have by then: streams
that a rekey replaced are covered to the last frame. docs/protocol/packet-auth.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from conflux.anchor.guard import Guard, Room
from conflux.anchor.handshake import Standing
from conflux.anchor.notary import Notary, Witness, verify_checkpoint
from conflux.anchor.stream import Session
from conflux.anchor.timers import Timers
from conflux.anchor.world import World
from conflux.api import NodeId, WireError
from conflux.wire import checkpoint
from conflux.wire.checkpoint import Checkpoint, Covered, Digests, Message, Wanted
from conflux.wire.control import AuthLevel


class PacketAuth:
    """Every Witness and Guard of a node.

    *tell(node, message, now)* sends inside the stream to *node*, best effort. *deliver* hands on a
    superframe. *on_forged* and *on_lapsed* get an inbound session, *on_silent* an outbound one; all
    three are to close it.
    """

    def __init__(
        self,
        standing: Callable[[], Standing],
        world: World,
        timers: Timers,
        counters: Counter[str],
        *,
        tell: Callable[[NodeId, bytes, float], None],
        deliver: Callable[[memoryview, Session], None],
        on_forged: Callable[[Session, float], None],
        on_lapsed: Callable[[Session, float], None],
        on_silent: Callable[[Session, float], None],
    ) -> None:
        self._standing = standing
        self._world = world
        self._timers = timers
        self._counters = counters
        self._tell = tell
        self._deliver = deliver
        self._on_forged = on_forged
        self._on_lapsed = on_lapsed
        self._on_silent = on_silent
        self._notary = Notary(world, counters, lambda: standing().identity.signer)
        self._room = Room()
        self._witnesses: dict[int, tuple[Session, Witness]] = {}
        self._guards: dict[int, tuple[Session, Guard]] = {}

    @property
    def uncovered(self) -> int:
        """How many digests and frames wait for an acknowledgement or a leaf."""
        return sum(witness.uncovered for _, witness in self._witnesses.values()) + sum(
            guard.uncovered for _, guard in self._guards.values()
        )

    @property
    def signatures(self) -> int:
        """How many signatures were made, each for all streams of which something was due."""
        return self._notary.signatures

    @property
    def watched(self) -> int:
        """How many streams have a Witness or a Guard."""
        return len(self._witnesses) + len(self._guards)

    def watch(self, session: Session) -> None:
        """Begin with a new session, before its first frame."""
        inbound = session.inbound
        if session.auth_level is AuthLevel.HANDSHAKE or inbound is None:
            return
        is_strict = session.auth_level is AuthLevel.STRICT
        node, out = session.node_id, session.out

        def send(message: bytes, now: float) -> None:
            self._tell(node, message, now)

        witness = out.witness = Witness(
            self._timers,
            self._notary,
            transcript=session.transcript,
            stream_id=out.stream_id,
            is_strict=is_strict,
            send=send,
            on_silent=lambda now: self._on_silent(session, now),
        )
        guard = inbound.guard = Guard(
            self._timers,
            self._counters,
            self._room,
            transcript=session.transcript,
            stream_id=inbound.stream_id,
            is_strict=is_strict,
            send=send,
            deliver=lambda superframe: self._deliver(superframe, session),
            verify=lambda message, then, failed: self._verify(session, message, then, failed),
            on_forged=lambda now: self._on_forged(session, now),
            on_lapsed=lambda now: self._on_lapsed(session, now),
        )
        self._witnesses[out.stream_id] = session, witness
        self._guards[inbound.stream_id] = session, guard

    def finish(self, session: Session, now: float) -> None:
        """*session* seals no more: what it sealed is covered, then `release` may come."""
        _, witness = self._witnesses.get(session.out.stream_id, (None, None))
        if witness is not None:
            witness.finish(now)

    def release(self, session: Session) -> None:
        """Forget all about *session*. Twice is fine."""
        _, witness = self._witnesses.pop(session.out.stream_id, (None, None))
        if witness is not None:
            witness.stop()
        inbound = session.inbound
        _, guard = self._guards.pop(inbound.stream_id if inbound else -1, (None, None))
        if guard is not None:
            guard.stop()

    def received(self, session: Session, message: bytes, now: float) -> bool:
        """Take in a control message from inside *session*; False if it is none of ours."""
        if not checkpoint.is_ours(message):
            return False
        try:
            self._take(session, checkpoint.decode(message), now)
        except WireError as error:
            self._counters[f"packet auth: {error}"] += 1
        return True

    def _take(self, session: Session, message: Message, now: float) -> None:
        if isinstance(message, Checkpoint):
            self._guard(session, message.leaf.stream_id).checkpoint(message, now)
        elif isinstance(message, Digests):
            self._guard(session, message.stream_id).digests(message, now)
        elif isinstance(message, Wanted):
            self._witness(session, message.stream_id).wanted(message, now)
        elif isinstance(message, Covered):
            self._witness(session, message.stream_id).covered(message.first)

    def _guard(self, session: Session, stream_id: int) -> Guard:
        watched, guard = self._guards.get(stream_id, (None, None))
        if watched is None or guard is None or watched.node_id != session.node_id:
            raise WireError("message about an unknown stream")
        return guard

    def _witness(self, session: Session, stream_id: int) -> Witness:
        watched, witness = self._witnesses.get(stream_id, (None, None))
        if watched is None or witness is None or watched.node_id != session.node_id:
            raise WireError("message about an unknown stream")
        return witness

    def _verify(
        self,
        session: Session,
        message: Checkpoint,
        then: Callable[[float], None],
        failed: Callable[[WireError], None],
    ) -> None:
        crypto, public = self._standing().crypto, session.peer.certificate.sign_public
        self._world.defer(
            lambda: verify_checkpoint(crypto, public, message),
            lambda _, now: then(now),
            lambda error, _: failed(error),
        )
