"""A simulated path on a virtual clock, and real pairs of tethers over loopback."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import struct
from collections.abc import Callable

import pytest

from conflux.api import IceServer, Tether, TetherConfig
from conflux_tether_webrtc.driver import WebRtcTetherDriver
from conflux_tether_webrtc.inbound import SACK_HEADER, Inbound
from conflux_tether_webrtc.outbound import FORWARD_TSN, Outbound

RELIABLE_STREAM = 4
_GAP = struct.Struct("!HH")


class SimulatedPath:
    """One way for data, one for SACKs: a rate, a delay, a queue, loss and reordering from a seed.

    Rates are bytes per second. `on_turn` is called before every transmission and may send.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        rate: float = 12.5e6,
        delay_s: float = 0.01,
        queue_bytes: int = 100_000,
        loss: float = 0.0,
        jitter_s: float = 0.0,
        first_tsn: int = 0xFFFFFF00,
    ) -> None:
        self.now = 0.0
        self.delivered: list[tuple[int, bytes]] = []
        self.delivered_bytes = 0
        self.dropped_by_queue = 0
        self.sent_packets = 0
        self.on_turn: Callable[[], None] = lambda: None
        self.drop: Callable[[bytes], bool] = lambda packet: False
        self.keep = True
        self.out = Outbound(first_tsn, peer_window=1 << 20)
        self.into = Inbound(first_tsn - 1, ordered_stream=RELIABLE_STREAM, deliver=self._deliver)
        self._chance = random.Random(seed)
        self._rate = rate
        self._delay_s = delay_s
        self._queue_bytes = queue_bytes
        self._loss = loss
        self._jitter_s = jitter_s
        self._free_at = 0.0
        self._events: list[tuple[float, int, Callable[[bytes], None], bytes]] = []
        self._order = itertools.count()

    def run(self, seconds: float) -> None:
        """Advance the clock by *seconds*; ends earlier only if nothing can happen any more."""
        end = self.now + seconds
        self._transmit()
        while True:
            due = self._events[0][0] if self._events else float("inf")
            deadline = self.out.deadline if self.out.deadline is not None else float("inf")
            if min(due, deadline) > end:
                self.now = end
                return
            if deadline < due:
                self.now = max(self.now, deadline)
                self.out.on_timer(self.now)
            else:
                self.now, _, arrive, packet = heapq.heappop(self._events)
                arrive(packet)
            self._transmit()

    def _transmit(self) -> None:
        self.on_turn()
        head = self.out.forward_tsn(self.now)
        while packet := self.out.packet(self.now, head):
            head = b""
            self.sent_packets += 1
            self._onto_the_wire(packet)

    def _onto_the_wire(self, packet: bytes) -> None:
        if self._chance.random() < self._loss or self.drop(packet):
            return
        starts = max(self.now, self._free_at)
        if (starts - self.now) * self._rate > self._queue_bytes:
            self.dropped_by_queue += 1
            return
        self._free_at = starts + (len(packet) + 60) / self._rate
        jitter = self._chance.random() * self._jitter_s
        self._at(self._free_at + self._delay_s + jitter, self._data_arrives, packet)

    def _at(self, when: float, arrive: Callable[[bytes], None], packet: bytes) -> None:
        heapq.heappush(self._events, (when, next(self._order), arrive, packet))

    def _data_arrives(self, packet: bytes) -> None:
        for kind, flags, body in chunks(packet):
            if kind == 0:
                tsn, stream, sequence, ppid = struct.unpack_from("!LHHL", body)
                self.into.data(tsn, flags, stream, sequence, ppid, body[12:])
            else:
                self.into.forward(FORWARD_TSN.unpack_from(packet)[3])
        sack = self.into.sack()
        if sack and self._chance.random() >= self._loss:
            self._at(self.now + self._delay_s, self._sack_arrives, sack)

    def _sack_arrives(self, sack: bytes) -> None:
        _, _, _, cumulative, window, _, _ = SACK_HEADER.unpack_from(sack)
        gaps = list(_GAP.iter_unpack(sack[SACK_HEADER.size :]))
        self.out.on_sack(self.now, cumulative, window, gaps)

    def _deliver(self, stream: int, ppid: int, data: bytes) -> None:
        self.delivered_bytes += len(data)
        if self.keep:
            self.delivered.append((stream, data))


def chunks(packet: bytes) -> list[tuple[int, int, bytes]]:
    """The chunks of *packet* as (type, flags, body)."""
    found = []
    at = 0
    while at < len(packet):
        kind, flags, size = struct.unpack_from("!BBH", packet, at)
        assert size >= 4
        found.append((kind, flags, packet[at + 4 : at + size]))
        at += size + (-size & 3)
    assert at == len(packet)
    return found


@pytest.fixture
def simulate() -> Callable[..., SimulatedPath]:
    return SimulatedPath


@pytest.fixture
def chunks_of() -> Callable[[bytes], list[tuple[int, int, bytes]]]:
    return chunks


# Real tethers over loopback


class End:
    """One end of a tether; keeps what it is handed."""

    def __init__(self, tether: Tether) -> None:
        self.tether = tether
        self.datagrams: list[bytes] = []
        self.reliable: list[bytes] = []
        self.closed: list[str] = []
        self._news = asyncio.Event()
        tether.attach(self._keep(self.datagrams), self._keep(self.reliable), self._close)

    def _keep(self, where: list[bytes]) -> Callable[[memoryview], None]:
        def keep(message: memoryview) -> None:
            where.append(bytes(message))
            self._news.set()

        return keep

    def _close(self, reason: str) -> None:
        self.closed.append(reason)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for messages, or the end, until *condition* holds; it is asked at each."""
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()


class Lab:
    """Two started drivers that know nothing but loopback."""

    def __init__(self, *ice_servers: IceServer) -> None:
        self.config = TetherConfig(
            is_overlay=lambda address: str(address) != "127.0.0.1", ice_servers=ice_servers
        )
        self.near, self.far = (WebRtcTetherDriver({"allow_loopback": True}) for _ in range(2))

    async def __aenter__(self) -> Lab:
        await self.near.start(self.config)
        await self.far.start(self.config)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.near.stop()
        await self.far.stop()

    async def connect(self) -> tuple[End, End]:
        offer = await self.near.offer()
        answer = await self.far.answer(offer.description)
        ends = End(offer), End(answer)
        async with asyncio.TaskGroup() as both:
            both.create_task(offer.connect(bytes(32), answer.description))
            both.create_task(answer.connect(bytes(32), None))
        return ends


@pytest.fixture
def lab() -> type[Lab]:
    return Lab


@pytest.fixture
def make_end() -> type[End]:
    return End
