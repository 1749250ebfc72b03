"""conflux/wire/frame.py and anchor/stream.py: what a tether's datagram lane carries."""

from __future__ import annotations

import struct
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.handshake import StreamKeys
from conflux.anchor.identity import Peer
from conflux.anchor.stream import MAX_BLOCKS, MAX_KEY_AGE_S, InStream, OutStream, Session, Spent
from conflux.api import MAX_MESSAGE_BYTES, Layout, WireError
from conflux.wire.control import AuthLevel
from conflux.wire.credentials import Certificate
from conflux.wire.frame import (
    HEADER_BYTES,
    INNER,
    MAX_SUPERFRAME_BYTES,
    OUTER,
    SIZE,
    TAG_BYTES,
    MessageType,
    probe,
    read_layout,
    read_outer,
    read_probe,
    records,
)

KEYS = StreamKeys(bytes(range(32)), bytes(range(12)), 0x1122334455667788)
NOISE = st.binary(max_size=200)

packets = st.lists(st.binary(min_size=20, max_size=90), max_size=8)
layouts = st.sampled_from(list(Layout))


def superframe_of(layout: Layout, bodies: list[bytes]) -> bytes:
    header = bytes(10) if layout is Layout.VIRTIO else b""
    return bytes((layout,)) + b"".join(
        SIZE.pack(len(header + body)) + header + body for body in bodies
    )


def session() -> Session:
    certificate = Certificate(
        serial=1, conflux_id=bytes(16), plane_id=bytes(16), sign_public=bytes(1952),
        kem_public=bytes(1216), addresses=[ip_interface("10.0.0.1/8")], not_before=0, not_after=1,
    )  # fmt: skip
    return Session(
        peer=Peer(b"n" * 32, certificate), teams=(), suite=1, auth_level=AuthLevel.HANDSHAKE,
        tag=bytes(16), out=OutStream(KEYS, now=0), opened=0, last_sent=0, last_received=0,
    )  # fmt: skip


def opened(stream: InStream, frame: bytes) -> bytes:
    _, counter = INNER.unpack_from(frame, OUTER.size)
    into = memoryview(bytearray(MAX_MESSAGE_BYTES))
    return bytes(stream.open(memoryview(frame), counter, into))


@given(layouts, packets)
def test_records_give_back_every_packet_in_order(layout, bodies):
    superframe = superframe_of(layout, bodies)
    found = list(records(memoryview(superframe)))
    assert [superframe[start:end] for _, start, end in found] == bodies
    assert [record for record, _, _ in found] == [1, *(end for _, _, end in found[:-1])][
        : len(found)
    ]


@given(NOISE)
def test_noise_for_records_gives_wire_error_and_nothing_else(noise):
    try:
        spans = list(records(memoryview(noise)))
    except WireError:
        return
    assert all(0 < record < start < end <= len(noise) for record, start, end in spans)


@pytest.mark.parametrize(
    "superframe",
    [b"", b"\x02", b"\x00\x00", b"\x00\x00\x13" + bytes(19), b"\x00\x00\x20" + bytes(20),
     b"\x01\x00\x14" + bytes(20)],
)  # fmt: skip
def test_impossible_records_are_refused(superframe):
    with pytest.raises(WireError):
        list(records(memoryview(superframe)))


def test_an_empty_superframe_is_a_layout_byte_alone():
    assert list(records(memoryview(b"\x00"))) == []
    assert read_layout(memoryview(b"\x01")) is Layout.VIRTIO


@given(NOISE)
def test_noise_for_the_outer_header_gives_wire_error_and_nothing_else(noise):
    try:
        kind, hop_limit, label = read_outer(memoryview(noise))
    except WireError:
        return
    assert OUTER.pack(0x10 | kind, hop_limit, 0, label) == noise[:8]


