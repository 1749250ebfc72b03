"""Real TUN devices with offload and without at either end: what is sent arrives, byte for byte.

Two hosts, whose kernels speak TCP, UDP and ICMP over IPv4 and IPv6. Between their devices are two
whole nodes: first on the simulated network, so that nothing but the packet path is under test, then
with each kind of tether between them.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import random
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import TypeVar

import pytest

from conflux import lab
from conflux.api import Tether, TetherConfig, TetherDriver, TunConfig, TunDevice
from conflux.runtime.pump import BURST_BYTES, pump
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.testing.simnet.underlay import Link
from conflux_tether_udp.driver import UdpTetherDriver
from conflux_tether_webrtc.driver import WebRtcTetherDriver
from conflux_tun_linux.device import LinuxTunDriver

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
UDP_SEGMENT = 103  # linux/udp.h
PORT = 9_000
STREAM_BYTES = 3_000_001
SEED = 7
TIMEOUT_S = 20.0


class Host:
    """A thread in a network namespace of its own, and the device in there."""

    def __init__(self, number: int, *, mtu_bytes: int, offload: bool) -> None:
        self.addresses = [f"10.77.0.{number}", f"fd77::{number}"]
        self._thread = ThreadPoolExecutor(1)
        self.device = self.run(lambda: self._open(mtu_bytes, offload))

    def run(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result(TIMEOUT_S)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """One of this host, for any thread to use."""
        made = self.run(lambda: socket.socket(_family(family), kind, protocol))
        made.settimeout(TIMEOUT_S)
        return made

    def close(self) -> None:
        self.device.close()
        self._thread.shutdown()

    def _open(self, mtu_bytes: int, offload: bool) -> TunDevice:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        prefixes = zip(self.addresses, (16, 64), strict=True)
        addresses = [ip_interface(f"{address}/{prefix}") for address, prefix in prefixes]
        config = TunConfig(name="veilnet", addresses=addresses, mtu_bytes=mtu_bytes)
        return asyncio.run(LinuxTunDriver({"offload": offload}).open(config))


def _family(family: int) -> socket.AddressFamily:
    return (socket.AF_INET, socket.AF_INET6)[family]


class Tunnel:
    """Two hosts and the nodes between their devices, which run in a thread until `close`."""

    def __init__(self, mtu_bytes: int, offload: tuple[bool, bool]) -> None:
        self.hosts = [
            Host(number, mtu_bytes=mtu_bytes, offload=on)
            for number, on in enumerate(offload, start=1)
        ]
        self.longest = [0, 0]
        """The longest record that each device gave."""
        self._ends = False
        network = SimNetwork(seed=SEED)
        network.underlay.default = Link(delay_s=0.0)
        nodes = [self._node(network, host) for host in self.hosts]
        self._thread = threading.Thread(target=self._run, args=(network, nodes))
        self._thread.start()

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        for host in self.hosts:
            host.close()

    def _node(self, network: SimNetwork, host: Host) -> SimNode:
        v4, v6 = host.addresses
        device = host.device
        node = network.add_node(v4, teams=["ops"], address=[f"{v4}/16", f"{v6}/64"], gso=device.gso)
        node.deliver = device.send  # type: ignore[method-assign,assignment]
        return node

    def _run(self, network: SimNetwork, nodes: list[SimNode]) -> None:
        buffer = memoryview(bytearray(1 + BURST_BYTES))
        descriptors = [host.device._file.fileno() for host in self.hosts]  # type: ignore[attr-defined]
        while not self._ends:
            select.select(descriptors, [], [], 0.001)
            for number, (host, node) in enumerate(zip(self.hosts, nodes, strict=True)):
                buffer[0] = host.device.layout
                filled = host.device.receive(buffer[1:])
                if filled:
                    self.note(number, buffer[1 : 1 + filled])
                    node.anchor.take_burst(buffer[: 1 + filled], now=network.now())
            network.run(0.001)

    def note(self, number: int, burst: memoryview) -> None:
        at = 0
        while at < len(burst):
            size = int.from_bytes(burst[at : at + 2], "big")
            self.longest[number] = max(self.longest[number], size)
            at += 2 + size


class TetheredTunnel(Tunnel):
    """The same with a real tether between the nodes, over a link of *link_bytes*."""

    def __init__(
        self, kind: str, mtu_bytes: int, link_bytes: int, offload: tuple[bool, bool]
    ) -> None:
        self._kind = kind
        self._ready = threading.Event()
        for command in (f"link set lo mtu {link_bytes}", "address add 192.0.2.1/32 dev lo"):
            subprocess.run(["ip", *command.split()], check=True)
        super().__init__(mtu_bytes, offload)
        assert self._ready.wait(TIMEOUT_S), "no tether"

    def _run(self, network: SimNetwork, nodes: list[SimNode]) -> None:
        asyncio.run(self._carry(network, nodes))

    async def _carry(self, network: SimNetwork, nodes: list[SimNode]) -> None:
        nodes[0].ping(nodes[1])
        network.run(1)
        drivers = [DRIVERS[self._kind]({}) for _ in nodes]
        for driver in drivers:
            await driver.start(TetherConfig(is_overlay=is_overlay))
        for node, peer, tether in zip(nodes, nodes[::-1], await connected(drivers), strict=True):
            neighbour = node.anchor.neighbours.get(peer.node_id)
            assert neighbour is not None
            neighbour.tethers[-1] = tether
            take = partial(node.anchor.neighbours.take_datagram, neighbour)
            tether.attach(take, lambda _: None, lambda _: None)
        for number, (node, host) in enumerate(zip(nodes, self.hosts, strict=True)):
            pump(Noting(self, number, host.device), node.anchor, network.now, lambda: None)
        self._ready.set()
        while not self._ends:
            network.run(0.01)
            await asyncio.sleep(0.01)
        for driver in drivers:
            await driver.stop()


class Noting:
    """A device of which the tunnel notes what it gives."""

    def __init__(self, tunnel: Tunnel, number: int, device: TunDevice) -> None:
        self._tunnel, self._number, self._device = tunnel, number, device
        self.layout, self.record_bytes = device.layout, device.record_bytes
        self.attach = device.attach

    def receive(self, burst: memoryview) -> int:
        filled = self._device.receive(burst)
        self._tunnel.note(self._number, burst[:filled])
        return filled


DRIVERS: dict[str, Callable[[dict[str, object]], TetherDriver]] = {
    "udp": UdpTetherDriver,
    "webrtc": WebRtcTetherDriver,
}


def is_overlay(address: IPv4Address | IPv6Address) -> bool:
    return str(address).startswith(("10.77.", "fd77:"))


async def connected(drivers: list[TetherDriver]) -> list[Tether]:
    one = await drivers[0].offer()
    other = await drivers[1].answer(one.description)
    secret = bytes(32)
    await asyncio.gather(one.connect(secret, other.description), other.connect(secret, None))
    return [one, other]


def streams(tunnel: Tunnel, family: int) -> None:
    """Open a TCP connection on which both ends send at once; compare digests."""
    one, other = tunnel.hosts
    with one.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((one.addresses[family], PORT))
        listener.listen()
        with other.socket(family, socket.SOCK_STREAM) as near:
            near.connect((one.addresses[family], PORT))
            far, _ = listener.accept()
            far.settimeout(TIMEOUT_S)
            with far, ThreadPoolExecutor(4) as threads:
                sent = [threads.submit(_send, end, seed) for seed, end in enumerate((near, far))]
                received = [threads.submit(_receive, end) for end in (far, near)]
                assert [s.result() for s in sent] == [r.result() for r in received]


def _send(end: socket.socket, seed: int) -> str:
    chance, digest, left = random.Random(seed), hashlib.sha256(), STREAM_BYTES
    while left:
        block = chance.randbytes(min(left, chance.choice([1, 7, 1_447, 9_001, 100_003])))
        digest.update(block)
        end.sendall(block)
        left -= len(block)
    end.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def _receive(end: socket.socket) -> str:
    digest = hashlib.sha256()
    while block := end.recv(1 << 18):
        digest.update(block)
    return digest.hexdigest()


def datagrams(tunnel: Tunnel, family: int, mtu_bytes: int) -> None:
    """Send datagrams of many sizes, longer than the MTU and as many at once too; compare each."""
    chance = random.Random(SEED)
    one, other = tunnel.hosts
    limit = mtu_bytes - (28, 48)[family]
    for source, target in ((one, other), (other, one)):
        with (
            source.socket(family, socket.SOCK_DGRAM) as near,
            target.socket(family, socket.SOCK_DGRAM) as far,
        ):
            far.bind((target.addresses[family], PORT))
            for size in (0, 1, 2, 3, 511, limit - 1, limit, limit + 1, 20_001):
                payload = chance.randbytes(size)
                near.sendto(payload, (target.addresses[family], PORT))
                assert far.recv(65_535) == payload, size
            for size in (1, 31, 33, 701, limit):
                near.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
                many = chance.randbytes(min(20 * size - size // 3, 60_000))
                near.sendto(many, (target.addresses[family], PORT))
                got = [far.recv(65_535) for _ in range(-(-len(many) // size))]
                assert b"".join(got) == many
                assert {len(datagram) for datagram in got[:-1]} <= {size}


def bursts(tunnel: Tunnel, family: int) -> None:
    """Send many datagrams of one size in a row from connected sockets; compare each, in order."""
    chance = random.Random(SEED)
    one, other = tunnel.hosts
    for source, target in ((one, other), (other, one)):
        with (
            source.socket(family, socket.SOCK_DGRAM) as near,
            target.socket(family, socket.SOCK_DGRAM) as far,
        ):
            far.bind((target.addresses[family], PORT))
            near.connect((target.addresses[family], PORT))
            for size in (8, 33, 64, 1_200):
                sent = [chance.randbytes(size) for _ in range(90)]
                for payload in sent:
                    near.send(payload)
                assert [far.recv(65_535) for _ in sent] == sent, size


def echoes(tunnel: Tunnel, family: int, mtu_bytes: int) -> None:
    """Have each host answer the other's ICMP echo requests, with odd sizes and in fragments."""
    chance = random.Random(SEED)
    protocol = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)[family]
    one, other = tunnel.hosts
    for source, target in ((one, other), (other, one)):
        with source.socket(family, socket.SOCK_RAW, protocol) as sock:
            for number, size in enumerate((0, 1, 55, mtu_bytes - 48, 2 * mtu_bytes + 1)):
                body = struct.pack(">HH", 0x7E11, number) + chance.randbytes(size)
                sock.sendto(_echo_request(family, body), (target.addresses[family], 0))
                while (answer := _echo_reply(family, sock.recv(65_535))) != body:
                    assert answer is None, size


