"""conflux/wire/cut.py: superframes out of bursts, where they stand."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import MAX_RECORD_BYTES, Layout
from conflux.testing.packets import tcp_packet, udp_packet
from conflux.testing.virtio import virtio_body
from conflux.wire.cut import add, superframes
from conflux.wire.frame import MAX_SUPERFRAME_BYTES, SIZE, bare, records
from conflux.wire.segment import segments

ENDS = ip_address("10.0.0.1"), ip_address("10.0.0.2")
layouts = st.sampled_from(list(Layout))


def record(body):
    return SIZE.pack(len(body)) + body


def burst_of(layout, bodies):
    return memoryview(bytearray((layout,)) + b"".join(map(record, bodies)))


def spans(burst):
    return [(start, end) for start, _, end in records(burst)]


def runs_of(chosen):
    runs = []
    for start, end in chosen:
        add(runs, start, end)
    return runs


@st.composite
def bursts(draw):
    """A burst, which of its records are for one peer, and the runs that these make."""
    layout = draw(layouts)
    sizes = draw(st.lists(st.integers(0, 300), max_size=12))
    if layout is Layout.BARE:
        bodies = [udp_packet(*ENDS, bytes([i]) * size) for i, size in enumerate(sizes)]
    else:
        gso = draw(st.integers(32, 100))
        packets = (tcp_packet(*ENDS, bytes([i]) * size) for i, size in enumerate(sizes))
        bodies = [virtio_body(packet, gso_size=gso) for packet in packets]
    burst = burst_of(layout, bodies)
    chosen = [span for span in spans(burst) if draw(st.integers(0, 4))]
    return burst, chosen, runs_of(chosen)


def packets_of(superframe):
    """What *superframe* stands for; the records must be whole, whatever they are."""
    packets = []
    for start, _, end in records(superframe):
        body = superframe[start + SIZE.size : end]
        packets += segments(body) if superframe[0] == Layout.VIRTIO else [bytes(body)]
    return packets


@given(bursts(), st.integers(1, 2_000))
def test_every_chosen_packet_is_there_once_and_in_order(made, limit):
    burst, chosen, runs = made
    joined = b"".join(burst[start:end] for start, end in chosen)
    expected = packets_of(memoryview(bytes(burst[:1]) + joined))
    found = [p for superframe in superframes(burst, runs, limit) for p in packets_of(superframe)]
    assert found == expected


@given(bursts(), st.integers(1, 2_000))
def test_longer_than_the_limit_is_one_packet_alone(made, limit):
    burst, _, runs = made
    for superframe in superframes(burst, runs, limit):
        assert len(superframe) <= limit or len(packets_of(superframe)) == 1


@given(bursts(), st.integers(1, 2_000), st.integers(0, 3))
def test_burst_is_what_it_was_also_if_somebody_stops_half_way(made, limit, taken):
    burst, _, runs = made
    before = bytes(burst)
    cutting = superframes(burst, runs, limit)
    for _, _ in zip(range(taken), cutting, strict=False):
        pass
    cutting.close()
    assert burst == before


@given(bursts(), st.integers(400, 2_000))
def test_no_superframe_ends_where_the_next_record_had_room(made, limit):
    burst, _, runs = made
    found = [bytes(superframe) for superframe in superframes(burst, runs, limit)]
    for one, other in pairwise(found):
        first = next(records(memoryview(other)))
        assert len(one) + first[2] - first[0] > limit


def test_records_that_lie_side_by_side_are_not_copied():
    burst = burst_of(Layout.BARE, [udp_packet(*ENDS, bytes(100))] * 9)
    owners = [superframe.obj for superframe in superframes(burst, runs_of(spans(burst)), 400)]
    assert len(owners) == 3
    assert all(owner is burst.obj for owner in owners)


def test_largest_record_fills_the_largest_superframe():
    assert MAX_RECORD_BYTES == MAX_SUPERFRAME_BYTES - 1
    packet = tcp_packet(*ENDS, bytes(MAX_RECORD_BYTES - 2 - 10 - 40))
    burst = burst_of(Layout.VIRTIO, [virtio_body(packet, gso_size=1_448)] * 2)
    assert [len(s) for s in superframes(burst, runs_of(spans(burst)), MAX_SUPERFRAME_BYTES)] == [
        MAX_SUPERFRAME_BYTES
    ] * 2


def test_packet_too_long_for_any_frame_is_yielded_for_the_caller_to_drop():
    burst = memoryview(bare([bytes(65_535), bytes(20)]))
    sizes = [len(s) for s in superframes(burst, runs_of(spans(burst)), MAX_SUPERFRAME_BYTES)]
    assert sizes == [65_538, 23]


@pytest.mark.parametrize("layout", Layout)
def test_nothing_gives_nothing(layout):
    assert list(superframes(burst_of(layout, []), [], 100)) == []
