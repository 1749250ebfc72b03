"""Frames and superframes (docs/protocol/frame.md): what a tether's datagram lane carries.

    message := outer (8) ‖ rest
    outer   := version and type (4 bits each) ‖ hop limit (1) ‖ zero (2) ‖ label (4)
    frame   := outer ‖ stream id (8) ‖ counter (8) ‖ AES-256-GCM(superframe)
    superframe := layout (1) ‖ record ‖ record ...        records: see conflux.api.tun
                | 80 ‖ control message                    for the far end's protocol

A relay reads and rewrites the outer header only; the 16 bytes behind it are authenticated by the
frame's seal and the same on every hop.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator

from conflux.api import MAX_MESSAGE_BYTES, Buffer, Layout, WireError

VERSION = 1
OUTER = struct.Struct(">BBHI")
INNER = struct.Struct(">QQ")
PROBE = struct.Struct(">IQ")
HEADER_BYTES = OUTER.size + INNER.size
TAG_BYTES = 16
MAX_SUPERFRAME_BYTES = MAX_MESSAGE_BYTES - HEADER_BYTES - TAG_BYTES
SIZE = struct.Struct(">H")
MAX_PACKET_BYTES = MAX_SUPERFRAME_BYTES - 1 - SIZE.size
"""The largest packet that a superframe has room for, and so the largest MTU of a node."""
MAX_HOPS = 5
"""Four relays and the destination: the hop limit that a source sets."""

LABEL_HERE = 0
"""The label of a frame that ends at the tether's far end: a direct route needs no set-up."""


IN_STREAM = 0x80
"""First byte of a superframe that holds one control message (docs/protocol/control.md §3)."""


class MessageType(enum.IntEnum):
    DATA = 0
    PROBE = 1
    PROBE_REPLY = 2


DATA_BYTE = VERSION << 4 | MessageType.DATA
_TYPES = {int(kind): kind for kind in MessageType}
_LAYOUTS = {int(layout): layout for layout in Layout}
"""Members by value: a look-up takes a fifth of what calling the class does."""

_VIRTIO_HEADER_BYTES = 10
_MIN_PACKET_BYTES = 20


def read_outer(message: memoryview) -> tuple[MessageType, int, int]:
    """Return (type, hop limit, label). Raises WireError for anything that is no message."""
    try:
        first, hop_limit, zero, label = OUTER.unpack_from(message)
    except struct.error:
        raise WireError("message shorter than its outer header") from None
    if first >> 4 != VERSION or zero:
        raise WireError("unknown version of message")
    kind = _TYPES.get(first & 0x0F)
    if kind is None:
        raise WireError("unknown type of message")
    return kind, hop_limit, label


def probe(kind: MessageType, sequence: int, stamp_us: int) -> bytes:
    """Encode a probe, or the reply that echoes one: its sequence and its sender's clock."""
    return OUTER.pack(VERSION << 4 | kind, 1, 0, 0) + PROBE.pack(sequence, stamp_us)


def read_probe(message: memoryview) -> tuple[int, int]:
    """Return (sequence, stamp). Raises WireError unless the message has exactly a probe's size."""
    if len(message) != OUTER.size + PROBE.size:
        raise WireError("probe of a wrong size")
    sequence, stamp_us = PROBE.unpack_from(message, OUTER.size)
    return sequence, stamp_us


def records(
    superframe: memoryview, at: int = 1, end: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yield (start of record, start of packet, end of both) as offsets, in order.

    *at* and *end* are where records begin and end, if not all are meant. Raises WireError for an
    unknown layout, a record beyond the end or one too small for IP.
    """
    layout = read_layout(superframe)
    skip = SIZE.size + (_VIRTIO_HEADER_BYTES if layout is Layout.VIRTIO else 0)
    end = len(superframe) if end is None else end
    while at < end:
        try:
            (size,) = SIZE.unpack_from(superframe, at)
        except struct.error:
            raise WireError("record shorter than its size field") from None
        packet, after = at + skip, at + SIZE.size + size
        if after > end or after - packet < _MIN_PACKET_BYTES:
            raise WireError("record of an impossible size")
        yield at, packet, after
        at = after


def bare(packets: Iterable[Buffer]) -> bytearray:
    """Lay *packets* out as a superframe, or a burst, of layout BARE."""
    superframe = bytearray((Layout.BARE,))
    for packet in packets:
        superframe += SIZE.pack(len(packet))
        superframe += packet
    return superframe


def read_layout(superframe: memoryview) -> Layout:
    layout = _LAYOUTS.get(superframe[0]) if superframe else None
    if layout is None:
        raise WireError("unknown layout of superframe")
    return layout
