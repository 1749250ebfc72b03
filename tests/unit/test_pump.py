"""The pump: bursts go from the device into the protocol where they stand, nothing starves."""

from __future__ import annotations

import asyncio
import ipaddress
import os

import pytest

from conflux.api import Layout
from conflux.runtime import pump as module
from conflux.runtime.pump import pump
from conflux.testing import MemoryTun


class Protocol:
    """Where the pump's bursts go; keeps copies, as it must."""

    def __init__(self) -> None:
        self.bursts: list[tuple[bytes, float]] = []

    def take_burst(self, superframe: memoryview, *, now: float) -> None:
        self.bursts.append((bytes(superframe), now))

    def records(self) -> bytes:
        return b"".join(burst[1:] for burst, _ in self.bursts)


def record(size: int) -> bytes:
    """A packet of *size* bytes behind its size field."""
    addresses = (
        ipaddress.IPv4Address("10.99.0.1").packed + ipaddress.IPv4Address("10.99.0.2").packed
    )
    header = b"\x45\0" + size.to_bytes(2, "big") + bytes(8) + addresses
    return size.to_bytes(2, "big") + header + os.urandom(size - 20)


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("layout", Layout)
def test_packets_arrive_in_order_as_superframes_of_the_devices_layout(layout):
    async def main():
        protocol = Protocol()
        near, far = MemoryTun.pair(layout=layout)
        pump(near, protocol, lambda: 7.0, pytest.fail)
        sent = [record(size) for size in (20, 1500, 21, 576)]
        far.send(memoryview(b"".join(sent)), Layout.BARE)
        await turns()
        [(burst, now)] = protocol.bursts
        assert (burst[0], now) == (layout, 7.0)
        header = bytes(10 if layout is Layout.VIRTIO else 0)
        expected = [(len(r) - 2 + len(header)).to_bytes(2, "big") + header + r[2:] for r in sent]
        assert burst[1:] == b"".join(expected)

    asyncio.run(main())


@pytest.mark.parametrize("layout", Layout)
def test_bursts_are_long_and_nothing_is_lost(layout):
    async def main():
        protocol = Protocol()
        near, far = MemoryTun.pair(layout=layout)
        pump(near, protocol, lambda: 0.0, pytest.fail)
        sent = [record(1500) for _ in range(400)]
        assert far.send(memoryview(b"".join(sent)), Layout.BARE) == 400 * 1502
        await turns()
        assert max(len(burst) for burst, _ in protocol.bursts) <= 1 + module.BURST_BYTES
        assert min(len(burst) for burst, _ in protocol.bursts[:-1]) > 120_000
        header = bytes(10 if layout is Layout.VIRTIO else 0)
        expected = [(len(r) - 2 + len(header)).to_bytes(2, "big") + header + r[2:] for r in sent]
        assert protocol.records() == b"".join(expected)

    asyncio.run(main())


def test_others_get_their_turn_while_packets_keep_coming():
    async def main():
        protocol = Protocol()
        near, far = MemoryTun.pair()
        pump(near, protocol, lambda: 0.0, pytest.fail, burst_bytes=1)
        sent = b"".join(record(1500) for _ in range(4 * module.BURSTS_PER_WAKEUP))
        far.send(memoryview(sent), Layout.BARE)
        await asyncio.sleep(0)
        assert len(protocol.bursts) == module.BURSTS_PER_WAKEUP
        await turns()
        assert protocol.records() == sent

    asyncio.run(main())


class LateTun(MemoryTun):
    """A device whose wake-ups the test makes: the system's may come late and twice."""

    def attach(self, on_readable):
        self.wake = on_readable


def test_device_that_goes_away_is_reported_once():
    gone = []
    tun = LateTun("veilnet")
    pump(tun, Protocol(), lambda: 0.0, lambda: gone.append(1))
    tun.close()
    tun.wake()
    tun.wake()
    assert gone == [1]
