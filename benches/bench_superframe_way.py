"""Where the time goes: one superframe's way from one host's application to the other's, by stage.

Everything is real but the cable and the Master: two hosts with TUN devices and offload, two whole
nodes between them in one thread of this process, a UDP tether over a link of 1,500 bytes. One burst
is given to the one host's kernel at a time and followed until the other host's kernel has taken its
last packet. Each stage is the time within its own code, system calls included, less that of the
stages within; `loop` is the rest of the way: epoll, asyncio's turns, timers. Microseconds per
superframe, of the quietest quarter of REPEATS, so that a busy machine disturbs little.

    sudo .venv/bin/python benches/bench_superframe_way.py [REPEATS]

Needs root (or an ordinary user's namespaces), as the lab does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from time import perf_counter
from typing import Any, TypeVar

from conflux import lab
from conflux.anchor import guard, notary, resend
from conflux.anchor.egress import Egress
from conflux.anchor.ingress import Ingress
from conflux.anchor.stream import InStream, OutStream
from conflux.api import Tether, TetherConfig, TunConfig
from conflux.runtime.pump import pump
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import AuthLevel
from conflux_tether_udp import hop, sockets
from conflux_tether_udp.driver import UdpTetherDriver
from conflux_tun_linux.device import LinuxTun, LinuxTunDriver

T = TypeVar("T")

REPEATS = 400
CLONE_NEWNET = 0x40000000
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h
PORT = 9_000
SECRET = bytes(32)
ARRIVES_S = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """`calls` calls of send, each of `packets` packets with `payload` bytes."""

    title: str
    calls: int
    packets: int
    payload: int


SHAPES = (
    Shape("62 kB of one flow", 1, 43, 1_440),
    Shape("40 x 1,200 B", 40, 1, 1_200),
    Shape("40 x 64 B", 40, 1, 64),
    Shape("a lone 64 B", 1, 1, 64),
)
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("read from TUN", LinuxTun, "receive"),
    ("sort, check, choose a route", Egress, "take"),
    ("seal for the far end", OutStream, "seal"),
    ("digest for the signature", notary, "digest_of"),
    ("keep until reported", resend.Resender, "kept"),
    ("seal for the hop, cut", hop.Hop, "send"),
    ("sendmsg", sockets.UdpSocket, "_try"),
    ("recvmsg", sockets.Inbox, "read"),
    ("sort datagrams, open the hop's seal", sockets.UdpSocket, "_readable"),
    ("open the stream's seal", InStream, "open"),
    ("digest to compare", guard, "digest_of"),
    ("check packets", Ingress, "take"),
    ("write to TUN", LinuxTun, "send"),
)
LOOP = "event loop, the receiver's own reads"


class Clock:
    """Time within each stage, less that of stages within."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys((stage for stage, _, _ in STAGES), 0.0)
        self._inner = 0.0
        self._cost = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time every stage of what is made meanwhile; count out what that costs."""
        originals = [(owner, name, getattr(owner, name)) for _, owner, name in STAGES]
        self._cost = self._own_cost()
        for stage, owner, name in STAGES:
            setattr(owner, name, self.timed(stage, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, function in originals:
                setattr(owner, name, function)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        spent = self.spent

        def call(*arguments: Any, **named: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            began = perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = perf_counter() - began
                spent[stage] += took - self._inner
                self._inner = outer + took + self._cost

        return call

    def _own_cost(self) -> float:
        """What one timed call costs whoever makes it, beyond the time that it takes itself."""
        call, calls, costs = self.timed("nothing", lambda: None), 1_000, []
        for _ in range(30):
            self.spent["nothing"] = 0.0
            began = perf_counter()
            for _ in range(calls):
                call()
            costs.append((perf_counter() - began - self.spent.pop("nothing")) / calls)
        return min(costs)

    def reset(self) -> None:
        for stage in self.spent:
            self.spent[stage] = 0.0


class Host:
    """A thread in a network namespace of its own, and the TUN device in there."""

    def __init__(self, number: int) -> None:
        self.address = f"10.77.0.{number}"
        self._thread = ThreadPoolExecutor(1)
        self.device = self._run(self._open)
        self.socket = self._run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.bind((self.address, PORT))
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

    def close(self) -> None:
        self.socket.close()
        self.device.close()
        self._thread.shutdown()

    def _run(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result()

    def _open(self) -> LinuxTun:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        config = TunConfig(name="veilnet", addresses=[ip_interface(f"{self.address}/16")])
        device = asyncio.run(LinuxTunDriver({}).open(config))
        assert isinstance(device, LinuxTun)
        return device


async def joined(drivers: list[UdpTetherDriver]) -> list[Tether]:
    """Two connected UDP tethers of this process, over addresses of a link of 1,500 bytes."""
    for driver in drivers:
        await driver.start(TetherConfig(is_overlay=lambda address: str(address)[:5] == "10.77"))
    one = await drivers[0].offer()
    other = await drivers[1].answer(one.description)
    await asyncio.gather(one.connect(SECRET, other.description), other.connect(SECRET, None))
    return [one, other]


def nodes(level: AuthLevel, hosts: list[Host]) -> tuple[SimNetwork, list[SimNode]]:
    """Two nodes with keys and a route, whose packets come from and go to the hosts' devices."""
    network = SimNetwork(seed=1, packet_auth=level)
    made = [
        network.add_node(
            host.address, teams=["ops"], address=[f"{host.address}/16"], gso=host.device.gso
        )
        for host in hosts
    ]
    made[0].ping(made[1])
    network.run(1)
    for node, host in zip(made, hosts, strict=True):
        node.deliver = host.device.send  # type: ignore[method-assign,assignment]
    return network, made


