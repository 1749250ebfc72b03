"""Messages of packet authentication, inside a stream (docs/protocol/packet-auth.md §3).

    CHECKPOINT   a signed leaf: which counters of a stream it covers, and the hash of their digests
    COVERED      its receiver is content
    WANTED       its receiver lacks frames and asks for their digests
    DIGESTS      the digests asked for

Sets of counters are a first counter and a bitmap, most significant bit first. Only bytes here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from conflux.api import SIGNATURE_BYTES, Buffer, WireError
from conflux.wire.codec import Reader, Writer
from conflux.wire.control import VERSION
from conflux.wire.credentials import HASH_BYTES

DIGEST_BYTES = 32
MAX_SPAN = 4_096
"""Counters from the first to the last that one leaf covers, both included."""

MAX_BATCH = 256
"""Leaves under one signature."""

MAX_PATH = 8
"""Hashes from a leaf to the root of a tree of MAX_BATCH leaves."""

MAX_INLINE = 256
"""Digests that a CHECKPOINT can carry itself."""

MAX_DIGESTS = 256
"""Digests in one DIGESTS message."""


class AuthKind(enum.IntEnum):
    CHECKPOINT = 16
    COVERED = 17
    WANTED = 18
    DIGESTS = 19


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is signed: `digests_hash` is over the digests of `counters`, in that order."""

    transcript: bytes
    stream_id: int
    counters: Sequence[int]
    """Strictly rising; at least one, at most MAX_SPAN from first to last."""
    digests_hash: bytes

    @property
    def first(self) -> int:
        return self.counters[0]

    def encode(self) -> bytes:
        out = Writer().raw(self.transcript, HASH_BYTES).u64(self.stream_id)
        _write_counters(out, self.first, self.counters)
        return out.raw(self.digests_hash, HASH_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> Leaf:
        take = Reader(data)
        transcript, stream_id = take.raw(HASH_BYTES), take.u64()
        leaf = cls(transcript, stream_id, _read_counters(take), take.raw(HASH_BYTES))
        take.end()
        return leaf


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A leaf, its place in the signed tree, and perhaps all its digests."""

    leaf: Leaf
    index: int
    size: int
    path: Sequence[bytes]
    signature: bytes
    digests: Sequence[bytes] = ()

    def encode(self) -> bytes:
        out = _head(AuthKind.CHECKPOINT).vec16(self.leaf.encode()).u16(self.index).u16(self.size)
        out.u8(len(self.path))
        for node in self.path:
            out.raw(node, HASH_BYTES)
        out.raw(self.signature, SIGNATURE_BYTES).u16(len(self.digests))
        for digest in self.digests:
            out.raw(digest, DIGEST_BYTES)
        return out.done()


@dataclass(frozen=True, slots=True)
class Covered:
    """The leaf that begins at `first` covers what its receiver took."""

    stream_id: int
    first: int

    def encode(self) -> bytes:
        return _head(AuthKind.COVERED).u64(self.stream_id).u64(self.first).done()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Asks for the digests of `counters`, which the leaf at `first` covers."""

    stream_id: int
    first: int
    counters: Sequence[int]

    def encode(self) -> bytes:
        out = _head(AuthKind.WANTED).u64(self.stream_id)
        return _write_counters(out, self.first, self.counters).done()


@dataclass(frozen=True, slots=True)
class Digests:
    """Some of the digests that the leaf at `first` covers, by counter."""

    stream_id: int
    first: int
    digests: Mapping[int, bytes]

    def encode(self) -> bytes:
        out = _head(AuthKind.DIGESTS).u64(self.stream_id).u64(self.first).u16(len(self.digests))
        for counter, digest in self.digests.items():
            out.u16(counter - self.first).raw(digest, DIGEST_BYTES)
        return out.done()


Message = Checkpoint | Covered | Wanted | Digests


def is_ours(message: Buffer) -> bool:
    """Tell whether a control message claims to be one of these."""
    return len(message) >= 2 and message[0] == VERSION and message[1] in _KINDS


def decode(message: Buffer) -> Message:
    """Read a message that `is_ours`. Raises WireError."""
    take = Reader(message)
    if take.u8() != VERSION:
        raise WireError("unknown version of control message")
    kind = take.u8()
    reader = _READERS.get(kind)
    if reader is None:
        raise WireError("unknown kind of packet authentication message")
    decoded = reader(take)
    take.end()
    return decoded


def _read_checkpoint(take: Reader) -> Checkpoint:
    leaf = Leaf.decode(take.vec16())
    index, size = take.u16(), take.u16()
    if not index < size <= MAX_BATCH:
        raise WireError("place outside of the tree")
    path = [take.raw(HASH_BYTES) for _ in range(_at_most(take.u8(), MAX_PATH))]
    signature = take.raw(SIGNATURE_BYTES)
    digests = [take.raw(DIGEST_BYTES) for _ in range(_at_most(take.u16(), MAX_INLINE))]
    if digests and len(digests) != len(leaf.counters):
        raise WireError("digests of other frames")
    return Checkpoint(leaf, index, size, path, signature, digests)


def _read_covered(take: Reader) -> Covered:
    return Covered(take.u64(), take.u64())


def _read_wanted(take: Reader) -> Wanted:
    stream_id, first, bitmap = take.u64(), take.u64(), take.vec16()
    return Wanted(stream_id, first, _counters(first, bitmap))


def _read_digests(take: Reader) -> Digests:
    stream_id, first = take.u64(), take.u64()
    digests: dict[int, bytes] = {}
    last = -1
    for _ in range(_at_most(take.u16(), MAX_DIGESTS)):
        offset, digest = take.u16(), take.raw(DIGEST_BYTES)
        if not last < offset < MAX_SPAN:
            raise WireError("digests out of order")
        digests[first + offset] = digest
        last = offset
    if not digests:
        raise WireError("no digests")
    return Digests(stream_id, first, digests)


def _write_counters(out: Writer, first: int, counters: Sequence[int]) -> Writer:
    span = counters[-1] - first + 1
    if not first <= counters[0] or not len(counters) <= span <= MAX_SPAN:
        msg = f"set of counters {counters[0]} to {counters[-1]} does not fit behind {first}"
        raise ValueError(msg)
    # Bits are written and read as digits of one number: a leaf has one for each frame.
    digits = bytearray(b"0") * span
    if len(counters) == span:
        digits = bytearray(b"1") * span
    else:
        for counter in counters:
            digits[counter - first] = _ONE
    number = int(digits, 2) << -span % 8
    return out.u64(first).vec16(number.to_bytes(-(-span // 8)))


_ONE = ord("1")


def _read_counters(take: Reader) -> list[int]:
    first = take.u64()
    counters = _counters(first, take.vec16())
    if counters[0] != first:
        raise WireError("a set of counters that does not begin at its first")
    return counters


def _counters(first: int, bitmap: bytes) -> list[int]:
    if not bitmap or len(bitmap) > MAX_SPAN // 8 or not bitmap[-1]:
        raise WireError("a set of counters of an impossible length")
    if first < 1 or first + 8 * len(bitmap) >= 1 << 64:
        raise WireError("counter out of range")
    span = 8 * len(bitmap)
    digits = f"{int.from_bytes(bitmap):0{span}b}".encode()
    return list(compress(range(first, first + span), digits.translate(_DIGITS_AS_BOOLS)))


_DIGITS_AS_BOOLS = bytes.maketrans(b"01", b"\0\1")


def _head(kind: AuthKind) -> Writer:
    return Writer().u8(VERSION).u8(kind)


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise WireError("list too long")
    return value


_KINDS = frozenset(AuthKind)
_READERS: dict[int, Callable[[Reader], Message]] = {
    AuthKind.CHECKPOINT: _read_checkpoint,
    AuthKind.COVERED: _read_covered,
    AuthKind.WANTED: _read_wanted,
    AuthKind.DIGESTS: _read_digests,
}
