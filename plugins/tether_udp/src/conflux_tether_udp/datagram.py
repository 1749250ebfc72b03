"""Datagrams: a header in the clear and a piece of one sealed message.

    datagram := receiver (8) ‖ counter (6) ‖ kind and index (1) ‖ last (1) ‖ piece

A message is sealed once and cut into at most 64 pieces of equal size, the last one maybe shorter.
The header of its first datagram is the seal's additional data (docs/protocol/udp-tether.md §2).
"""

from __future__ import annotations

import enum
import struct

from conflux.api import MAX_MESSAGE_BYTES, Buffer
from conflux_tether_udp.keys import TAG_BYTES, Sealer

ID_BYTES = 8
PREFIX_BYTES = ID_BYTES + 6
HEADER_BYTES = PREFIX_BYTES + 2
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
"""What a message in one datagram costs."""

BASE_BYTES = 1_200
"""Every path must carry datagrams of this size (as RFC 9000 §14 asks of QUIC's)."""

MAX_DATAGRAM_BYTES = 65_507
"""The largest payload of UDP over IPv4."""

MAX_PIECES = 64
_INDEX_MASK = MAX_PIECES - 1
_KIND_SHIFT = 6

HEADER = struct.Struct("!8sHLBB")
"""receiver, high and low part of the counter, kind and index, last."""


class Kind(enum.IntEnum):
    """What is sealed inside."""

    MESSAGE = 0
    """A message of the datagram lane."""
    CONTROL = 1
    """Items for the tether itself (docs/protocol/udp-tether.md §5)."""
    PROBE = 2
    """The same, from an address that may not be the one to answer to."""


def batch(datagram_bytes: int) -> int:
    """How many datagrams of that size one system call takes, be it to send or to receive them."""
    return min(MAX_PIECES, MAX_DATAGRAM_BYTES // datagram_bytes)


TAILS = tuple(
    tuple(bytes((index, last)) for index in range(last + 1)) for last in range(MAX_PIECES)
)
"""The last two bytes of every datagram of a message, by its last index."""


def split_tail(first: int, last: int) -> tuple[int, int]:
    """Return (kind, index) of a header's last two bytes, kind -1 if they are none of ours."""
    kind, index = first >> _KIND_SHIFT, first & _INDEX_MASK
    if kind == Kind.MESSAGE:
        return (kind, index) if index <= last < MAX_PIECES else (-1, 0)
    return (kind, 0) if kind <= Kind.PROBE and not index and not last else (-1, 0)


def run_length(headers: memoryview, at: int, count: int, index: int, last: int) -> int:
    """How many of *count* headers, from the one *at* on, are of neighbouring pieces."""
    most = min(count - at, last + 1 - index)
    if most == 1:
        return 1
    start = at * HEADER_BYTES
    found = bytes(headers[start : start + most * HEADER_BYTES])
    prefix = found[:PREFIX_BYTES]
    expected = prefix + prefix.join(TAILS[last][index : index + most])
    if found == expected:
        return most
    run = HEADER_BYTES
    while found[run : run + HEADER_BYTES] == expected[run : run + HEADER_BYTES]:
        run += HEADER_BYTES
    return run // HEADER_BYTES


def single(sealer: Sealer, receiver: bytes, kind: Kind, plain: Buffer, now: float) -> bytes:
    """Seal *plain* into one datagram. For the tether's own traffic; messages take `Cutter`."""
    counter, key, nonce = sealer.next(now)
    header = receiver + counter + bytes((kind << _KIND_SHIFT, 0))
    return header + key.encrypt(nonce, plain, header)


class Cutter:
    """Seals messages and cuts them, without a copy and without an object per datagram.

    One for all tethers of a driver: what `cut` returns lies in buffers that the next call reuses.
    """

    def __init__(self) -> None:
        self._sealed = memoryview(bytearray(MAX_MESSAGE_BYTES + TAG_BYTES))
        self._headers = memoryview(bytearray(MAX_PIECES * HEADER_BYTES))
        self._layouts: dict[int, list[memoryview]] = {}

    def cut(
        self, sealer: Sealer, receiver: bytes, message: Buffer, piece_bytes: int, now: float
    ) -> list[Buffer]:
        """Return header, piece, header, piece ... of *message*, for one call of `sendmsg`."""
        counter, key, nonce = sealer.next(now)
        prefix = receiver + counter
        size = len(message) + TAG_BYTES
        if size <= piece_bytes:
            header = prefix + TAILS[0][0]
            sealed = self._sealed[:size]
            key.encrypt_into(nonce, message, header, sealed)
            return [header, sealed]
        last = (size - 1) // piece_bytes
        # All headers in one call: the prefix stands between the tails, and in front.
        headers = prefix + prefix.join(TAILS[last])
        self._headers[: len(headers)] = headers
        key.encrypt_into(nonce, message, headers[:HEADER_BYTES], self._sealed[:size])
        parts: list[Buffer] = [*self._layout(piece_bytes)[: 2 * last + 2]]
        parts[-1] = self._sealed[last * piece_bytes : size]
        return parts

    def _layout(self, piece_bytes: int) -> list[memoryview]:
        """Where headers and pieces lie: the same places for every message of that cut."""
        layout = self._layouts.get(piece_bytes)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[piece_bytes] = lay_out(self._headers, self._sealed, piece_bytes)
        return layout


_MAX_LAYOUTS = 32


def lay_out(headers: memoryview, pieces: memoryview, piece_bytes: int) -> list[memoryview]:
    """Views of header, piece, header, piece ... as far as both buffers reach."""
    count = min(MAX_PIECES, -(-len(pieces) // piece_bytes))
    views = []
    for index in range(count):
        views.append(headers[index * HEADER_BYTES : (index + 1) * HEADER_BYTES])
        views.append(pieces[index * piece_bytes : (index + 1) * piece_bytes])
    return views
