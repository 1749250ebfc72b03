"""conflux/wire/icmp.py: errors are what the RFCs say, and are about what they allow."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.testing.packets import checksum, ip_packet, pseudo_header, tcp_packet, udp_packet
from conflux.wire import icmp, ip

ENDS = {
    4: (ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.0.0.9")),
    6: (ip_address("fd00::1"), ip_address("fd00::2"), ip_address("fd00::9")),
}
"""Sender, receiver, and who sends the error."""

families = st.sampled_from([4, 6])


def answered(family: int, packet: bytes, mtu_bytes: int | None = None) -> bytes:
    source = ENDS[family][2].packed
    if mtu_bytes is None:
        return icmp.host_unreachable(memoryview(packet), source=source)
    return icmp.too_big(memoryview(packet), source=source, mtu_bytes=mtu_bytes)


@given(families, st.integers(0, 9_000), st.integers(1_280, 65_535))
def test_too_big_says_the_mtu_and_quotes_the_packet(family, size, mtu_bytes):
    packet = udp_packet(*ENDS[family][:2], bytes(size))
    error = answered(family, packet, mtu_bytes)
    at = 20 if family == 4 else 40
    kind, code, _, rest = struct.unpack_from(">BBHI", error, at)
    assert (kind, code, rest) == ((3, 4, mtu_bytes) if family == 4 else (2, 0, mtu_bytes))
    assert packet.startswith(error[at + 8 :])
    assert len(error) == min(at + 8 + len(packet), 576 if family == 4 else 1_280)


@given(families, st.binary(max_size=2_000))
def test_error_goes_to_the_sender_and_its_checksums_hold(family, payload):
    sender, receiver, source = ENDS[family]
    for error in (
        answered(family, udp_packet(sender, receiver, payload)),
        answered(family, udp_packet(sender, receiver, payload), 1_500),
    ):
        assert ip.addresses(memoryview(error)) == (source.packed, sender.packed)
        if family == 4:
            assert checksum(error[:20]) == checksum(error[20:]) == 0
            assert int.from_bytes(error[2:4], "big") == len(error)
        else:
            pseudo = pseudo_header(source, sender, ip.ICMPV6, len(error) - 40)
            assert checksum(pseudo + error[40:]) == 0
            assert int.from_bytes(error[4:6], "big") == len(error) - 40


@pytest.mark.parametrize(("family", "kind", "code"), [(4, 3, 1), (6, 1, 3)])
def test_unreachable_host_has_the_code_of_its_family(family, kind, code):
    error = answered(family, udp_packet(*ENDS[family][:2], b"hello"))
    assert tuple(error[20 if family == 4 else 40 :][:2]) == (kind, code)
    assert error.endswith(b"hello")


@given(families, st.binary(max_size=100))
def test_error_names_the_ends_of_the_packet_that_it_is_about(family, payload):
    sender, receiver, _ = ENDS[family]
    error = answered(family, udp_packet(sender, receiver, payload))
    assert icmp.quoted_ends(memoryview(error)) == (sender.packed, receiver.packed)


@given(families, st.binary(max_size=100))
def test_no_error_is_sent_about_an_error(family, payload):
    error = answered(family, udp_packet(*ENDS[family][:2], payload))
    assert not icmp.may_be_answered(memoryview(error))


@pytest.mark.parametrize("family", [4, 6])
def test_packets_of_applications_may_be_answered(family):
    sender, receiver, _ = ENDS[family]
    echo = ip_packet(sender, receiver, *((ip.ICMP, b"\x08") if family == 4 else (58, b"\x80")))
    for packet in (
        udp_packet(sender, receiver, b"x"), tcp_packet(sender, receiver), echo,
        ip_packet(sender, receiver, 132, b""),
    ):  # fmt: skip
        assert icmp.may_be_answered(memoryview(packet))
        assert icmp.quoted_ends(memoryview(packet)) is None


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("10.0.0.1", "224.0.0.251"), ("10.0.0.1", "255.255.255.255"), ("0.0.0.0", "10.0.0.2"),
        ("127.0.0.1", "10.0.0.2"), ("fd00::1", "ff02::fb"), ("::", "fd00::2"),
    ],
)  # fmt: skip
def test_nothing_is_answered_that_is_not_from_one_host_to_one_host(source, destination):
    packet = udp_packet(ip_address(source), ip_address(destination), b"x")
    assert not icmp.may_be_answered(memoryview(packet))


def fragment_of(family: int, offset: int, payload: bytes, protocol: int) -> bytes:
    sender, receiver, _ = ENDS[family]
    if family == 4:
        packet = bytearray(ip_packet(sender, receiver, protocol, payload))
        packet[6:8] = (0x2000 | offset).to_bytes(2, "big")
        return bytes(packet)
    header = bytes((protocol, 0)) + (offset << 3 | 1).to_bytes(2, "big") + bytes(4)
    return ip_packet(sender, receiver, 44, header + payload)


@pytest.mark.parametrize("family", [4, 6])
def test_of_fragments_only_the_first_is_answered(family):
    first, later = (fragment_of(family, at, bytes(64), ip.UDP) for at in (0, 8))
    assert icmp.may_be_answered(memoryview(first))
    assert not icmp.may_be_answered(memoryview(later))


@pytest.mark.parametrize("family", [4, 6])
def test_first_fragment_of_an_error_is_an_error(family):
    kind = ip.ICMP if family == 4 else ip.ICMPV6
    about = udp_packet(*ENDS[family][:2], b"about")
    whole = b"\x03\x00" + bytes(6) + about
    first = fragment_of(family, 0, whole, kind)
    assert not icmp.may_be_answered(memoryview(first))
    ends = tuple(end.packed for end in ENDS[family][:2])
    assert icmp.quoted_ends(memoryview(first)) == ends
    assert icmp.quoted_ends(memoryview(fragment_of(family, 1, whole, kind))) is None


@pytest.mark.parametrize("family", [4, 6])
def test_error_cut_short_within_the_packet_that_it_is_about_is_refused(family):
    error = answered(family, udp_packet(*ENDS[family][:2], b""))
    at = 20 if family == 4 else 40
    for size in range(at, at + 8 + at):
        with pytest.raises(WireError):
            icmp.quoted_ends(memoryview(error)[:size])
    assert icmp.quoted_ends(memoryview(error)[: at + 8 + at]) is not None


def test_error_behind_extension_headers_is_seen():
    about = udp_packet(*ENDS[6][:2], b"about")
    error = b"\x02\x00" + bytes(6) + about
    options = bytes((60, 0)) + bytes(6) + bytes((ip.ICMPV6, 0)) + bytes(6)
    packet = ip_packet(*ENDS[6][:2], 0, options + error)
    assert icmp.quoted_ends(memoryview(packet)) == tuple(e.packed for e in ENDS[6][:2])
    assert not icmp.may_be_answered(memoryview(packet))


@pytest.mark.parametrize("kind", [1, 2, 6, 7, 9, 10, 11, 12, 40, 44, 255])
def test_unknown_icmp_of_ipv4_counts_as_an_error(kind):
    packet = ip_packet(*ENDS[4][:2], ip.ICMP, bytes((kind,)) + bytes(27))
    assert not icmp.may_be_answered(memoryview(packet))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 100, 127, 137])
def test_errors_and_redirects_of_icmpv6_are_not_answered(kind):
    packet = ip_packet(*ENDS[6][:2], ip.ICMPV6, bytes((kind,)) + bytes(47))
    assert not icmp.may_be_answered(memoryview(packet))


@given(st.binary(min_size=40, max_size=120), families)
def test_noise_gives_wire_error_and_nothing_else(noise, family):
    packet = memoryview(bytes((family << 4 | noise[0] & 0x0F,)) + noise[1:])
    may = icmp.may_be_answered(packet)
    try:
        ends = icmp.quoted_ends(packet)
    except WireError:
        assert not may or ip.transport(packet)
        return
    assert not (may and ends)
