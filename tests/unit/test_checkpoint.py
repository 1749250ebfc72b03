"""conflux/wire/checkpoint.py: every message reads back, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import SIGNATURE_BYTES, WireError
from conflux.wire import checkpoint
from conflux.wire.checkpoint import (
    MAX_BATCH,
    MAX_SPAN,
    Checkpoint,
    Covered,
    Digests,
    Leaf,
    Wanted,
    decode,
    is_ours,
)
from conflux.wire.control import MAX_HANDSHAKE_BYTES

hashes = st.binary(min_size=32, max_size=32)
firsts = st.integers(1, 2**63)
stream_ids = st.integers(0, 2**64 - 1)
offsets = st.sets(st.integers(0, MAX_SPAN - 1), min_size=1, max_size=40).map(sorted)
signatures = st.binary(min_size=1, max_size=8).map(
    lambda b: (b * SIGNATURE_BYTES)[:SIGNATURE_BYTES]
)


@st.composite
def leaves(draw):
    first = draw(firsts)
    counters = [first, *(first + offset for offset in draw(offsets) if offset)]
    return Leaf(draw(hashes), draw(stream_ids), counters, draw(hashes))


@st.composite
def checkpoints(draw):
    leaf, size = draw(leaves()), draw(st.integers(1, MAX_BATCH))
    count = len(leaf.counters) if draw(st.booleans()) else 0
    return Checkpoint(
        leaf,
        draw(st.integers(0, size - 1)),
        size,
        draw(st.lists(hashes, max_size=8)),
        draw(signatures),
        draw(st.lists(hashes, min_size=count, max_size=count)),
    )


@st.composite
def wants(draw):
    first = draw(firsts)
    return Wanted(draw(stream_ids), first, [first + offset for offset in draw(offsets)])


@st.composite
def digest_lists(draw):
    first = draw(firsts)
    return Digests(
        draw(stream_ids), first, {first + offset: draw(hashes) for offset in draw(offsets)}
    )


messages = st.one_of(
    checkpoints(), st.builds(Covered, stream_ids, stream_ids), wants(), digest_lists()
)


@given(messages)
def test_what_is_encoded_decodes_to_the_same(message):
    encoded = message.encode()
    assert is_ours(encoded)
    assert decode(encoded) == message
    assert len(encoded) <= MAX_HANDSHAKE_BYTES


@given(leaves())
def test_leaves_read_back(leaf):
    assert Leaf.decode(leaf.encode()) == leaf


@given(messages, st.data())
def test_every_cut_and_every_tail_is_refused(message, data):
    encoded = message.encode()
    with pytest.raises(WireError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(WireError):
        decode(encoded + b"\0")


@given(messages, st.data())
def test_a_changed_byte_gives_wire_error_or_a_message_of_the_same_bytes(message, data):
    bent = bytearray(message.encode())
    at = data.draw(st.integers(0, min(len(bent), 200) - 1))
    bent[at] = data.draw(st.integers(0, 255))
    read_back(bytes(bent))


@given(st.integers(0, 255), st.binary(max_size=4_000))
def test_noise_gives_wire_error_or_a_message_of_the_same_bytes(kind, noise):
    read_back(bytes((1, kind)) + noise)
    read_back(noise)


def read_back(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError:
        return
    assert message.encode() == data


def test_the_largest_checkpoint_fits_a_control_message():
    leaf = Leaf(bytes(32), 1, [*range(1, 256), MAX_SPAN], bytes(32))
    whole = Checkpoint(leaf, 255, 256, [bytes(32)] * 8, bytes(SIGNATURE_BYTES), [bytes(32)] * 256)
    assert decode(whole.encode()) == whole
    assert len(whole.encode()) < MAX_HANDSHAKE_BYTES


def test_a_leaf_spans_no_more_than_it_may():
    Leaf(bytes(32), 1, [1, MAX_SPAN], bytes(32)).encode()
    with pytest.raises(ValueError, match="does not fit"):
        Leaf(bytes(32), 1, [1, MAX_SPAN + 1], bytes(32)).encode()
    with pytest.raises(ValueError, match="does not fit"):
        Wanted(1, 20, [1]).encode()


@pytest.mark.parametrize(
    "bitmap", [b"", b"\x80\0", b"\0", b"\x40", bytes(MAX_SPAN // 8) + b"\x80"],
    ids=["empty", "zero at the end", "no counter", "not from the first", "too long"],
)  # fmt: skip
def test_sets_of_counters_have_one_encoding(bitmap):
    data = bytes(32) + bytes(8) + (9).to_bytes(8, "big") + len(bitmap).to_bytes(2, "big")
    with pytest.raises(WireError):
        Leaf.decode(data + bitmap + bytes(32))


@pytest.mark.parametrize("first", [0, 2**64 - 8, 2**64 - 1])
def test_counters_that_cannot_be_are_refused(first):
    data = bytes(8) + first.to_bytes(8, "big") + b"\x00\x01\xff"
    with pytest.raises(WireError):
        decode(bytes((1, checkpoint.AuthKind.WANTED)) + data)


@pytest.mark.parametrize(
    "message", [b"", b"\x01", b"\x01\x01", b"\x02\x10", b"\x01\x0f", b"\x01\x14"]
)
def test_other_control_messages_are_not_ours(message):
    assert not is_ours(message)
    with pytest.raises(WireError):
        decode(message)


def test_digests_stand_in_order_and_are_not_too_many():
    head = bytes((1, checkpoint.AuthKind.DIGESTS)) + bytes(8) + (1).to_bytes(8, "big")
    entry = (5).to_bytes(2, "big") + bytes(32)
    for count, body in ((2, entry * 2), (257, entry * 257), (0, b"")):
        with pytest.raises(WireError):
            decode(head + count.to_bytes(2, "big") + body)
