"""conflux/wire/ip.py: where a packet wants to go, and which flow it is of."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.testing.packets import ip_packet, udp_packet
from conflux.wire import ip

V4 = ip_address("10.0.0.1"), ip_address("10.0.0.2")
V6 = ip_address("fd00::1"), ip_address("fd00::2")

pairs = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(pairs, st.binary(max_size=50))
def test_addresses_are_read_from_both_families(ends, payload):
    packet = udp_packet(*ends, payload)
    assert ip.addresses(memoryview(packet)) == (ends[0].packed, ends[1].packed)


@given(st.binary(max_size=100))
def test_noise_gives_wire_error_and_nothing_else(noise):
    try:
        source, destination = ip.addresses(memoryview(noise))
    except WireError:
        return
    assert source + destination in noise
    assert 0 <= ip.flow_hash(memoryview(noise)) < 2**32


@pytest.mark.parametrize("packet", [b"", b"\x45" * 19, b"\x60" * 39, b"\x50" * 60])
def test_what_is_no_whole_header_is_refused(packet):
    with pytest.raises(WireError):
        ip.addresses(memoryview(packet))


@pytest.mark.parametrize("ends", [V4, V6])
def test_packets_of_one_flow_hash_alike_and_ports_tell_flows_apart(ends):
    def flow(payload: bytes, port: int) -> int:
        return ip.flow_hash(memoryview(udp_packet(*ends, payload, source_port=port)))

    assert flow(b"one", 7) == flow(b"another", 7)
    assert len({flow(b"", port) for port in range(1_000)}) > 990


def test_fragments_of_a_datagram_hash_alike():
    packet = bytearray(udp_packet(*V4, b"x" * 64))
    packet[6] = 0x20  # more fragments
    first = ip.flow_hash(memoryview(packet))
    packet[6:8] = b"\x00\x08"  # a later one: what stands where ports would be is data
    packet[20:24] = b"data"
    assert ip.flow_hash(memoryview(packet)) == first


@pytest.mark.parametrize(
    ("address", "can_be_a_host"),
    [
        ("10.0.0.1", True), ("0.0.0.0", False), ("127.0.0.1", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("fd00::1", True), ("::", False), ("::1", False),
        ("ff02::1", False),
    ],
)  # fmt: skip
def test_only_unicast_addresses_belong_to_hosts(address, can_be_a_host):
    assert ip.is_unicast(ip_address(address).packed) is can_be_a_host


EXTENSIONS = {0: b"\x00" * 8, 60: b"\x00\x01" + bytes(14), 43: b"\x00\x00" + bytes(6)}
"""Hop-by-hop options, destination options of 16 bytes, routing; byte 0 says what follows."""


def extended(kinds: list[int], protocol: int, payload: bytes) -> bytes:
    """An IPv6 packet with a chain of extension headers."""
    chain = [*kinds, protocol]
    headers = [bytes((after,)) + EXTENSIONS[kind][1:] for kind, after in pairwise(chain)]
    return ip_packet(*V6, chain[0], b"".join(headers) + payload)


@given(pairs, st.sampled_from([ip.TCP, ip.UDP, ip.ICMP, ip.ICMPV6, 132]), st.binary(max_size=9))
def test_transport_follows_the_header_of_either_family(ends, protocol, payload):
    packet = ip_packet(*ends, protocol, payload)
    assert ip.transport(memoryview(packet)) == (protocol, len(packet) - len(payload))


@given(st.lists(st.sampled_from(sorted(EXTENSIONS)), max_size=6))
def test_transport_stands_behind_every_extension_header(kinds):
    packet = extended(kinds, ip.TCP, b"segment")
    assert ip.transport(memoryview(packet)) == (ip.TCP, len(packet) - 7)


@given(st.integers(5, 15))
def test_transport_stands_behind_ipv4_options(words):
    packet = bytearray(ip_packet(*V4, ip.UDP, bytes(100)))
    packet[0] = 0x40 | words
    assert ip.transport(memoryview(packet)) == (ip.UDP, 4 * words)


@pytest.mark.parametrize(
    ("field", "is_first"),
    [(0x2000, True), (0x0000, True), (0x2001, False), (0x0001, False), (0x1FFF, False)],
)
def test_only_the_first_fragment_has_a_transport_header(field, is_first):
    packet4 = bytearray(ip_packet(*V4, ip.UDP, bytes(64)))
    packet4[6:8] = field.to_bytes(2, "big")
    more, offset = field >> 13, field & 0x1FFF
    header = bytes((ip.UDP, 0)) + (offset << 3 | more).to_bytes(2, "big") + bytes(4)
    packet6 = ip_packet(*V6, 44, header + bytes(64))
    assert (ip.transport(memoryview(packet4)) == (ip.UDP, 20)) is is_first
    assert (ip.transport(memoryview(packet6)) == (ip.UDP, 48)) is is_first
    if not is_first:
        assert ip.transport(memoryview(packet4)) is ip.transport(memoryview(packet6)) is None


@pytest.mark.parametrize(
    "packet",
    [
        b"\x44" + bytes(19),  # a header of 16 bytes
        b"\x46" + bytes(19),  # options beyond the end
        ip_packet(*V6, 0, b""),
        ip_packet(*V6, 60, bytes(7)),
        ip_packet(*V6, 60, b"\x06\x01" + bytes(6)),
        ip_packet(*V6, 60, b"\x3c\x00" + bytes(6)),
    ],
)
def test_packet_that_ends_within_its_headers_has_no_transport(packet):
    with pytest.raises(WireError):
        ip.transport(memoryview(packet))


@given(st.binary(min_size=40, max_size=120), st.sampled_from([4, 6]))
def test_transport_of_noise_lies_within_it(noise, version):
    packet = bytes((version << 4 | noise[0] & 0x0F,)) + noise[1:]
    try:
        found = ip.transport(memoryview(packet))
    except WireError:
        return
    assert found is None or 20 <= found[1] <= len(packet)
