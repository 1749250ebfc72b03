"""Conformance of TUN drivers."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from conflux.api import MAX_RECORD_BYTES, Closed, Gso, Layout, TunDevice, Unavailable
from conflux.testing.packets import Address, overhead_bytes, tcp_packet, udp_packet, udp_payload
from conflux.testing.rig import named, not_here, run, settle, until
from conflux.testing.virtio import virtio_body
from conflux.wire import ip, segment

VIRTIO_HEADER_BYTES = 10
_IPV4_MINIMUM_MTU_BYTES = 576


def burst(records: Iterable[bytes], layout: Layout = Layout.BARE) -> bytearray:
    """Lay packets out as a burst; in layout VIRTIO each gets a header that asks for nothing."""
    head = bytes(VIRTIO_HEADER_BYTES) if layout is Layout.VIRTIO else b""
    out = bytearray()
    for packet in records:
        out += (len(head) + len(packet)).to_bytes(2, "big") + head + packet
    return out


def records(data: memoryview, layout: Layout = Layout.BARE) -> list[bytes]:
    """Undo `burst`: the packets of *data*. AssertionError if a record is not whole."""
    packets, at = [], 0
    skip = VIRTIO_HEADER_BYTES if layout is Layout.VIRTIO else 0
    while at < len(data):
        assert at + 2 <= len(data), "a burst ends inside a size field"
        size = int.from_bytes(data[at : at + 2], "big")
        assert size >= skip, "a record is shorter than its virtio header"
        assert at + 2 + size <= len(data), "a burst ends inside a record"
        packets.append(bytes(data[at + 2 + skip : at + 2 + size]))
        at += 2 + size
    return packets


def cut_up(data: memoryview, layout: Layout) -> list[bytes]:
    """The packets that the records of *data* stand for, with the checksums that are to be made."""
    if layout is Layout.BARE:
        return records(data)
    packets, at = [], 0
    for packet in records(data, layout):
        body = data[at + 2 : at + 2 + VIRTIO_HEADER_BYTES + len(packet)]
        packets += segment.segments(body)
        at += 2 + len(body)
    return packets


def as_sent(packet: bytes) -> bytes:
    """*packet* without what changes where it is forwarded: hop limit, IPv4 header checksum."""
    if packet[0] >> 4 == 4:
        return packet[:8] + b"\0" + packet[9:10] + b"\0\0" + packet[12:]
    return packet[:7] + b"\0" + packet[8:]


class TunEnd:
    """One device of a pair under test; keeps what the other one sent."""

    def __init__(self, device: TunDevice, pairs: Sequence[tuple[Address, Address]]) -> None:
        self.device = device
        self.pairs = pairs
        """(here, there), one for each address family that the pair carries."""
        self.payloads: list[bytes] = []
        """Of each packet of the kit (conflux/testing/packets.py, UDP)."""
        self.packets: list[bytes] = []
        """Every packet that the other end sent, by `as_sent`."""
        self.callbacks = 0
        self.reads_per_callback = 1_000_000
        self.buffer_bytes = max(65_536, device.record_bytes)

    def start(self) -> None:
        self.device.attach(self._on_readable)

    def packet(self, payload: bytes, family: int = 0) -> bytes:
        here, there = self.pairs[family % len(self.pairs)]
        return udp_packet(here, there, payload)

    def send(self, payloads: Iterable[bytes], layout: Layout = Layout.BARE) -> None:
        """Send all of them in one burst; the queue is expected to be empty enough."""
        data = burst((self.packet(payload, i) for i, payload in enumerate(payloads)), layout)
        assert self.device.send(memoryview(data), layout) == len(data)

    def _on_readable(self) -> None:
        self.callbacks += 1
        for _ in range(self.reads_per_callback):
            buffer = bytearray(self.buffer_bytes)
            size = self.device.receive(memoryview(buffer))
            assert 0 <= size <= len(buffer)
            if not size:
                return
            self.keep(memoryview(buffer)[:size])

    def keep(self, data: memoryview) -> None:
        ends = {(there.packed, here.packed) for here, there in self.pairs}
        for packet in cut_up(data, self.device.layout):
            if ip.addresses(memoryview(packet)) in ends:
                self.packets.append(as_sent(packet))
            for here, there in self.pairs:
                payload = udp_payload(packet, there, here)
                if payload is not None:
                    self.payloads.append(payload)

    async def expect(self, payloads: Sequence[bytes]) -> None:
        """Wait for exactly these, in this order, and no other."""
        await until(
            lambda: len(self.payloads) >= len(payloads), f"{len(payloads)} packets to arrive"
        )
        assert self.payloads == list(payloads)


_Check = Callable[["Any", TunEnd, TunEnd], Awaitable[None]]


def _on_a_pair(check: _Check) -> Callable[[Any], None]:
    """Make a test of *check*: both devices attached, closed whatever happens."""

    def test(self: TunConformance) -> None:
        async def main() -> None:
            try:
                left, right = await self.make_pair()
            except Unavailable as error:
                not_here(error)
            try:
                there = [(b, a) for a, b in self.addresses]
                ends = TunEnd(left, self.addresses), TunEnd(right, there)
                for end in ends:
                    end.start()
                await check(self, *ends)
            finally:
                left.close()
                right.close()

        run(main())

    return named(test, check)


class TunConformance(abc.ABC):
    """Subclass, return two joined devices from `make_pair`, run pytest.

    What one device sends, the other receives: through memory, or through a kernel that forwards
    from one interface to the other. `addresses` are then to be overridden with (left, right)
    pairs that the kernel routes so; other traffic on the devices is ignored. Packets are valid
    UDP, at most as long as the smaller MTU.
    """

    addresses: Sequence[tuple[Address, Address]] = (
        (IPv4Address("192.0.2.1"), IPv4Address("198.51.100.1")),
        (IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:2::1")),
    )

    @abc.abstractmethod
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        """Return two open devices, not attached. Raise Unavailable to skip, with the reason."""

    @_on_a_pair
    async def test_device_describes_itself(self, left: TunEnd, right: TunEnd) -> None:
        for device in (left.device, right.device):
            assert device.name
            assert device.mtu_bytes >= _IPV4_MINIMUM_MTU_BYTES
            header = VIRTIO_HEADER_BYTES if device.layout is Layout.VIRTIO else 0
            assert device.record_bytes >= 2 + header + device.mtu_bytes
            assert (Gso.NONE in device.gso) == (device.layout is Layout.VIRTIO)
            assert set(device.gso) <= set(Gso)
            if device.gso:
                assert device.record_bytes <= MAX_RECORD_BYTES

    @_on_a_pair
    async def test_burst_keeps_packet_boundaries_and_order(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        sizes = [4, 5, 64, 65, 333, 4, 512]
        sent = [bytes([i]) * size for i, size in enumerate(sizes)]
        left.send(sent)
        await right.expect(sent)

    @_on_a_pair
    async def test_packets_travel_both_ways(self, left: TunEnd, right: TunEnd) -> None:
        left.send([b"to the right"])
        right.send([b"to the left"])
        await right.expect([b"to the right"])
        await left.expect([b"to the left"])

    @_on_a_pair
    async def test_packet_as_long_as_the_mtu_passes(self, left: TunEnd, right: TunEnd) -> None:
        mtu = min(left.device.mtu_bytes, right.device.mtu_bytes)
        sent = [bytes(mtu - overhead_bytes(here)) for here, _ in left.pairs]
        left.send(sent)
        await right.expect(sent)

    @_on_a_pair
    async def test_device_takes_bare_records_and_its_own_layout_alone(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        left.send([b"bare"], Layout.BARE)
        left.send([b"own"], left.device.layout)
        await right.expect([b"bare", b"own"])
        for layout in set(Layout) - {Layout.BARE, left.device.layout}:
            data = burst([left.packet(b"foreign")], layout)
            with pytest.raises(ValueError, match=r"."):
                left.device.send(memoryview(data), layout)

    @_on_a_pair
    async def test_record_arrives_as_the_packets_that_it_stands_for(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        """Whole or cut up, and with the checksums that were left to be made."""
        gso, data = left.device.gso, bytes(range(256)) * 9
        bodies: list[bytes] = []
        for here, there in left.pairs:
            tcp = tcp_packet(here, there, data, flags=0x19)  # ACK, PSH, FIN
            tcp_kind = Gso.TCPV4 if here.version == 4 else Gso.TCPV6
            if Gso.NONE in gso:
                bodies += map(virtio_body, (left.packet(b"odd"), tcp_packet(here, there, b"1")))
            if tcp_kind in gso:
                bodies.append(virtio_body(tcp, gso_size=500))
            if Gso.UDP_L4 in gso:
                bodies.append(virtio_body(udp_packet(here, there, data), gso_size=501))
        sent = b"".join(len(body).to_bytes(2, "big") + body for body in bodies)
        if bodies:
            assert left.device.send(memoryview(sent), Layout.VIRTIO) == len(sent)
        packets = [as_sent(p) for body in bodies for p in segment.segments(memoryview(body))]
        await until(lambda: len(right.packets) >= len(packets), f"{len(packets)} packets to arrive")
        assert right.packets == packets

    @_on_a_pair
    async def test_sender_may_reuse_its_buffer_at_once(self, left: TunEnd, right: TunEnd) -> None:
        data = burst([left.packet(b"first"), left.packet(b"second")])
        assert left.device.send(memoryview(data), Layout.BARE) == len(data)
        data[:] = bytes(len(data))
        await right.expect([b"first", b"second"])

    @_on_a_pair
    async def test_receiver_may_reuse_its_buffer_at_once(self, left: TunEnd, right: TunEnd) -> None:
        right.reads_per_callback = 0
        buffer = bytearray(right.buffer_bytes)
        got: list[bytes] = []

        def one_read() -> bool:
            size = right.device.receive(memoryview(buffer))
            right.keep(memoryview(buffer)[:size])
            buffer[:] = b"\xaa" * len(buffer)
            return bool(right.payloads)

        for payload in (b"first", b"second"):
            left.send([payload])
            await until(one_read, "a packet to arrive")
            await settle()
            assert buffer == b"\xaa" * len(buffer), "the device wrote to a buffer it had given back"
            got += right.payloads
            right.payloads.clear()
        assert got == [b"first", b"second"]

    @_on_a_pair
    async def test_receive_gives_whole_records_whatever_the_buffer(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        right.buffer_bytes = right.device.record_bytes
        sent = [bytes([i]) * (100 + 97 * i % 400) for i in range(40)]
        left.send(sent)
        await right.expect(sent)

    @_on_a_pair
    async def test_callback_comes_again_for_what_was_left(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        right.buffer_bytes = right.device.record_bytes
        right.reads_per_callback = 1
        packet = right.device.record_bytes // 3
        size = max(64, min(packet, right.device.mtu_bytes - 100))
        sent = [bytes([i]) * size for i in range(24)]
        left.send(sent)
        await right.expect(sent)

    @_on_a_pair
    async def test_receive_gives_nothing_when_nothing_waits(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        left.send([b"one"])
        await right.expect([b"one"])
        await until(
            lambda: right.device.receive(memoryview(bytearray(right.buffer_bytes))) == 0,
            "the device to run dry",
        )

    @_on_a_pair
    async def test_buffer_too_small_for_a_record_is_refused(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        with pytest.raises(ValueError, match=r"."):
            right.device.receive(memoryview(bytearray(right.device.record_bytes - 1)))

    @_on_a_pair
    async def test_empty_burst_is_fine(self, left: TunEnd, right: TunEnd) -> None:
        assert left.device.send(memoryview(b""), Layout.BARE) == 0
        left.send([b"after"])
        await right.expect([b"after"])

    @_on_a_pair
    async def test_invalid_packet_counts_as_taken(self, left: TunEnd, right: TunEnd) -> None:
        no_ip = b"\xf0" + bytes(40)
        data = burst([left.packet(b"before"), no_ip, b"\x45", left.packet(b"behind")])
        assert left.device.send(memoryview(data), Layout.BARE) == len(data)
        await right.expect([b"before", b"behind"])

    @_on_a_pair
    async def test_send_never_waits_and_takes_whole_records(
        self, left: TunEnd, right: TunEnd
    ) -> None:
        """64 MB without a turn of the event loop: a queue must end, and end between records."""
        packet = left.packet(bytes(512))
        record = 2 + len(packet)
        data = memoryview(burst([packet] * 64))
        for _ in range(2_000):
            taken = left.device.send(data, Layout.BARE)
            assert taken % record == 0, "send took part of a record"
            if taken < len(data):
                break

    @_on_a_pair
    async def test_closed_device_says_so(self, left: TunEnd, right: TunEnd) -> None:
        left.device.close()
        left.device.close()
        with pytest.raises(Closed):
            left.device.send(memoryview(burst([left.packet(b"late")])), Layout.BARE)
        with pytest.raises(Closed):
            left.device.receive(memoryview(bytearray(left.buffer_bytes)))

    @_on_a_pair
    async def test_no_callback_after_close(self, left: TunEnd, right: TunEnd) -> None:
        left.send([b"never read"])
        right.device.close()
        before = right.callbacks
        await settle()
        assert right.callbacks == before