def _echo_request(family: int, body: bytes) -> bytes:
    if family == 1:
        return b"\x80\0\0\0" + body  # the kernel makes the checksum of ICMPv6
    bare = b"\x08\0\0\0" + body
    words = struct.unpack(f">{(len(bare) + 1) // 2}H", bare + b"\0" * (len(bare) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return b"\x08\0" + (~total & 0xFFFF).to_bytes(2, "big") + body


def _echo_reply(family: int, packet: bytes) -> bytes | None:
    message = packet if family == 1 else packet[(packet[0] & 15) * 4 :]
    is_reply = message[:1] == (b"\x00", b"\x81")[family]
    return message[4:] if is_reply else None


OFFLOADS = {
    (True, True): "offload both",
    (True, False): "offload left",
    (False, True): "offload right",
    (False, False): "offload none",
}


@pytest.mark.lab
@pytest.mark.parametrize("mtu_bytes", [1500, 9000])
@pytest.mark.parametrize("offload", OFFLOADS, ids=OFFLOADS.get)
def test_what_is_sent_arrives_byte_for_byte(offload: tuple[bool, bool], mtu_bytes: int) -> None:
    def check() -> None:
        tunnel = Tunnel(mtu_bytes, offload)
        try:
            for family in (0, 1):
                echoes(tunnel, family, mtu_bytes)
                datagrams(tunnel, family, mtu_bytes)
                bursts(tunnel, family)
                streams(tunnel, family)
            for on, longest in zip(offload, tunnel.longest, strict=True):
                assert (longest > 30_000) is on, "whether records of many packets were given"
        finally:
            tunnel.close()

    lab.in_private_network(check, timeout_s=100)


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["udp", "webrtc"])
@pytest.mark.parametrize(
    ("mtu_bytes", "link_bytes"), [(1500, 1500), (9000, 1500), (9000, 9000)], ids=str
)
@pytest.mark.parametrize("offload", OFFLOADS, ids=OFFLOADS.get)
def test_what_is_sent_arrives_byte_for_byte_by_every_tether(
    offload: tuple[bool, bool], mtu_bytes: int, link_bytes: int, kind: str
) -> None:
    def check() -> None:
        tunnel = TetheredTunnel(kind, mtu_bytes, link_bytes, offload)
        try:
            for family in (0, 1):
                echoes(tunnel, family, mtu_bytes)
                datagrams(tunnel, family, mtu_bytes)
                bursts(tunnel, family)
                streams(tunnel, family)
            for on, longest in zip(offload, tunnel.longest, strict=True):
                assert (longest > 30_000) is on, "whether records of many packets were given"
        finally:
            tunnel.close()

    lab.in_private_network(check, timeout_s=100)
