"""conflux/wire/join.py: what is joined stands for the packets that it was, byte for byte."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import MAX_GSO_BYTES, Gso, Layout, WireError
from conflux.testing.packets import tcp_packet, udp_packet
from conflux.testing.virtio import virtio_body
from conflux.wire.checksum import checksum
from conflux.wire.frame import SIZE, records
from conflux.wire.join import MAX_JOINED, join
from conflux.wire.segment import HEADER, check, segments, tidy

V4 = ip_address("10.0.0.1"), ip_address("10.0.0.2")
V6 = ip_address("fd00::1"), ip_address("fd00::2")


def numbered(packet: bytes, number: int) -> bytes:
    """An IPv4 packet of that identification; of IPv6, the packet."""
    if packet[0] >> 4 == 6:
        return packet
    changed = bytearray(packet)
    changed[4:6] = (number & 0xFFFF).to_bytes(2, "big")
    return with_checksum(changed)


def with_checksum(packet: bytearray) -> bytes:
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(packet[:20]).to_bytes(2, "big")
    return bytes(packet)


def flow(pair, payloads, *, first: int = 7) -> list[bytes]:
    """Bodies of UDP packets as a connected socket makes them."""
    return [
        virtio_body(numbered(udp_packet(*pair, payload), first + index))
        for index, payload in enumerate(payloads)
    ]


def burst_of(bodies) -> memoryview:
    packed = b"".join(SIZE.pack(len(body)) + body for body in bodies)
    return memoryview(bytearray((Layout.VIRTIO,)) + packed)


def bodies_of(burst: memoryview) -> list[bytearray]:
    return [bytearray(burst[at + SIZE.size : end]) for at, _, end in records(burst)]


def packets_of(bodies) -> list[bytes]:
    """All packets that the bodies stand for, with whole checksums."""
    made = []
    for body in bodies:
        view = memoryview(bytearray(body))
        assert tidy(view)
        made += segments(view)
    return made


@st.composite
def bodies(draw):
    """Flows side by side and interrupted, of several sizes, and packets of other kinds."""
    made = []
    for _ in range(draw(st.integers(1, 5))):
        pair = draw(st.sampled_from([V4, V6, V6[::-1]]))
        size = draw(st.sampled_from([0, 31, 32, 64, 1_200]))
        count = draw(st.integers(1, 6))
        payloads = [draw(st.binary(min_size=size, max_size=size)) for _ in range(count)]
        made += flow(pair, payloads, first=draw(st.sampled_from([0, 7, 65_533])))
        if draw(st.booleans()):
            made.append(virtio_body(tcp_packet(*pair, bytes(draw(st.integers(0, 200))))))
        if draw(st.booleans()):
            made.append(HEADER.pack(0, 0, 0, 0, 0, 0) + udp_packet(*pair, b"summed" * 10))
    return made


@given(bodies())
def test_what_is_joined_is_cut_up_into_the_same_packets(made):
    joined = bodies_of(join(burst_of(made)))
    assert packets_of(joined) == packets_of(made)
    for body in joined:
        view = memoryview(body)
        assert tidy(view)
        check(view)
    assert len(joined) <= len(made)


@pytest.mark.parametrize("pair", [V4, V6])
@pytest.mark.parametrize("size", [32, 64, 1_200])
def test_packets_of_one_flow_become_one_record(pair, size):
    made = flow(pair, [bytes([number]) * size for number in range(40)])
    [body] = bodies_of(join(burst_of(made)))
    assert check(memoryview(body)) == Gso.UDP_L4
    assert packets_of([body]) == packets_of(made)


def changed(body: bytes, at: int, value: int, *, mend: bool = True) -> bytes:
    """*body* with another byte at *at* of its IPv4 packet."""
    packet = bytearray(body[HEADER.size :])
    packet[at] = value
    return body[: HEADER.size] + (with_checksum(packet) if mend else bytes(packet))


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, 4), (5, 99), (6, 0x00), (8, 9), (15, 77), (19, 77), (21, 1), (23, 1), (27, 1)],
    ids=[
        "service", "identification", "fragmentation", "hop limit", "source", "destination",
        "source port", "destination port", "checksum",
    ],
)  # fmt: skip
def test_packet_that_differs_in_its_headers_is_not_joined(at, value):
    one, other, *_ = flow(V4, [bytes(64)] * 3)
    burst = burst_of([one, changed(other, at, value)])
    assert join(burst) is burst


def test_header_checksum_that_is_wrong_is_not_mended_by_joining():
    made = flow(V4, [bytes(64)] * 3)
    for wrong in range(3):
        bad = [
            changed(body, 11, body[HEADER.size + 11] ^ 1, mend=False) if index == wrong else body
            for index, body in enumerate(made)
        ]
        left = [bytes(body) for body in bodies_of(join(burst_of(bad)))]
        assert bad[wrong] in left


def test_fragments_are_not_joined():
    made = [changed(body, 6, 0x20) for body in flow(V4, [bytes(64)] * 3)]
    burst = burst_of(made)
    assert join(burst) is burst


def test_packets_with_a_checksum_of_their_own_are_not_joined():
    made = [bytes(HEADER.size) + numbered(udp_packet(*V4, bytes(64)), n) for n in range(3)]
    burst = burst_of(made)
    assert join(burst) is burst


def test_packets_shorter_than_a_record_may_stand_for_are_not_joined():
    burst = burst_of(flow(V4, [bytes(31)] * 3))
    assert join(burst) is burst


@pytest.mark.parametrize("size", [32, 1_448])
def test_joined_records_stay_within_their_limits(size):
    made = flow(V4, [bytes(size)] * 1_000, first=0)
    joined = bodies_of(join(burst_of(made)))
    assert all(len(body) - HEADER.size <= MAX_GSO_BYTES for body in joined)
    assert all(len(segments(memoryview(body))) <= MAX_JOINED for body in joined)
    assert len(joined) == -(-1_000 // min(MAX_JOINED, (MAX_GSO_BYTES - 28) // size))


@given(st.binary(max_size=300), st.booleans())
def test_noise_is_left_as_it_is_or_stands_for_the_same(noise, is_headed):
    start = HEADER.pack(1, 0, 0, 0, 20, 6) if is_headed else b""
    body = start + noise
    burst = burst_of([body, body])
    joined = join(burst)
    if joined is not burst:
        assert packets_of(bodies_of(joined)) == packets_of([body, body])


@given(st.binary(max_size=400))
def test_bursts_that_end_within_a_record_end_the_search(noise):
    burst = memoryview(bytearray((Layout.VIRTIO,)) + noise)
    before = bytes(burst)
    try:
        join(burst)
    except WireError:
        raise AssertionError("join raises nothing") from None
    assert bytes(burst) == before
