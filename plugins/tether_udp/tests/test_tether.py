"""Tethers on real sockets: one port for all, silence for strangers, STUN, settings."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from ipaddress import ip_address

import pytest

from conflux.api import (
    MAX_MESSAGE_BYTES,
    IceServer,
    TetherConfig,
    TetherError,
    Unavailable,
    UsageError,
)
from conflux_tether_udp import description as wire
from conflux_tether_udp import mapped, port, stun
from conflux_tether_udp.driver import UdpTetherDriver

SECRET = bytes(range(32))


def run(main) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


class Lab:
    """Two started drivers that know nothing but loopback."""

    def __init__(self, *ice_servers: IceServer) -> None:
        self.config = TetherConfig(
            is_overlay=lambda address: str(address) not in ("127.0.0.1", "198.51.100.7"),
            ice_servers=ice_servers,
        )
        self.near, self.far = (UdpTetherDriver({"allow_loopback": True}) for _ in range(2))

    async def __aenter__(self) -> Lab:
        await self.near.start(self.config)
        await self.far.start(self.config)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.near.stop()
        await self.far.stop()

    async def connect(self, keep=lambda message: None):
        offer = await self.near.offer()
        answer = await self.far.answer(offer.description)
        offer.attach(lambda m: None, lambda m: None, lambda r: None)
        answer.attach(lambda m: keep(bytes(m)), lambda m: None, lambda r: None)
        async with asyncio.TaskGroup() as both:
            both.create_task(offer.connect(SECRET, answer.description))
            both.create_task(answer.connect(SECRET, None))
        return offer, answer


async def soon(condition) -> None:
    while not condition():  # noqa: ASYNC110 (a socket has no event)
        await asyncio.sleep(0.001)


def open_sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


def test_a_hundred_tethers_share_one_port():
    async def main() -> None:
        async with Lab() as lab:
            before = open_sockets()
            pairs = [await lab.connect() for _ in range(100)]
            assert open_sockets() == before
            ports = {
                candidate.port
                for near, _ in pairs
                for candidate in wire.decode(near.description, wire.Kind.OFFER).candidates
            }
            assert len(ports) == 1

    run(main)


def test_port_is_silent_towards_strangers():
    async def main() -> None:
        async with Lab() as lab:
            got = []
            near, far = await lab.connect(got.append)
            described = wire.decode(far.description, wire.Kind.ANSWER)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind(("127.0.0.1", 0))
                stranger.settimeout(0)
                for data in (
                    b"",
                    b"x",
                    bytes(1_200),
                    os.urandom(1_200),
                    described.id,
                    described.id + bytes(8),
                    described.id + os.urandom(60),
                    described.id + bytes(6) + b"\x00\x3f" + bytes(1_000),
                    stun.request(bytes(12)),
                ):
                    stranger.sendto(data, ("127.0.0.1", described.candidates[0].port))
                near.send([b"after all of that"])
                await soon(lambda: got)
                await asyncio.sleep(0.05)
                with pytest.raises(BlockingIOError):
                    stranger.recv(2_000)

    run(main)


def test_loopback_is_used_in_whole_messages():
    async def main() -> None:
        async with Lab() as lab:
            got = []
            near, _ = await lab.connect(got.append)
            assert near.unit_bytes < MAX_MESSAGE_BYTES
            await soon(lambda: near.unit_bytes == 65_507 - 32)
            assert "65507 bytes" in near.stats().underlay
            assert near.send([bytes(near.unit_bytes)]) == 1
            await soon(lambda: got)
            assert got == [bytes(65_475)]

    run(main)


def test_tether_that_is_not_connected_has_the_contracts_unit():
    async def main() -> None:
        async with Lab() as lab:
            assert (await lab.near.offer()).unit_bytes == MAX_MESSAGE_BYTES

    run(main)


def test_late_datagrams_of_a_closed_tether_are_ignored():
    async def main() -> None:
        async with Lab() as lab:
            near, far = await lab.connect()
            far.close()
            near.send([b"late"] * 3)
            await asyncio.sleep(0.02)
            near, far = await lab.connect()
            assert near.send([b"alive"]) == 1

    run(main)


def test_far_end_that_closes_at_once_fails_the_connection_or_ends_it():
    async def main() -> None:
        async with Lab() as lab:
            offer = await lab.near.offer()
            answer = await lab.far.answer(offer.description)
            ended = []
            offer.attach(lambda m: None, lambda m: None, ended.append)
            answer.attach(lambda m: None, lambda m: None, lambda r: None)

            async def open_and_close() -> None:
                await answer.connect(SECRET, None)
                answer.close()

            async def open_() -> None:
                try:
                    await offer.connect(SECRET, answer.description)
                except TetherError as error:
                    ended.append(str(error))

            async with asyncio.TaskGroup() as both:
                both.create_task(open_and_close())
                both.create_task(open_())
            await soon(lambda: ended)
            assert len(ended) == 1

    run(main)


@pytest.mark.parametrize(
    "settings",
    [
        {"prot": 1},
        {"port": "1"},
        {"port": True},
        {"port": 65_536},
        {"port": -1},
        {"allow_loopback": 1},
    ],
)
def test_wrong_settings_say_what_is_wrong(settings):
    with pytest.raises(UsageError, match=r"conflux.toml, \[plugin.tether.udp\]"):
        UdpTetherDriver(settings)


def test_port_can_be_chosen_and_must_be_free():
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            number = taken.getsockname()[1]
            driver = UdpTetherDriver({"port": number, "allow_loopback": True})
            with pytest.raises(Unavailable, match=str(number)):
                await driver.start(TetherConfig(is_overlay=lambda address: False))
        driver = UdpTetherDriver({"port": number, "allow_loopback": True})
        await driver.start(TetherConfig(is_overlay=lambda a: str(a) != "127.0.0.1"))
        offer = wire.decode((await driver.offer()).description, wire.Kind.OFFER)
        assert [(str(c.address), c.port) for c in offer.candidates] == [("127.0.0.1", number)]
        await driver.stop()

    run(main)


def test_machine_without_a_usable_address_says_so():
    async def main() -> None:
        driver = UdpTetherDriver({})
        await driver.start(TetherConfig(is_overlay=lambda address: True))
        with pytest.raises(TetherError, match="no address"):
            await driver.offer()
        await driver.stop()
        with pytest.raises(TetherError, match="not running"):
            await driver.offer()

    run(main)


# STUN


class StunServer(asyncio.DatagramProtocol):
    """Answers Binding requests with an address of a NAT; counts them."""

    MAPPED = (ip_address("198.51.100.7"), 40_000)

    def __init__(self) -> None:
        self.asked = 0
        self.is_dead = False

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data, addr) -> None:
        self.asked += 1
        if self.is_dead:
            return
        address, port = self.MAPPED
        xored = bytes(a ^ b for a, b in zip(address.packed, stun.MAGIC, strict=True))
        value = struct.pack("!BBH", 0, 1, port ^ 0x2112) + xored
        body = struct.pack("!HH", 0x0020, len(value)) + value
        answer = struct.pack("!HH", 0x0101, len(body)) + data[4:20] + body
        wrong = answer[:19] + bytes((answer[19] ^ 1,)) + answer[20:]
        self.transport.sendto(wrong, addr)  # somebody else's transaction
        self.transport.sendto(answer, addr)
        self.transport.sendto(answer, addr)


async def serve() -> tuple[StunServer, IceServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(StunServer, local_addr=("127.0.0.1", 0))
    return server, IceServer(url=f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}")


def candidates(tether):
    return wire.decode(tether.description, wire.Kind.OFFER).candidates


def made_at_once(making):
    """What *making* returns, which must not wait for anything."""
    with pytest.raises(StopIteration) as made:
        making.send(None)
    return made.value.value


def test_address_that_a_stun_server_sees_is_told_after_the_hosts_own():
    async def main() -> None:
        server, ice = await serve()
        async with Lab(ice, IceServer(url="turn:127.0.0.1:9?transport=tcp")) as lab:
            host, seen = candidates(made_at_once(lab.near.offer()))
            assert host.type is wire.CandidateType.HOST
            assert seen == wire.Candidate(wire.CandidateType.SERVER_REFLEXIVE, *server.MAPPED)
            assert len(candidates(made_at_once(lab.near.offer()))) == 2
            assert server.asked == 2, "each port once: its tethers share the mapping"
        server.transport.close()

    run(main)


def test_no_description_waits_for_a_stun_server_that_never_answers():
    async def main() -> None:
        server, ice = await serve()
        server.is_dead = True
        began = asyncio.get_running_loop().time()
        async with Lab(ice) as lab:
            assert asyncio.get_running_loop().time() - began < 2, "nor do starts wait for long"
            assert server.asked >= 4, "requests get lost: each port asked again"
            (host,) = candidates(made_at_once(lab.near.offer()))
            assert host.type is wire.CandidateType.HOST
        assert len(asyncio.all_tasks()) == 1
        server.transport.close()

    run(main)


def test_tether_connects_while_a_stun_server_is_silent():
    async def main() -> None:
        server, ice = await serve()
        server.is_dead = True
        async with Lab(ice) as lab:
            got = []
            near, _ = await lab.connect(got.append)
            near.send([b"hello"])
            await soon(lambda: got)
        server.transport.close()

    run(main)


def test_answer_that_comes_late_is_in_the_next_description():
    async def main() -> None:
        server, ice = await serve()
        server.is_dead = True
        async with Lab(ice) as lab:
            assert len(candidates(made_at_once(lab.near.offer()))) == 1
            server.is_dead = False
            await soon(lambda: len(candidates(made_at_once(lab.near.offer()))) == 2)
        server.transport.close()

    run(main)


def test_mapping_is_kept_alive_and_followed_when_it_changes(monkeypatch):
    monkeypatch.setattr(mapped, "MAPPED_FRESH_S", 0.01)

    async def main() -> None:
        server, ice = await serve()
        async with Lab(ice) as lab:
            await soon(lambda: server.asked > 6)
            server.MAPPED = (server.MAPPED[0], 50_000)
            await soon(lambda: candidates(made_at_once(lab.near.offer()))[-1].port == 50_000)
        server.transport.close()

    run(main)


def test_machine_with_other_addresses_is_told_of_no_old_mapping_and_asks_again(monkeypatch):
    async def main() -> None:
        server, ice = await serve()
        async with Lab(ice) as lab:
            assert len(candidates(made_at_once(lab.near.offer()))) == 2
            asked, server.is_dead = server.asked, True
            addresses = [ip_address("127.0.0.1"), ip_address("198.51.100.9")]
            monkeypatch.setattr(port, "host_addresses", lambda reach: addresses)
            told = candidates(made_at_once(lab.near.offer()))
            assert [candidate.address for candidate in told] == addresses
            await soon(lambda: server.asked > asked)
            server.is_dead = False
            await soon(lambda: len(candidates(made_at_once(lab.near.offer()))) == 3)
        server.transport.close()

    run(main)


def test_driver_whose_start_is_cancelled_leaves_nothing_behind():
    async def main() -> None:
        server, ice = await serve()
        server.is_dead = True
        before = open_sockets()
        driver = UdpTetherDriver({"allow_loopback": True})
        config = TetherConfig(is_overlay=lambda a: False, ice_servers=[ice])
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(driver.start(config))
            await soon(lambda: server.asked)
            starting.cancel()
        assert starting.cancelled()
        assert open_sockets() == before
        assert len(asyncio.all_tasks()) == 1
        server.transport.close()

    run(main)


def test_ice_server_that_cannot_be_read_is_told_at_start():
    async def main() -> None:
        config = TetherConfig(is_overlay=lambda a: False, ice_servers=[IceServer(url="http://x")])
        with pytest.raises(Unavailable, match="http://x"):
            await UdpTetherDriver({}).start(config)

    run(main)
