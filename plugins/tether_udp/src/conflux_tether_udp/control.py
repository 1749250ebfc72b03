"""Items: what the two ends of a tether tell each other, any number in one control datagram.

    item := type (1) ‖ body          (docs/protocol/udp-tether.md §5)

Everything here has been opened, so it comes from the certified neighbour; it is read strictly all
the same.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from conflux.api import WireError
from conflux_tether_udp.keys import COUNTER_BYTES

TOKEN_BYTES = 8
MAX_NACKED = 8
"""Pieces of a message that may be asked for: who lost more has met a full queue."""
MAX_BITMAP_BYTES = 32
MAX_SEGMENT_BYTES = 1_160
"""With its header it fills a datagram of BASE_BYTES."""


class Type(enum.IntEnum):
    PADDING = 0
    CHALLENGE = 1
    RESPONSE = 2
    REPORT = 3
    SEGMENT = 4
    ACK = 5
    CLOSE = 6
    NACK = 7


_TOKEN = struct.Struct(f"!B{TOKEN_BYTES}s")
_REPORT = struct.Struct("!B8L")
_SEGMENT = struct.Struct("!BLBH")
_ACK = struct.Struct("!BLB")
_NACK = struct.Struct(f"!B{COUNTER_BYTES}sQ")
NACK_BYTES = _NACK.size
_MASK = 0xFFFF_FFFF
FIRST, LAST = 1, 2


class Challenge(NamedTuple):
    """Asks for the token back, from where this arrives."""

    token: bytes

    def encode(self) -> bytes:
        return _TOKEN.pack(Type.CHALLENGE, self.token)


class Response(NamedTuple):
    """The token of a challenge."""

    token: bytes

    def encode(self) -> bytes:
        return _TOKEN.pack(Type.RESPONSE, self.token)


class Report(NamedTuple):
    """What has arrived so far, each modulo 2^32 (docs/protocol/udp-tether.md §8)."""

    expected: int
    """Counters up to the highest, without those skipped at a rekey and of messages in pieces."""
    whole: int
    """Messages that arrived whole."""
    single: int
    """Of these, such of one datagram."""
    broken: int
    """Messages given up for missing pieces."""
    pieces: int
    """Datagrams of all of these."""
    missing: int
    """Pieces that the broken ones lacked."""
    overflows: int
    """What this end's own socket had no room for."""
    repaired: int
    """Pieces that came only after they were asked for."""

    def encode(self) -> bytes:
        return _REPORT.pack(Type.REPORT, *(value & _MASK for value in self))


class Segment(NamedTuple):
    """A piece of a message of the reliable lane. `sequence` is modulo 2^32."""

    sequence: int
    flags: int
    data: bytes

    def encode(self) -> bytes:
        head = _SEGMENT.pack(Type.SEGMENT, self.sequence & _MASK, self.flags, len(self.data))
        return head + self.data


class Ack(NamedTuple):
    """Every segment below `next` has arrived, and of those behind it the ones set in `bitmap`.

    Bit 0 of the first byte stands for segment `next` + 1.
    """

    next: int
    bitmap: bytes

    def encode(self) -> bytes:
        return _ACK.pack(Type.ACK, self.next & _MASK, len(self.bitmap)) + self.bitmap


class Close(NamedTuple):
    """The sender has closed the tether."""

    def encode(self) -> bytes:
        return bytes((Type.CLOSE,))


class Nack(NamedTuple):
    """Asks for pieces of a message to be sent again: bit i of `pieces` stands for piece i."""

    counter: bytes
    pieces: int

    def encode(self) -> bytes:
        return _NACK.pack(Type.NACK, self.counter, self.pieces)


Item = Challenge | Response | Report | Segment | Ack | Close | Nack


def read(plain: memoryview) -> Iterator[Item]:
    """Yield the items of a control datagram. Raises WireError at the first that is none."""
    at = 0
    size = len(plain)
    while at < size:
        kind = plain[at]
        if kind == Type.PADDING:
            return
        reader = _READERS.get(kind)
        if reader is None:
            raise WireError("item of an unknown type")
        try:
            item, at = reader(plain, at)
        except struct.error:
            raise WireError("item shorter than its fields") from None
        yield item


def _challenge(plain: memoryview, at: int) -> tuple[Item, int]:
    return Challenge(_TOKEN.unpack_from(plain, at)[1]), at + _TOKEN.size


def _response(plain: memoryview, at: int) -> tuple[Item, int]:
    return Response(_TOKEN.unpack_from(plain, at)[1]), at + _TOKEN.size


def _report(plain: memoryview, at: int) -> tuple[Item, int]:
    return Report(*_REPORT.unpack_from(plain, at)[1:]), at + _REPORT.size


def _segment(plain: memoryview, at: int) -> tuple[Item, int]:
    _, sequence, flags, size = _SEGMENT.unpack_from(plain, at)
    at += _SEGMENT.size
    data = bytes(plain[at : at + size])
    if len(data) != size or size > MAX_SEGMENT_BYTES:
        raise WireError("segment of impossible length")
    if flags & ~(FIRST | LAST):
        raise WireError("segment with unknown flags")
    return Segment(sequence, flags, data), at + size


def _ack(plain: memoryview, at: int) -> tuple[Item, int]:
    _, following, size = _ACK.unpack_from(plain, at)
    at += _ACK.size
    bitmap = bytes(plain[at : at + size])
    if len(bitmap) != size or size > MAX_BITMAP_BYTES:
        raise WireError("acknowledgement of impossible length")
    return Ack(following, bitmap), at + size


def _close(plain: memoryview, at: int) -> tuple[Item, int]:
    return Close(), at + 1


def _nack(plain: memoryview, at: int) -> tuple[Item, int]:
    _, counter, pieces = _NACK.unpack_from(plain, at)
    if not 1 <= pieces.bit_count() <= MAX_NACKED:
        raise WireError("pieces asked for that are none, or too many")
    return Nack(counter, pieces), at + _NACK.size


_READERS: dict[int, Callable[[memoryview, int], tuple[Item, int]]] = {
    Type.CHALLENGE: _challenge,
    Type.RESPONSE: _response,
    Type.REPORT: _report,
    Type.SEGMENT: _segment,
    Type.ACK: _ack,
    Type.CLOSE: _close,
    Type.NACK: _nack,
}
