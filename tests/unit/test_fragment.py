"""conflux/wire/fragment.py: what is cut is put together again to the same bytes."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.testing.packets import checksum, udp_packet
from conflux.wire.fragment import fragments, may_be_cut

ENDS = ip_address("10.0.0.1"), ip_address("10.0.0.2")
COPIED = b"\x94\x04\x00\x00"  # router alert (RFC 2113)
FIRST_ONLY = b"\x07\x07\x04\x00\x00\x00\x00"  # record route (RFC 791 §3.1)

mtus = st.integers(68, 9_000)
option_lists = st.lists(st.sampled_from([COPIED, FIRST_ONLY, b"\x01"]), max_size=5)


def packet_with(options: bytes, data: bytes, *, field: int = 0, identification: int = 7) -> bytes:
    options += bytes(-len(options) % 4)
    size = 20 + len(options) + len(data)
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | (20 + len(options)) // 4, 0, size, identification, field, 64, 17, 0,
        ENDS[0].packed, ENDS[1].packed,
    ) + options  # fmt: skip
    sum_ = checksum(header)
    return header[:10] + sum_.to_bytes(2, "big") + header[12:] + data


def header_bytes(packet: bytes) -> int:
    return (packet[0] & 0x0F) * 4


def put_together(parts: list[bytes]) -> bytes:
    """RFC 791 §3.2, as a receiver does it: from parts in any order, without a gap or overlap."""
    data: dict[int, bytes] = {}
    for part in parts:
        (field,) = struct.unpack_from(">H", part, 6)
        data[(field & 0x1FFF) * 8] = part[header_bytes(part) :]
    whole = b""
    for at in sorted(data):
        assert at == len(whole)
        whole += data[at]
    return whole


@given(st.binary(max_size=4_000), option_lists, mtus)
def test_parts_fit_and_make_up_the_packet(data, options, mtu_bytes):
    packet = packet_with(b"".join(options), data)
    parts = fragments(memoryview(packet), mtu_bytes)
    assert put_together(parts) == data
    for part in parts:
        assert len(part) <= mtu_bytes
        assert struct.unpack_from(">H", part, 2) == (len(part),)
        assert checksum(part[: header_bytes(part)]) == 0
        assert (part[4:6], part[8:10], part[12:20]) == (packet[4:6], packet[8:10], packet[12:20])
    flags = [part[6] >> 5 for part in parts]
    assert flags == [1] * (len(parts) - 1) + [0]
    if len(packet) <= mtu_bytes:
        assert parts == [packet]


@given(st.binary(min_size=200, max_size=600), option_lists)
def test_later_parts_carry_the_options_alone_that_are_to_be_copied(data, options):
    packet = packet_with(b"".join(options), data)
    first, *later = fragments(memoryview(packet), 120)
    assert first[20 : header_bytes(first)] == packet[20 : header_bytes(packet)]
    copied = b"".join(option for option in options if option == COPIED)
    for part in later:
        assert part[20 : header_bytes(part)] == copied


@given(st.binary(min_size=600, max_size=2_000), st.booleans())
def test_a_fragment_is_cut_further(data, is_last):
    """What was cut for 600 bytes is cut for 300 as if it had been so from the first."""
    packet = packet_with(b"", data)
    parts = fragments(memoryview(packet), 600)
    smaller = [small for part in parts for small in fragments(memoryview(part), 300)]
    assert put_together(smaller) == data
    assert [part[6] >> 5 for part in smaller] == [1] * (len(smaller) - 1) + [0]


def test_bytes_behind_the_packet_are_not_sent():
    packet = packet_with(b"", b"x" * 100)
    assert put_together(fragments(memoryview(packet + b"padding"), 68)) == b"x" * 100


@pytest.mark.parametrize(
    "packet",
    [
        b"\x44" + packet_with(b"", bytes(99))[1:],  # a header of 16 bytes
        packet_with(b"", bytes(99))[:-1],
        packet_with(b"\x94\x00\x00\x00", bytes(99)),  # an option of no length
        packet_with(b"\x94\x09\x00\x00", bytes(99)),  # one that ends beyond the header
        packet_with(b"\x01\x01\x01\x94", bytes(99)),  # one without a length
        packet_with(b"", bytes(99), field=0x1FFF),
    ],
)
def test_malformed_header_is_refused(packet):
    with pytest.raises(WireError):
        fragments(memoryview(packet), 68)


@given(st.binary(min_size=20, max_size=200), mtus)
def test_noise_gives_wire_error_and_nothing_else(noise, mtu_bytes):
    packet = bytes((0x40 | noise[0] & 0x0F,)) + noise[1:]
    try:
        parts = fragments(memoryview(packet), mtu_bytes)
    except WireError:
        return
    assert all(len(part) <= mtu_bytes for part in parts)


def test_only_ipv4_without_df_may_be_cut():
    cut = udp_packet(*ENDS, b"x", may_be_cut=True)
    whole = udp_packet(*ENDS, b"x")
    six = udp_packet(ip_address("fd00::1"), ip_address("fd00::2"), b"x")
    assert [may_be_cut(memoryview(packet)) for packet in (cut, whole, six)] == [True, False, False]
