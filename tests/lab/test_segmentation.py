"""Cutting up in software beside the kernel's own: the same bytes.

A record goes into one TUN device; the kernel forwards it to another that takes single packets with
whole checksums, so the kernel has to make those. Two things differ by nature: the hop limit is one
lower, and the IPv4 header's checksum with it.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conflux import lab
from conflux.api import Layout, TunConfig, TunDevice
from conflux.testing.packets import tcp_packet, udp_packet
from conflux.testing.virtio import virtio_body
from conflux.wire import ip
from conflux.wire.checksum import checksum
from conflux.wire.frame import SIZE
from conflux.wire.join import MAX_JOINED, join
from conflux.wire.segment import HEADER, NO_HEADER, check, segments, split, tidy
from conflux_tun_linux.device import LinuxTunDriver

EXAMPLES = 400
V4 = ip_address("192.0.2.1"), ip_address("198.51.100.1")
V6 = ip_address("2001:db8:1::1"), ip_address("2001:db8:2::1")
ENDS = {tuple(address.packed for address in pair) for pair in (V4, V6)}
OPTIONS = (b"", b"\x01\x01\x08\x0a" + bytes(8), b"\x01" * 40)


@st.composite
def bodies(draw):
    pair = draw(st.sampled_from([V4, V6]))
    gso_size = draw(st.one_of(st.just(0), st.integers(32, 9_000)))
    longest = min(gso_size * 40, 65_000) if gso_size else 8_000
    payload = draw(st.binary(min_size=1, max_size=64))
    payload = (payload * (longest // len(payload) + 1))[: draw(st.integers(0, longest))]
    if draw(st.booleans()):
        packet = udp_packet(*pair, payload)
    else:
        flags, options = draw(st.integers(0, 255)), draw(st.sampled_from(OPTIONS))
        packet = tcp_packet(*pair, payload, flags=flags, options=options)
    changed = bytearray(packet)
    if pair is V4:
        changed[1] = draw(st.integers(0, 255))
        changed[4:6] = draw(st.binary(min_size=2, max_size=2))
        changed[10:12] = bytes(2)
        changed[10:12] = checksum(changed[:20]).to_bytes(2, "big")
    else:
        changed[1:4] = draw(st.binary(min_size=3, max_size=3))
    return virtio_body(bytes(changed), gso_size=gso_size, ecn=draw(st.booleans()))


def forwarded(packet):
    """*packet* as a router passes it on (RFC 1812 §5.3.1, RFC 8200 §3)."""
    passed = bytearray(packet)
    if packet[0] >> 4 == 4:
        passed[8] -= 1
        passed[10:12] = bytes(2)
        passed[10:12] = checksum(passed[: (passed[0] & 15) * 4]).to_bytes(2, "big")
    else:
        passed[7] -= 1
    return bytes(passed)


class Kernel:
    """Two devices, and the kernel's forwarding between them."""

    def __init__(self, into: TunDevice, out_of: TunDevice) -> None:
        self._into, self._out_of = into, out_of
        self._buffer = memoryview(bytearray(1 << 20))

    def passes_on(self, *made: bytes) -> list[bytes]:
        burst = b"".join(SIZE.pack(len(body)) + body for body in made)
        assert self._into.send(memoryview(burst), Layout.VIRTIO) == len(burst)
        packets, at = [], 0
        filled = self._out_of.receive(self._buffer)
        while at < filled:
            end = at + 2 + int.from_bytes(self._buffer[at : at + 2], "big")
            packet = self._buffer[at + 2 : end]
            if ip.addresses(packet) in ENDS:  # not what the kernel itself says
                packets.append(bytes(packet))
            at = end
        return packets


async def open_kernel() -> Kernel:
    opened = []
    for name, offload, addresses in (
        ("into", True, ["192.0.2.254/24", "2001:db8:1::fe/64"]),
        ("out", False, ["198.51.100.254/24", "2001:db8:2::fe/64"]),
    ):
        config = TunConfig(name=name, addresses=[*map(ip_interface, addresses)], mtu_bytes=9_200)
        opened.append(await LinuxTunDriver({"offload": offload}).open(config))
    return Kernel(*opened)


def in_a_kernel(check_it):
    """Run *check_it(kernel)* in a private network."""

    def run() -> None:
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", switch).write_text("1")
        kernel = asyncio.run(open_kernel())
        for pair in (V4, V6):
            first = virtio_body(udp_packet(*pair, b"first"))
            lab.until(lambda body=first: kernel.passes_on(body), what="the kernel to forward")
        check_it(kernel)

    lab.in_private_network(run, timeout_s=300)


@pytest.mark.lab
def test_packets_are_those_that_the_kernel_makes():
    def check_it(kernel):
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        )  # fmt: skip
        @given(bodies())
        def compare(body):
            check(memoryview(body))
            assert kernel.passes_on(body) == [forwarded(p) for p in segments(memoryview(body))]

        compare()

    in_a_kernel(check_it)


@pytest.mark.lab
def test_parts_of_a_record_are_worth_the_whole_to_the_kernel():
    def check_it(kernel):
        @settings(
            max_examples=EXAMPLES // 4, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        )  # fmt: skip
        @given(bodies(), st.integers(100, 20_000))
        def compare(body, limit):
            parts = split(memoryview(body), limit)
            assert kernel.passes_on(*parts) == [forwarded(p) for p in segments(memoryview(body))]

        compare()

    in_a_kernel(check_it)


@pytest.mark.lab
@pytest.mark.parametrize("pair", [V4, V6], ids=["IPv4", "IPv6"])
def test_joined_packets_are_worth_the_single_ones_to_the_kernel(pair):
    def check_it(kernel):
        for size in (32, 64, 901):
            singles = [numbered(udp_packet(*pair, bytes([n]) * size), n) for n in range(MAX_JOINED)]
            bodies = [virtio_body(packet) for packet in singles]
            records = b"".join(SIZE.pack(len(body)) + body for body in bodies)
            joined = join(memoryview(bytearray((Layout.VIRTIO,)) + records))
            body = joined[1 + SIZE.size :]
            assert len(body) < size * MAX_JOINED + 80, "one record"
            assert kernel.passes_on(bytes(body)) == [forwarded(packet) for packet in singles]

    in_a_kernel(check_it)


def numbered(packet, number):
    """An IPv4 packet of that identification; of IPv6, the packet."""
    if packet[0] >> 4 == 6:
        return packet
    changed = bytearray(packet)
    changed[4:6] = number.to_bytes(2, "big")
    changed[10:12] = bytes(2)
    changed[10:12] = checksum(changed[:20]).to_bytes(2, "big")
    return bytes(changed)


@pytest.mark.lab
def test_checksum_of_a_packet_within_a_packet_is_the_one_that_the_kernel_makes():
    def check_it(kernel):
        inner = virtio_body(tcp_packet(*V4, b"through a tunnel"))[HEADER.size :]
        for pair, headers in ((V4, 28), (V6, 48)):
            outer = udp_packet(*pair, inner)
            body = HEADER.pack(1, 0, 0, 0, headers + 20, 16) + outer
            sent = bytearray(body)
            assert tidy(memoryview(sent))
            assert sent[: HEADER.size] == NO_HEADER
            assert sent[HEADER.size :] != outer
            assert kernel.passes_on(body) == [forwarded(bytes(sent[HEADER.size :]))]

    in_a_kernel(check_it)
