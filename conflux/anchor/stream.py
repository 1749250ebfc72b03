"""Streams: one-way, end to end, AES-256-GCM (docs/protocol/frame.md §4).

    OutStream.seal   superframe -> frame        counters from 1, each nonce once
    InStream.open    frame -> superframe        every counter at most once

A Session is the pair that one handshake keyed: our stream to a peer and the peer's to us.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor.handshake import StreamKeys
from conflux.anchor.identity import Peer
from conflux.anchor.ledger import Ledger
from conflux.anchor.seal import wipe
from conflux.anchor.tally import Tally
from conflux.anchor.timers import Timer
from conflux.api import NodeId, WireError
from conflux.wire.control import AuthLevel
from conflux.wire.credentials import TeamKey
from conflux.wire.features import DEFAULT_MTU_BYTES
from conflux.wire.frame import HEADER_BYTES, IN_STREAM, INNER, OUTER, TAG_BYTES
from conflux.wire.replay import ReplayWindow

if TYPE_CHECKING:
    from conflux.anchor.guard import Guard
    from conflux.anchor.notary import Witness

MAX_BLOCKS = 2**35
"""AES blocks under one key (anchor protocol, rekey): nothing is sealed beyond."""

REKEY_BLOCKS = MAX_BLOCKS // 2
"""A stream gets new keys after that many (docs/protocol/handshake.md, rekey). Sessions look every
5 s, in which no machine seals the other half, 256 GiB."""

REKEY_S = 120.0
"""A stream in use gets new keys at this age (docs/protocol/handshake.md, rekey)."""

MAX_KEY_AGE_S = 180.0
"""Nothing is sealed under an older key: the stream is opened anew."""


_Crypt = Callable[..., int]


class Spent(Exception):
    """The key has done what it may do: open a new stream."""


class OutStream:
    """Seals superframes. The caller drops what it cannot send: a skipped counter is harmless."""

    __slots__ = ("_blocks", "_counter", "_encrypt_into", "_iv", "_until", "stream_id", "witness")

    def __init__(self, keys: StreamKeys, *, now: float) -> None:
        self.stream_id = keys.stream_id
        self._encrypt_into: _Crypt = _cipher(keys.key).encrypt_into
        self._iv = int.from_bytes(keys.iv, "big")
        self._counter = 0
        self._blocks = 0
        self._until = now + MAX_KEY_AGE_S
        self.witness: Witness | None = None
        """Has frames with packets signed, if the session's level asks for it."""

    def end_at(self, when: float) -> None:
        """Seal nothing after *when*."""
        self._until = min(self._until, when)

    def erase(self) -> None:
        """Let go of the key, which OpenSSL clears then: `seal` raises Spent from now on."""
        self._until = -math.inf
        self._encrypt_into = _sealed_nothing

    @property
    def counter(self) -> int:
        """The counter of the frame sealed last; 0 before the first."""
        return self._counter

    @property
    def is_worn(self) -> bool:
        """Tell whether the key has sealed so much that it should be replaced."""
        return self._blocks > REKEY_BLOCKS

    def seal(self, superframe: memoryview, *, now: float) -> bytearray:
        """Return a whole frame whose outer header is still blank. Raises Spent."""
        # Before sealing: a nonce used twice breaks AES-GCM, a skipped one is harmless.
        self._counter += 1
        size = len(superframe)
        self._blocks += -(-size // 16) + 2  # and the tag's two
        if self._blocks > MAX_BLOCKS or now > self._until:
            raise Spent
        frame = bytearray(HEADER_BYTES + size + TAG_BYTES)
        INNER.pack_into(frame, OUTER.size, self.stream_id, self._counter)
        view = memoryview(frame)
        self._encrypt_into(
            (self._iv ^ self._counter).to_bytes(12, "big"),
            superframe,
            view[OUTER.size : HEADER_BYTES],
            view[HEADER_BYTES:],
        )
        if self.witness is not None and superframe[0] != IN_STREAM:
            self.witness.sealed(frame, self._counter, now)
        return frame


class InStream:
    """Opens frames into a buffer that all streams of a node share."""

    __slots__ = (
        "_decrypt_into",
        "_iv",
        "guard",
        "replay",
        "session",
        "stream_id",
        "tally",
        "until",
    )

    def __init__(self, keys: StreamKeys, session: Session) -> None:
        self.stream_id = keys.stream_id
        self.session = session
        self.replay = ReplayWindow()
        self.guard: Guard | None = None
        """Checks frames against what the sender signed, if the session's level asks for it."""
        self.tally = Tally()
        self.until = math.inf
        """Nothing is opened after this time: a timer that is late lets nothing through."""
        self._decrypt_into: _Crypt = _cipher(keys.key).decrypt_into
        self._iv = int.from_bytes(keys.iv, "big")

    def open(self, frame: memoryview, counter: int, into: memoryview) -> memoryview:
        """Return the superframe, a part of *into*. Raises WireError for a forged or seen frame."""
        if self.replay.seen(counter):
            raise WireError("replayed")
        size = len(frame) - HEADER_BYTES - TAG_BYTES
        if not 1 <= size <= len(into):
            raise WireError("size")
        try:
            self._decrypt_into(
                (self._iv ^ counter).to_bytes(12, "big"),
                frame[HEADER_BYTES:],
                frame[OUTER.size : HEADER_BYTES],
                into[:size],
            )
        except InvalidTag:
            raise WireError("forged") from None
        self.replay.mark(counter)
        return into[:size]

    def erase(self) -> None:
        """Let go of the key, which OpenSSL clears then: nothing is opened from now on."""
        self.until = -math.inf
        self._decrypt_into = _opened_nothing


def _cipher(key: bytes | bytearray) -> AESGCM:
    """AES-256-GCM under *key*, whose owner may wipe it at once."""
    return AESGCM(key if _COPIES_ITS_KEY else bytes(key))


def _copies_its_key() -> bool:
    """AESGCM holds on to the buffer that it was made of. Tell whether it never reads it again: else
    a wiped buffer would mean a key of zeros."""
    key, nonce = bytearray(b"\x01" * 32), bytes(12)
    cipher = AESGCM(key)
    wipe(key)
    return cipher.encrypt(nonce, b"", b"") == AESGCM(b"\x01" * 32).encrypt(nonce, b"", b"")


_COPIES_ITS_KEY = _copies_its_key()


def _sealed_nothing(*_: object) -> int:
    raise Spent


def _opened_nothing(*_: object) -> int:
    raise InvalidTag


@dataclass(slots=True, eq=False)
class Session:
    """Two streams of one handshake. `teams` are the ones in common: if any ends, so does this."""

    peer: Peer
    teams: Sequence[TeamKey]
    suite: int
    auth_level: AuthLevel
    tag: bytes
    """The peer's pseudonym: where control messages for it go."""
    out: OutStream
    opened: float
    last_sent: float
    last_received: float
    takes_virtio: bool = False
    """Whether the peer takes superframes of layout VIRTIO."""
    transcript: bytes = b""
    """Hash of the handshake's three messages."""
    inbound: InStream | None = None
    mtu_bytes: int = DEFAULT_MTU_BYTES
    """The largest packet that the peer's interface takes."""
    order: tuple[int, bytes] = (0, b"")
    """When it was asked for: of two sessions made at once, both ends keep the later one."""
    answered_s: float = math.inf
    """How long the peer took to answer our message of the handshake, ways included."""
    confirmed: bool = False
    """Whether the peer has shown that it holds the keys, too."""
    ledger: Ledger = field(default_factory=Ledger)
    """Frames of our stream that the peer has not reported yet."""
    owes_greeting: bool = False
    """Whether the peer still waits for our first frame, and we for a route."""
    closed: bool = False
    rekeying: Timer | None = None
    """When new keys are due. It holds on to the session, keys and all."""
    ends_at: float = math.inf
    """Set once a team of it has ended: when both streams end, whatever their age."""

    def end(self) -> None:
        """It is closed: nothing holds on to it any more."""
        self.closed = True
        if self.rekeying is not None:
            self.rekeying.cancel()
            self.rekeying = None

    def end_at(self, when: float) -> None:
        """Neither stream carries anything after *when*."""
        self.ends_at = min(self.ends_at, when)
        self.out.end_at(when)
        if self.inbound is not None:
            self.inbound.until = min(self.inbound.until, when)

    @property
    def node_id(self) -> NodeId:
        return self.peer.node_id
