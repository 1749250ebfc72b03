"""The kit's packets are what a kernel forwards."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.testing.packets import PORT, Address, checksum, udp_packet, udp_payload

PAIRS: list[tuple[Address, Address]] = [
    (IPv4Address("192.0.2.1"), IPv4Address("198.51.100.1")),
    (IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:2::1")),
]


@given(st.sampled_from(PAIRS), st.binary(max_size=1_400))
def test_payload_comes_back(pair: tuple[Address, Address], payload: bytes) -> None:
    packet = udp_packet(*pair, payload)
    assert udp_payload(packet, *pair) == payload
    assert udp_payload(packet, *pair[::-1]) is None


@given(st.sampled_from(PAIRS), st.binary(max_size=1_400))
def test_checksums_add_up(pair: tuple[Address, Address], payload: bytes) -> None:
    """RFC 1071: over data that holds its own checksum the result is zero."""
    source, destination = pair
    packet = udp_packet(source, destination, payload)
    segment = packet[20:] if source.version == 4 else packet[40:]
    pseudo = source.packed + destination.packed + struct.pack(">II", len(segment), 17)
    assert checksum(pseudo + segment) == 0
    if source.version == 4:
        assert checksum(packet[:20]) == 0
        assert int.from_bytes(packet[2:4], "big") == len(packet)
    else:
        assert int.from_bytes(packet[4:6], "big") == len(segment)


def test_known_checksum() -> None:
    """The example of RFC 1071 §3."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@pytest.mark.parametrize("pair", PAIRS, ids=["IPv4", "IPv6"])
def test_other_packets_are_not_taken_for_the_kits(pair: tuple[Address, Address]) -> None:
    packet = udp_packet(*pair, b"payload")
    elsewhere = ip_address("203.0.113.9" if pair[0].version == 4 else "2001:db8::9")
    assert udp_payload(packet, pair[0], elsewhere) is None
    assert udp_payload(packet[:-1], *pair) is None
    assert udp_payload(packet[:10], *pair) is None
    assert udp_payload(packet.replace(PORT.to_bytes(2, "big"), b"\0\1"), *pair) is None
