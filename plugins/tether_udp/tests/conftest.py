"""A network on a virtual clock for hops: addresses, delay, loss, sizes, NATs. And its ends."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from conflux_tether_udp.datagram import HEADER, HEADER_BYTES, Cutter, split_tail
from conflux_tether_udp.hop import Hop
from conflux_tether_udp.paths import Path

SECRET = bytes(range(32))


class Net:
    """Hosts by address; datagrams travel `delay_s`, or are lost.

    `passes(source, target, data)` says whether a datagram gets through, `translate` what its source
    looks like at the target. `log` holds what was sent: (source, target, data).
    """

    def __init__(self, *, seed: int = 0, delay_s: float = 0.01) -> None:
        self.now = 100.0
        self.delay_s = delay_s
        self.jitter_s = 0.0
        self.loss = 0.0
        self.mtu = 1_472
        self.chance = random.Random(seed)
        self.log: list[tuple[tuple[str, int], tuple[str, int], bytes]] = []
        self.passes: Callable[[tuple, tuple, bytes], bool] = lambda source, target, data: True
        self.translate: Callable[[tuple, tuple], tuple] = lambda source, target: source
        self.hosts: dict[tuple[str, int], End] = {}
        self.inside: dict[tuple[str, int], tuple[str, int]] = {}
        """Where a NAT sends on what comes to an address of its own."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def transmit(self, source: tuple, target: tuple, data: bytes) -> None:
        self.log.append((source, target, data))
        lost = self.chance.random() < self.loss or len(data) > self.mtu
        if lost or not self.passes(source, target, data):
            return
        seen = self.translate(source, target)
        after_s = self.delay_s + self.chance.random() * self.jitter_s
        self.at(self.now + after_s, lambda: self.deliver(seen, target, data))

    def deliver(self, source: tuple, target: tuple, data: bytes) -> None:
        """Have *data* arrive at *target* right now, as from *source*."""
        target = self.inside.get(target, target)
        end = self.hosts.get(target)
        if end is not None:
            end.arrived(source, target, data)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, *seconds* at most; tell whether *until* has come true."""
        ends = self.now + seconds
        while not until():
            if not self._events or self._events[0][0] > ends:
                self.now = ends
                return until()
            when, _, what = heapq.heappop(self._events)
            self.now = max(self.now, when)
            what()
        return True


class End:
    """A hop on a net: its wire, its lanes, and what came in."""

    def __init__(self, net: Net, own_id: bytes, *addresses: tuple[str, int]) -> None:
        self.net = net
        self.id = own_id
        self.addresses = list(addresses)
        self.source = addresses[0]
        """Where the system sends from if no one says."""
        for address in addresses:
            net.hosts[address] = self
        self.messages: list[bytes] = []
        self.reliables: list[bytes] = []
        self.ended: list[str] = []
        self.is_ready = False
        self.ready_at = 0.0
        self.forbidden: set[str] = set()
        self.ceiling = 1_472
        self.room = 1 << 30
        self.dropped_here = 0
        self.hop: Hop | None = None

    def start(self, far: End, *, is_offerer: bool, candidates=None, secret: bytes = SECRET) -> None:
        if candidates is None:
            candidates = [(address, 0) for address in far.addresses]
        self.hop = Hop(
            secret=secret,
            is_offerer=is_offerer,
            far_id=far.id,
            candidates=candidates,
            wire=self,
            lanes=self,
            cutter=Cutter(),
            plain=memoryview(bytearray(65_536)),
            entropy=self.net.chance.randbytes,
            now=self.net.now,
        )
        self.hop.poll(self.net.now)

    def move(self, address: tuple[str, int]) -> None:
        """Leave every address for *address*."""
        for old in self.addresses:
            self.net.hosts.pop(old, None)
        self.addresses = [address]
        self.source = address
        self.net.hosts[address] = self
        self.hop.local_gone()

    def arrived(self, source: tuple, target: tuple, data: bytes) -> None:
        if self.hop is None or len(data) <= HEADER_BYTES or data[:8] != self.id:
            return
        _, high, low, first, last = HEADER.unpack_from(data)
        kind, index = split_tail(first, last)
        if kind < 0:
            return
        self.hop.receive(
            memoryview(data)[:HEADER_BYTES],
            high << 32 | low,
            kind,
            index,
            last,
            1,
            memoryview(data)[HEADER_BYTES:],
            len(data) - HEADER_BYTES,
            Path(source, ip_address(target[0]).packed),
            self.net.now,
        )

    # What tests do

    def post(self, *messages: bytes) -> int:
        return self.hop.send(messages, self.net.now)

    def post_reliable(self, message: bytes) -> bool:
        return self.hop.send_reliable(message, self.net.now)

    def close(self) -> None:
        path = self.hop.path
        datagram = self.hop.close(self.net.now)
        self.net.transmit(self.source, path.remote, datagram)

    # world.Wire

    def send(self, path: Path, parts: list, datagram_bytes: int) -> None:
        for start in range(0, len(parts), 2):
            source = self.source
            if path.local is not None:
                wanted = str(ip_address(path.local))
                source = next((a for a in self.addresses if a[0] == wanted), None)
                if source is None:
                    self.hop.local_gone()
                    return
            data = b"".join(bytes(part) for part in parts[start : start + 2])
            self.net.transmit(source, path.remote, data)

    def room_bytes(self) -> int:
        return self.room

    def overflows(self) -> int:
        return self.dropped_here

    def interface(self, path: Path) -> tuple[int, int]:
        return self.ceiling, 28

    def permits(self, path: Path) -> bool:
        own = None if path.local is None else str(ip_address(path.local))
        return not {path.remote[0], own} & self.forbidden

    def wake(self, when: float) -> None:
        self.net.at(when, lambda: self.hop.poll(self.net.now))

    # world.Lanes

    def ready(self) -> None:
        self.is_ready = True
        self.ready_at = self.net.now

    def datagram(self, message: memoryview) -> None:
        self.messages.append(bytes(message))

    def reliable(self, message: memoryview) -> None:
        self.reliables.append(bytes(message))

    def broken(self, reason: str) -> None:
        self.ended.append(reason)


class Pair:
    """Two ends, near the offerer; `connect` starts both."""

    def __init__(self, **net) -> None:
        self.net = Net(**net)
        self.near = End(self.net, b"\x80near---", ("10.0.0.1", 4_000))
        self.far = End(self.net, b"\x80far----", ("10.0.0.2", 4_000))

    def connect(self, *, seconds: float = 5.0) -> Pair:
        self.far.start(self.near, is_offerer=False)
        self.near.start(self.far, is_offerer=True)
        assert self.net.run(seconds, lambda: self.near.is_ready and self.far.is_ready)
        return self

    def settle(self, seconds: float = 3.0) -> Pair:
        self.net.run(seconds)
        return self


@pytest.fixture
def make_pair() -> type[Pair]:
    return Pair


@pytest.fixture
def pair() -> Pair:
    return Pair().connect()


@pytest.fixture
def make_end() -> type[End]:
    return End


@pytest.fixture
def make_net() -> type[Net]:
    return Net