class Way:
    """The whole way between two hosts; `go` sends one burst along it."""

    def __init__(self, hosts: list[Host], made: list[SimNode], tethers: list[Tether]) -> None:
        self.hosts = hosts
        self._far = hosts[1].socket
        self._loop = asyncio.get_running_loop()
        for node, peer, tether, host in zip(made, made[::-1], tethers, hosts, strict=True):
            neighbour = node.anchor.neighbours.get(peer.node_id)
            assert neighbour is not None
            neighbour.tethers[-1] = tether
            take = partial(node.anchor.neighbours.take_datagram, neighbour)
            tether.attach(take, _ignore, _ignore)
            pump(host.device, node.anchor, made[0].now, lambda: None)

    async def go(self, shape: Shape) -> float:
        """Send one burst and wait for its last byte; return the seconds from its read on."""
        near, far = self.hosts
        near.socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, shape.payload * (shape.packets > 1))
        payload = bytes(shape.payload * shape.packets)
        for _ in range(shape.calls):
            near.socket.sendto(payload, (far.address, PORT))
        missing, began = len(payload) * shape.calls, perf_counter()
        while missing > 0:
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    missing -= len(self._far.recv(65_535))
            if perf_counter() - began > ARRIVES_S:
                raise AssertionError(f"{missing} bytes did not arrive")
        return perf_counter() - began


def _ignore(_: object) -> None: ...


async def measure(
    clock: Clock, level: AuthLevel, hosts: list[Host], repeats: int
) -> dict[str, list[float]]:
    """Return microseconds by stage, a column a shape."""
    drivers = [UdpTetherDriver({}) for _ in hosts]
    tethers = await joined(drivers)
    _, made = nodes(level, hosts)
    way = Way(hosts, made, tethers)
    columns: dict[str, list[float]] = {}
    await asyncio.sleep(1.0)  # the tether finds out what the link carries
    for shape in SHAPES:
        rows = []
        for _ in range(repeats):
            clock.reset()
            whole = await way.go(shape)
            rows.append((whole, dict(clock.spent) | {LOOP: whole - sum(clock.spent.values())}))
        rows.sort(key=lambda row: row[0])
        quiet = rows[: max(len(rows) // 4, 1)]
        for stage in rows[0][1]:
            spent = statistics.median(row[1][stage] for row in quiet)
            columns.setdefault(stage, []).append(spent * 1e6)
    for driver in drivers:
        await driver.stop()
    return columns


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS

    def run() -> None:
        for command in (
            "link set lo mtu 1500",
            "address add 192.0.2.1/32 dev lo",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        for level in (AuthLevel.HANDSHAKE, AuthLevel.CHECKPOINT):
            clock, hosts = Clock(), [Host(1), Host(2)]
            try:
                with clock.watching():
                    table = asyncio.run(measure(clock, level, hosts, repeats))
            finally:
                for host in hosts:
                    host.close()
            show(level, table)

    lab.in_private_network(run, timeout_s=600)


def show(level: AuthLevel, table: dict[str, list[float]]) -> None:
    print(f"\n{level.name.lower():<38}" + "".join(f"{shape.title:>20}" for shape in SHAPES))
    for stage, row in table.items():
        print(f"{stage:<38}" + "".join(f"{us:>20.1f}" for us in row))
    print(f"{'sum':<38}" + "".join(f"{sum(c):>20.1f}" for c in zip(*table.values(), strict=True)))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
