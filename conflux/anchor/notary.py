"""Signing what was sent: one ML-DSA signature for all streams of a node.

    OutStream.seal ─► Witness: digests ──due──► Notary ──thread──► CHECKPOINT ─► far end
                                                   └─ one at a time: what falls due meanwhile
                                                      shares the next signature

    Witness of one stream:  PENDING ──cut──► DRAFT ──signed──► repeated ──COVERED──► forgotten
                                                                  └──5 s──► on_silent

docs/protocol/packet-auth.md has the bytes and the limits.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from conflux.anchor.merkle import Tree, root_of
from conflux.anchor.timers import Timer, Timers
from conflux.anchor.world import World
from conflux.api import Buffer, CryptoDriver, Signer, WireError
from conflux.wire.checkpoint import (
    MAX_BATCH,
    MAX_DIGESTS,
    MAX_INLINE,
    MAX_SPAN,
    Checkpoint,
    Digests,
    Leaf,
    Wanted,
)
from conflux.wire.frame import OUTER

CONTEXT = b"VeilNet/1 checkpoint"
QUIET_S = 2.0
"""How long the first uncovered frame of a stream waits for others to share a leaf."""

BUSY_S = 0.25
"""The same, once BUSY_BYTES are uncovered."""

BUSY_BYTES = 113_000
COVER_S = 5.0
"""A frame not covered, and a leaf not acknowledged, for this long ends the session."""

REPEAT_S = 0.25
MAX_REPEATS = int(COVER_S / REPEAT_S)
"""Counted instead of timed: a host that stalled has not asked in vain."""

ANSWER_S = 0.1
"""The same leaf's digests are given out again after this time at the earliest."""

INLINE_FRAMES = 32
"""A leaf over at most so many frames brings their digests along: nothing to ask for."""

STRICT_SPAN = MAX_INLINE
"""Counters under one strict leaf: all of its digests fit beside it."""

UNPADDED_BYTES = 8_192
"""Of frames up to this length, without the outer header, the digest is that of BLAKE3 alone."""

BLOCK_BYTES = 16_384
"""Longer ones are hashed with zeros and their length behind, to a multiple of this."""

MAX_UNSIGNED = 65_536
"""Digests kept for one stream, until they are signed and acknowledged."""


def digest_of(frame: Buffer) -> bytes:
    """The digest of a whole sealed frame, without the outer header, which relays change.

    Not of its tag: whoever knows a GCM key can make another frame with the same tag. A long one is
    filled up to whole blocks: BLAKE3 takes 16 chunks at once, but what is left of them in steps.
    """
    body = memoryview(frame)[OUTER.size :]
    size = len(body)
    if size <= UNPADDED_BYTES:
        return blake3(body).digest()
    whole = size - size % BLOCK_BYTES
    zeros = _ZEROS[: -(size + 2) % BLOCK_BYTES]
    tail = b"".join((body[whole:], zeros, size.to_bytes(2)))
    return blake3(body[:whole]).update(tail).digest()


_ZEROS = memoryview(bytes(BLOCK_BYTES))


