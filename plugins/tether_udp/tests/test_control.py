"""Items between the two ends: one encoding each, read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux_tether_udp.control import (
    FIRST,
    LAST,
    MAX_BITMAP_BYTES,
    MAX_NACKED,
    MAX_SEGMENT_BYTES,
    Ack,
    Challenge,
    Close,
    Nack,
    Report,
    Response,
    Segment,
    read,
)
from conflux_tether_udp.datagram import BASE_BYTES, OVERHEAD_BYTES

numbers = st.integers(0, 2**32 - 1)
items = st.one_of(
    st.builds(Challenge, st.binary(min_size=8, max_size=8)),
    st.builds(Response, st.binary(min_size=8, max_size=8)),
    st.builds(Report, *[numbers] * 8),
    st.builds(
        Segment, numbers, st.integers(0, FIRST | LAST), st.binary(max_size=MAX_SEGMENT_BYTES)
    ),
    st.builds(Ack, numbers, st.binary(max_size=MAX_BITMAP_BYTES)),
    st.just(Close()),
    st.builds(
        Nack,
        st.binary(min_size=6, max_size=6),
        st.sets(st.integers(0, 63), min_size=1, max_size=MAX_NACKED).map(
            lambda pieces: sum(1 << piece for piece in pieces)
        ),
    ),
)


@given(st.lists(items, max_size=8), st.integers(0, 20))
def test_what_is_written_is_read(written, padding):
    data = b"".join(item.encode() for item in written) + bytes(padding)
    assert list(read(memoryview(data))) == written


@given(st.binary(max_size=400))
def test_noise_is_a_wire_error_or_items_that_encode_to_it(data):
    try:
        decoded = list(read(memoryview(data)))
    except WireError:
        return
    whole = b"".join(item.encode() for item in decoded)
    assert data.startswith(whole)
    assert data[len(whole) : len(whole) + 1] in (b"", b"\0")


@given(items, st.data())
def test_item_that_is_cut_short_is_a_wire_error(item, data):
    whole = item.encode()
    short = whole[: data.draw(st.integers(1, len(whole)))]
    if short != whole:
        with pytest.raises(WireError):
            list(read(memoryview(short)))


@pytest.mark.parametrize(
    "bad",
    [
        Segment(0, 0, bytes(MAX_SEGMENT_BYTES + 1)).encode(),
        Segment(0, 4, b"").encode(),
        Ack(0, bytes(MAX_BITMAP_BYTES + 1)).encode(),
        Nack(bytes(6), 0).encode(),
        Nack(bytes(6), (1 << MAX_NACKED + 1) - 1).encode(),
        b"\x07",
        b"\x08",
        b"\xff",
    ],
)
def test_values_out_of_bounds_are_wire_errors(bad):
    with pytest.raises(WireError):
        list(read(memoryview(bad)))


def test_full_segment_fills_a_datagram_that_every_path_carries():
    segment = Segment(0, FIRST, bytes(MAX_SEGMENT_BYTES)).encode()
    assert len(segment) + OVERHEAD_BYTES == BASE_BYTES
