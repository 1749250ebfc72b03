"""conflux/wire/mss.py: SYNs announce what fits, everything else is left alone."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.testing.packets import ACK, SYN, checksum, ip_packet, pseudo_header, tcp_packet
from conflux.wire import ip
from conflux.wire.mss import clamped

ENDS = {
    4: (ip_address("10.0.0.1"), ip_address("10.0.0.2")),
    6: (ip_address("fd00::1"), ip_address("fd00::2")),
}
HEADERS = {4: 40, 6: 60}

families = st.sampled_from([4, 6])
OTHERS = (b"\x01", b"\x03\x03\x07", b"\x04\x02", b"\x08\x0a" + bytes(8))
"""No operation, window scale, SACK permitted, timestamps."""
others = st.lists(st.sampled_from(OTHERS), max_size=2)


def mss(value: int) -> bytes:
    return struct.pack(">BBH", 2, 4, value)


def padded(options: bytes) -> bytes:
    return options + bytes(-len(options) % 4)


def segment_sum(family: int, packet: bytes) -> int:
    """0 if the TCP checksum holds (RFC 1071)."""
    segment = packet[20 if family == 4 else 40 :]
    return checksum(pseudo_header(*ENDS[family], ip.TCP, len(segment)) + segment)


@given(
    family=families,
    before=others,
    after=st.sampled_from(OTHERS).map(lambda option: [option]),
    announced=st.integers(0, 65_535),
    mtu_bytes=st.integers(1_280, 9_000),
    flags=st.sampled_from([SYN, SYN | ACK]),
    payload=st.binary(max_size=9),
)
def test_syn_announces_at_most_what_the_path_carries(
    family, before, after, announced, mtu_bytes, flags, payload
):
    def syn(value: int) -> bytes:
        options = padded(b"".join([*before, mss(value), *after]))
        return tcp_packet(*ENDS[family], payload, flags=flags, options=options)

    most = mtu_bytes - HEADERS[family]
    packet = clamped(memoryview(syn(announced)), mtu_bytes)
    if announced <= most:
        assert packet is None
    else:
        # Byte for byte what the sender would have made of it: the checksum included.
        assert packet == syn(most)
        assert segment_sum(family, packet) == 0


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_no_syn_or_announces_nothing_stays_as_it_is(family):
    ends = ENDS[family]
    for packet in (
        tcp_packet(*ends, b"data", flags=ACK, options=mss(9_000)),
        tcp_packet(*ends, flags=SYN),
        tcp_packet(*ends, flags=SYN, options=padded(b"\x03\x03\x07")),
        ip_packet(*ends, ip.UDP, bytes(13) + bytes((SYN,)) + bytes(30)),
    ):
        assert clamped(memoryview(packet), 1_280) is None


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "options",
    [
        b"\x00\x00\x00\x00" + mss(9_000),  # behind the end of the list
        b"\x02\x03\xff\x00",  # of 3 bytes
        b"\x02\x00\xff\xff",  # of no length
        b"\x03\x01" + mss(9_000) + b"\x00\x00",  # behind one of 1 byte
        b"\x03\x09\x00\x00" + mss(9_000),  # within another one that ends beyond the header
        b"\x01\x01\x02\x04",  # its value beyond the header
        b"\x01\x01\x01\x02",  # its length beyond the header
    ],
)
def test_malformed_options_leave_the_packet_as_it_is(family, options):
    packet = tcp_packet(*ENDS[family], bytes(40), flags=SYN, options=options)
    assert clamped(memoryview(packet), 1_280) is None


@pytest.mark.parametrize("family", [4, 6])
def test_packet_cut_short_stays_as_it_is(family):
    packet = tcp_packet(*ENDS[family], flags=SYN, options=mss(9_000))
    for size in range(20 if family == 4 else 40, len(packet)):
        assert clamped(memoryview(packet)[:size], 1_280) is None


def test_syn_behind_extension_headers_is_clamped():
    segment = tcp_packet(*ENDS[6], flags=SYN, options=mss(9_000))[40:]
    packet = ip_packet(*ENDS[6], 60, bytes((ip.TCP, 0)) + bytes(6) + segment)
    lowered = clamped(memoryview(packet), 1_500)
    assert lowered is not None
    assert lowered.endswith(mss(1_440))


def test_first_fragment_is_clamped_and_a_later_one_is_not():
    syn = bytearray(tcp_packet(*ENDS[4], flags=SYN, options=mss(9_000)))
    syn[6:8] = b"\x20\x00"
    lowered = clamped(memoryview(syn), 1_500)
    assert lowered is not None
    assert lowered.endswith(mss(1_460))
    syn[6:8] = b"\x00\x01"
    assert clamped(memoryview(syn), 1_500) is None


@given(st.binary(min_size=40, max_size=120), families)
def test_noise_is_taken(noise, family):
    packet = bytes((family << 4 | noise[0] & 0x0F,)) + noise[1:]
    lowered = clamped(memoryview(packet), 1_280)
    assert lowered is None or len(lowered) == len(packet)