@given(st.sampled_from(list(MessageType)), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_outer_header_reads_back(kind, hop_limit, label):
    assert read_outer(memoryview(OUTER.pack(0x10 | kind, hop_limit, 0, label))) == (
        kind, hop_limit, label,
    )  # fmt: skip


@pytest.mark.parametrize("header", ["2000000000000000", "1001000100000000", "1f01000000000000"])
def test_another_version_reserved_bits_or_type_is_refused(header):
    with pytest.raises(WireError):
        read_outer(memoryview(bytes.fromhex(header)))


@given(
    st.sampled_from([MessageType.PROBE, MessageType.PROBE_REPLY]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)
def test_probes_read_back(kind, sequence, stamp_us):
    message = memoryview(probe(kind, sequence, stamp_us))
    assert read_outer(message) == (kind, 1, 0)
    assert read_probe(message) == (sequence, stamp_us)
    with pytest.raises(WireError):
        read_probe(message[:-1])


@given(st.binary(min_size=1, max_size=3_000))
def test_what_is_sealed_opens_to_the_same_bytes(superframe):
    frame = OutStream(KEYS, now=0).seal(memoryview(superframe), now=0)
    assert len(frame) == HEADER_BYTES + len(superframe) + TAG_BYTES
    assert opened(InStream(KEYS, session()), bytes(frame)) == superframe


def test_the_largest_superframe_fills_the_largest_message():
    frame = OutStream(KEYS, now=0).seal(memoryview(bytes(MAX_SUPERFRAME_BYTES)), now=0)
    assert len(frame) == MAX_MESSAGE_BYTES
    assert opened(InStream(KEYS, session()), bytes(frame)) == bytes(MAX_SUPERFRAME_BYTES)


def test_a_lone_small_packet_costs_at_most_110_bytes():
    # Header, tag, layout and size field; the packet's own 20 bytes come on top.
    assert HEADER_BYTES + TAG_BYTES + 1 + SIZE.size <= 110


def test_frame_is_what_the_page_says():
    """docs/protocol/frame.md, worked example: any implementation must make these bytes."""
    superframe = b"\x00\x00\x14" + bytes(range(20))
    frame = OutStream(KEYS, now=0).seal(memoryview(superframe), now=0)
    OUTER.pack_into(frame, 0, 0x10, 5, 0, 0)
    assert frame.hex() == (
        "100500000000000011223344556677880000000000000001"
        "a6d8dd400eda4caed2470650c2bc8d58cca1d71a453dad3cdd747b57964891b0391c05e705bfee"
    )


@given(st.data())
def test_any_changed_bit_behind_the_outer_header_is_refused(data):
    frame = OutStream(KEYS, now=0).seal(memoryview(b"\x00" + bytes(30)), now=0)
    bit = data.draw(st.integers(OUTER.size * 8, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    stream = InStream(KEYS, session())
    _, counter = INNER.unpack_from(frame, OUTER.size)
    with pytest.raises(WireError):
        stream.open(memoryview(frame), counter, memoryview(bytearray(99)))
    assert stream.replay.highest == 0


@given(st.binary(max_size=8))
def test_the_outer_header_may_change_on_the_way(header):
    frame = OutStream(KEYS, now=0).seal(memoryview(b"\x00"), now=0)
    frame[: len(header)] = header
    assert opened(InStream(KEYS, session()), bytes(frame)) == b"\x00"


def test_a_frame_opens_once():
    stream, frame = InStream(KEYS, session()), OutStream(KEYS, now=0).seal(memoryview(b"\0"), now=0)
    opened(stream, bytes(frame))
    with pytest.raises(WireError, match="replayed"):
        opened(stream, bytes(frame))


@pytest.mark.parametrize("size", [HEADER_BYTES, HEADER_BYTES + TAG_BYTES])
def test_a_frame_without_a_superframe_is_refused(size):
    frame = bytearray(size)
    struct.pack_into(">QQ", frame, OUTER.size, KEYS.stream_id, 1)
    with pytest.raises(WireError):
        opened(InStream(KEYS, session()), bytes(frame))


def test_a_frame_larger_than_any_message_is_refused_not_a_bug():
    frame = OutStream(KEYS, now=0).seal(memoryview(bytes(500)), now=0)
    with pytest.raises(WireError):
        InStream(KEYS, session()).open(memoryview(frame), 1, memoryview(bytearray(499)))


def test_nonces_never_repeat():
    out = OutStream(KEYS, now=0)
    counters = [INNER.unpack_from(out.seal(memoryview(b"x"), now=0), 8)[1] for _ in range(1_000)]
    assert counters == list(range(1, 1_001))


def test_a_key_is_spent_after_its_age_or_blocks():
    out = OutStream(KEYS, now=100)
    out.seal(memoryview(b"x"), now=100 + MAX_KEY_AGE_S)
    with pytest.raises(Spent):
        out.seal(memoryview(b"x"), now=100.1 + MAX_KEY_AGE_S)
    out = OutStream(KEYS, now=0)
    out._blocks = MAX_BLOCKS
    with pytest.raises(Spent):
        out.seal(memoryview(bytes(16)), now=0)


def test_keys_do_not_show_in_reprs():
    assert KEYS.key.hex() not in repr(KEYS)
    assert repr(KEYS) == "StreamKeys()"