def digests_hash(digests: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()


@dataclass(slots=True, eq=False)
class Draft:
    """A leaf on its way: cut, then signed, then acknowledged."""

    witness: Witness
    leaf: Leaf
    digests: dict[int, bytes]
    message: bytes = b""
    sent_at: float = 0.0
    repeats: int = 0
    answered_at: float = float("-inf")


class Witness:
    """Takes the digest of each frame that one OutStream seals, and sees it signed and covered.

    *send(message, now)* puts a message into the peer's stream, best effort. *on_silent(now)* is
    called once if the far end does not acknowledge, or if more is sealed than can be signed.
    """

    __slots__ = (
        "_bytes",
        "_digests",
        "_drafts",
        "_due",
        "_is_stopped",
        "_is_strict",
        "_kept",
        "_notary",
        "_on_silent",
        "_repeat",
        "_send",
        "_since",
        "_span",
        "_stream_id",
        "_timers",
        "_transcript",
    )

    def __init__(
        self,
        timers: Timers,
        notary: Notary,
        *,
        transcript: bytes,
        stream_id: int,
        is_strict: bool,
        send: Callable[[bytes, float], None],
        on_silent: Callable[[float], None],
    ) -> None:
        self._timers = timers
        self._notary = notary
        self._transcript = transcript
        self._stream_id = stream_id
        self._is_strict = is_strict
        self._span = STRICT_SPAN if is_strict else MAX_SPAN
        self._send = send
        self._on_silent = on_silent
        self._digests: dict[int, bytes] = {}
        """Not in a leaf yet, by counter."""
        self._bytes = 0
        self._since = 0.0
        self._due: Timer | None = None
        self._drafts: dict[int, Draft] = {}
        """Signed and not acknowledged, by first counter."""
        self._kept = 0
        self._repeat: Timer | None = None
        self._is_stopped = False

    # What was sealed

    def sealed(self, frame: Buffer, counter: int, now: float) -> None:
        """Take the digest of a frame that carries packets. For each frame, in order."""
        if self._is_stopped:
            return
        digests = self._digests
        digests[counter] = digest_of(frame)
        busy_before = self._bytes >= BUSY_BYTES
        self._bytes += len(frame)
        if len(digests) == 1:
            self._since = now
            self._due_at(now if self._is_strict else now + QUIET_S)
        if not busy_before and self._bytes >= BUSY_BYTES and not self._is_strict:
            self._due_at(self._since + BUSY_S)
        if len(digests) % self._span == 0:
            self._notary.want(self, now)
        if len(digests) + self._kept > MAX_UNSIGNED:
            self.give_up(now)

    def finish(self, now: float) -> None:
        """Nothing more is sealed: have the rest signed now."""
        if self._digests:
            self._notary.want(self, now)

    def stop(self) -> None:
        """Forget everything."""
        self._is_stopped = True
        for timer in (self._due, self._repeat):
            if timer is not None:
                timer.cancel()
        self._digests = {}
        self._drafts.clear()
        self._kept = 0

    def give_up(self, now: float) -> None:
        """Nobody will have the digests signed: the session must end."""
        if not self._is_stopped:
            self.stop()
            self._on_silent(now)

    def _due_at(self, when: float) -> None:
        if self._due is not None:
            if self._due.when <= when:
                return
            self._due.cancel()
        self._due = self._timers.at(when, self._is_due)

    def _is_due(self, now: float) -> None:
        self._due = None
        if self._digests:
            self._notary.want(self, now)

    # What was signed

    def cut(self, limit: int) -> list[Draft]:
        """Make leaves, at most *limit*, of what waits. The rest waits on."""
        drafts: list[Draft] = []
        while self._digests and len(drafts) < limit:
            taken = self._take_span()
            leaf = Leaf(
                self._transcript, self._stream_id, list(taken), digests_hash(taken.values())
            )
            self._kept += len(taken)
            drafts.append(Draft(self, leaf, taken))
        if not self._digests:
            self._bytes = 0
            if self._due is not None:
                self._due.cancel()
                self._due = None
        return drafts

    def _take_span(self) -> dict[int, bytes]:
        """Take the digests that fit the next leaf out of those that wait."""
        waiting = self._digests
        beyond = next(iter(waiting)) + self._span
        if next(reversed(waiting)) < beyond:
            self._digests = {}
            return waiting
        counters = list(itertools.takewhile(beyond.__gt__, waiting))
        # Holes at the front, which every look at the first crosses, go with the last leaf.
        return {counter: waiting.pop(counter) for counter in counters}

    @property
    def has_pending(self) -> bool:
        return bool(self._digests)

    @property
    def uncovered(self) -> int:
        """How many digests are kept because nobody has acknowledged them yet."""
        return len(self._digests) + self._kept

    def inline(self, draft: Draft) -> list[bytes]:
        """The digests to send along with the leaf: all or none."""
        few = len(draft.digests) <= (MAX_INLINE if self._is_strict else INLINE_FRAMES)
        return list(draft.digests.values()) if few else []

    def signed(self, draft: Draft, checkpoint: Checkpoint, now: float) -> None:
        if self._is_stopped:
            return
        draft.message = checkpoint.encode()
        self._drafts[draft.leaf.first] = draft
        self._post(draft, now)
        if self._repeat is None:
            self._repeat = self._timers.at(now + REPEAT_S, self._repeat_all)

    def covered(self, first: int) -> None:
        """The far end acknowledges the leaf that begins at *first*."""
        draft = self._drafts.pop(first, None)
        if draft is not None:
            self._kept -= len(draft.digests)

    def wanted(self, message: Wanted, now: float) -> None:
        """Give out the digests that the far end lacks, as often as ANSWER_S allows."""
        draft = self._drafts.get(message.first)
        if draft is None or now - draft.answered_at < ANSWER_S:
            return
        draft.answered_at = now
        lacking = [counter for counter in message.counters if counter in draft.digests]
        for at in range(0, len(lacking), MAX_DIGESTS):
            some = {counter: draft.digests[counter] for counter in lacking[at : at + MAX_DIGESTS]}
            self._send(Digests(self._stream_id, message.first, some).encode(), now)

    def _post(self, draft: Draft, now: float) -> None:
        draft.sent_at = now
        self._send(draft.message, now)

    def _repeat_all(self, now: float) -> None:
        self._repeat = None
        for draft in list(self._drafts.values()):
            if draft.repeats >= MAX_REPEATS:
                self.give_up(now)
                return
            if now - draft.sent_at >= REPEAT_S / 2:
                draft.repeats += 1
                self._post(draft, now)
        if self._drafts:
            self._repeat = self._timers.at(now + REPEAT_S, self._repeat_all)


class Notary:
    """Has the leaves of all Witnesses signed, as many as there are under one signature.

    *signer* is asked in a worker thread (`World.defer`), one signature at a time.
    """

    def __init__(self, world: World, counters: Counter[str], signer: Callable[[], Signer]) -> None:
        self._world = world
        self._counters = counters
        self._signer = signer
        self._due: dict[Witness, None] = {}
        self._is_signing = False
        self.signatures = 0
        """How many were made, each for a batch."""

    def want(self, witness: Witness, now: float) -> None:
        """*witness* has frames that are due."""
        self._due[witness] = None
        if not self._is_signing:
            self._sign()

    def _sign(self) -> None:
        drafts: list[Draft] = []
        while self._due and len(drafts) < MAX_BATCH:
            witness = next(iter(self._due))
            drafts += witness.cut(MAX_BATCH - len(drafts))
            del self._due[witness]
            if witness.has_pending:
                # Behind all others: one busy stream does not keep them waiting.
                self._due[witness] = None
        if not drafts:
            return
        self._is_signing = True
        signer = self._signer()
        self._world.defer(
            lambda: sign_batch(signer, drafts),
            lambda checkpoints, now: self._signed(drafts, checkpoints, now),
            lambda _, now: self._not_signed(drafts, now),
        )

    def _signed(
        self, drafts: Sequence[Draft], checkpoints: Sequence[Checkpoint], now: float
    ) -> None:
        self._is_signing = False
        self.signatures += 1
        for draft, checkpoint in zip(drafts, checkpoints, strict=True):
            draft.witness.signed(draft, checkpoint, now)
        if self._due:
            self._sign()

    def _not_signed(self, drafts: Sequence[Draft], now: float) -> None:
        self._is_signing = False
        self._counters["checkpoint_not_signed"] += 1
        for draft in drafts:
            draft.witness.give_up(now)
        if self._due:
            self._sign()


def sign_batch(signer: Signer, drafts: Sequence[Draft]) -> list[Checkpoint]:
    """Sign the root over all leaves. Takes about a millisecond."""
    tree = Tree([draft.leaf.encode() for draft in drafts])
    signature = signer.sign(_signed_bytes(len(drafts), tree.root), CONTEXT)
    return [
        Checkpoint(
            draft.leaf, at, len(drafts), tree.path(at), signature, draft.witness.inline(draft)
        )
        for at, draft in enumerate(drafts)
    ]


def verify_checkpoint(crypto: CryptoDriver, public: bytes, checkpoint: Checkpoint) -> None:
    """Check path, signature, and the digests that came along. Raises WireError.

    Takes a fifth of a millisecond.
    """
    leaf = checkpoint.leaf
    if checkpoint.digests and digests_hash(checkpoint.digests) != leaf.digests_hash:
        raise WireError("checkpoint with digests of other frames")
    root = root_of(leaf.encode(), checkpoint.index, checkpoint.size, checkpoint.path)
    signed = _signed_bytes(checkpoint.size, root)
    if not crypto.verify(public, signed, checkpoint.signature, CONTEXT):
        raise WireError("checkpoint with a false signature")


def _signed_bytes(size: int, root: bytes) -> bytes:
    return size.to_bytes(2, "big") + root
