"""conflux/wire/ip.py: where a packet wants to go, and which flow it is of."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.testing.packets import udp_packet
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
