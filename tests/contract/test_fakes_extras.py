"""What the fakes offer beside their contracts, for tests that build on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Interface

import pytest

from conflux.api import Layout, Refused, RegistrationRequest, TunConfig, Unavailable
from conflux.testing import (
    MemoryAuth,
    MemoryBroker,
    MemoryControl,
    MemoryGuardian,
    MemoryHub,
    MemoryTetherDriver,
    MemoryTun,
    MemoryTunDriver,
)


def test_far_end_of_a_memory_interface_stands_for_the_system() -> None:
    async def main() -> None:
        driver = MemoryTunDriver({"layout": "virtio"})
        config = TunConfig(name="veil0", addresses=[IPv4Interface("10.0.0.1/24")], mtu_bytes=1_400)
        device = await driver.open(config)
        far = driver.far["veil0"]
        assert (device.name, device.mtu_bytes, device.layout) == ("veil0", 1_400, Layout.VIRTIO)
        with pytest.raises(Unavailable, match="veil0 exists"):
            await driver.open(config)
        packet = b"\x45" + bytes(19)
        far.send(memoryview(b"\x00\x14" + packet), Layout.BARE)
        buffer = memoryview(bytearray(device.record_bytes))
        size = device.receive(buffer)
        assert bytes(buffer[:size]) == b"\x00\x1e" + bytes(10) + packet
        device.close()
        await driver.open(config)

    asyncio.run(main())


def test_memory_devices_run_on_any_loop() -> None:
    """A simulation's clock, for instance: `call_soon` is all that they need of it."""
    due: list[Callable[[], None]] = []
    left, right = MemoryTun.pair(call_soon=due.append)
    heard: list[int] = []
    right.attach(lambda: heard.append(right.receive(memoryview(bytearray(1_502)))))
    left.send(memoryview(b"\x00\x14\x45" + bytes(19)), Layout.BARE)
    assert heard == []
    while due:
        due.pop(0)()
    assert heard == [22]


def test_carrier_decides_what_gets_across() -> None:
    """Loses every datagram over 100 bytes, delays the rest until asked."""
    due: list[Callable[[], None]] = []

    def lossy(deliver: Callable[[], None], *, size_bytes: int, reliable: bool) -> None:
        if reliable or size_bytes <= 100:
            due.append(deliver)

    async def main() -> None:
        hub = MemoryHub(lossy)
        near, far = MemoryTetherDriver(hub=hub), MemoryTetherDriver(hub=hub)
        offer = await near.offer()
        answer = await far.answer(offer.description)
        heard: list[bytes] = []
        answer.attach(lambda m: heard.append(bytes(m)), lambda m: None, lambda reason: None)
        async with asyncio.TaskGroup() as both:
            both.create_task(offer.connect(bytes(32), answer.description))
            both.create_task(answer.connect(bytes(32), None))
        assert offer.send([b"small", bytes(101), b"small too"]) == 3
        assert heard == []
        for deliver in due:
            deliver()
        assert heard == [b"small", b"small too"]

    asyncio.run(main())


def test_taps_see_what_a_curious_broker_sees() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        seen: list[tuple[bytes, bytes, bytes]] = []
        broker.taps.append(lambda tag, handle, payload: seen.append((tag, handle, payload)))
        credentials = broker.credentials(handle=b"a" * 16, tags=[b"a" * 16], shared_tag=b"s" * 16)
        channel = await MemoryControl(broker=broker).connect(
            credentials, lambda handle, payload: None, lambda connected: None
        )
        channel.publish(b"b" * 16, b"payload")
        await asyncio.sleep(0)
        assert seen == [(b"b" * 16, b"a" * 16, b"payload")]
        await channel.close()

    asyncio.run(main())


def test_guardian_grants_what_the_test_seals() -> None:
    def seal(conflux_token: str, request: bytes) -> bytes:
        if request != b"please":
            raise Refused("say please")
        return b"granted to " + conflux_token.encode()

    async def main() -> None:
        guardian = MemoryGuardian(seal)
        auth = MemoryAuth(guardian=guardian)
        token = await guardian.registration_token()
        granted = await auth.register(guardian.url, RegistrationRequest(token=token))
        answer = await auth.login(
            guardian.url, conflux_token=granted.conflux_token, request=b"please"
        )
        assert answer.sealed == b"granted to " + granted.conflux_token.encode()
        with pytest.raises(Refused, match="say please"):
            await auth.login(guardian.url, conflux_token=granted.conflux_token, request=b"now")

    asyncio.run(main())
