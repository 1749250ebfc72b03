"""Tethers as a node uses them: real sockets, DTLS and all, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from aioice import stun

from conflux.api import (
    MAX_MESSAGE_BYTES,
    IceServer,
    TetherConfig,
    TetherError,
    Unavailable,
    UsageError,
    WireError,
)
from conflux_tether_webrtc import association, ice, udp
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc.driver import WebRtcTetherDriver


def run(main):
    async def bounded():
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


def open_files():
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def silent_socket():
    """A UDP port that never says a word: what a blocked peer looks like."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0)
        yield sock


def moved_to(description, kind, *ports):
    """*description* with the candidates 127.0.0.1 at *ports* instead of its own."""
    there = ip_address("127.0.0.1")
    candidates = tuple(wire.Endpoint(wire.CandidateType.HOST, 1, there, port) for port in ports)
    return replace(wire.decode(description, kind), candidates=candidates).encode()


# Messages


def test_messages_of_every_length_cross_whole_both_ways(lab):
    sizes = [0, 1, 3, 4, 1_159, 1_160, 1_161, 2_320, 16_384, 65_534, MAX_MESSAGE_BYTES]

    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            for here, there in ((near, far), (far, near)):
                sent = [os.urandom(size) for size in sizes]
                for message in sent:
                    assert here.tether.send([message]) == 1
                    await there.until(lambda there=there, want=message: want in there.datagrams)
                assert there.datagrams == sent

    run(main())


def test_reliable_lane_keeps_order_while_datagrams_flood(lab):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            sent = [struct.pack("!L", i) * (1 + i % 4_000) for i in range(400)]
            waiting = sent[::-1]
            while waiting:
                near.tether.send([bytes(30_000)] * 8)
                while waiting and near.tether.send_reliable(waiting[-1]):
                    waiting.pop()
                await asyncio.sleep(0)
            await far.until(lambda: len(far.reliable) >= len(sent))
            assert far.reliable == sent
            assert far.datagrams

    run(main())


def test_send_takes_what_fits_and_room_says_how_much(lab):
    async def main():
        async with lab() as pair:
            near, _ = await pair.connect()
            tether = near.tether
            assert tether.room_bytes() == 256 * 1024
            taken = tether.send([bytes(60_000)] * 20)
            # Without a turn of the loop nothing is acknowledged: window and queue, no more.
            assert 4 <= taken < 8
            assert tether.room_bytes() < 60_000
            assert tether.stats().queued_bytes > 256 * 1024 - 120_000
            assert tether.send([bytes(60_000)]) == 0
            assert tether.send([]) == 0
            with pytest.raises(ValueError, match="65536"):
                tether.send([b"small", bytes(MAX_MESSAGE_BYTES + 1)])

    run(main())


def test_stats_name_the_pair_and_measure_the_round_trip(lab):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            near.tether.send_reliable(b"x")
            await far.until(lambda: bool(far.reliable))
            far.tether.send_reliable(b"y")
            await near.until(lambda: bool(near.reliable))
            stats = near.tether.stats()
            assert stats.underlay.startswith("udp 127.0.0.1:")
            assert stats.underlay.count("127.0.0.1:") == 2
            assert 0 < stats.rtt_s < 1
            assert stats.loss == 0

    run(main())


def test_records_that_share_a_datagram_are_all_read_at_once(lab):
    """RFC 6347 allows it to a peer; one left behind would delay all that follows."""

    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            runs = []
            near.tether._connection.send_run = lambda data, size: runs.append(data)
            near.tether.send([b"one"])
            near.tether.send([b"two"])
            far.tether._connection.on_datagram(b"".join(runs))
            assert far.datagrams == [b"one", b"two"]

    run(main())


# Closing and cancelling


def test_far_end_hears_a_close_at_once(lab):
    async def main():
        async with lab() as pair:
            for closing in (0, 1):
                ends = await pair.connect()
                ends[closing].tether.close()
                other = ends[1 - closing]
                async with asyncio.timeout(1):
                    await other.until(lambda other=other: bool(other.closed))
                assert other.closed == ["the far end closed the tether"]

    run(main())


def test_far_end_that_vanishes_is_noticed_when_its_consent_expires(lab, monkeypatch):
    monkeypatch.setattr(ice, "CONSENT_INTERVAL_S", 0.02)
    monkeypatch.setattr(ice, "CONSENT_EXPIRES_S", 0.1)

    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            for protocol in far.tether._connection._protocols:
                protocol.transport.close()  # as if the machine had lost its power
            await near.until(lambda: bool(near.closed))
            assert len(near.closed) == 1
            assert near.tether.send([b"x"]) == 0

    run(main())


def test_far_end_whose_consent_takes_longer_than_a_retransmission_is_kept(lab, monkeypatch):
    """A long way, or a full queue on it: STUN's first timeout is 0.5 s."""
    monkeypatch.setattr(ice, "CONSENT_INTERVAL_S", 0.02)
    monkeypatch.setattr(stun, "RETRY_RTO", 0.02)
    answered = ice.IceConnection.request_received

    def late(self, *args):
        asyncio.get_running_loop().call_later(0.05, answered, self, *args)

    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            monkeypatch.setattr(ice.IceConnection, "request_received", late)
            pairs = near.tether._connection._nominated.values()
            assert [await near.tether._connection._consents(pair) for pair in pairs] == [True]
            assert not far.closed

    run(main())


def test_closed_tether_sets_no_timer(lab):
    async def main():
        async with lab() as pair:
            near, _ = await pair.connect()
            association = near.tether._association
            near.tether._dtls.send_packets = lambda packets: association._close("cannot be sent")
            near.tether.send([b"x"])
            assert association._out.deadline is not None
            assert association._timer is None

    run(main())


def test_nothing_is_left_of_closed_and_cancelled_tethers(lab):
    async def main():
        async with lab() as pair:
            await pair.connect()
            tasks, files = asyncio.all_tasks(), open_files()
            near, far = await pair.connect()
            offer = await pair.near.offer()
            with silent_socket() as nobody:
                answer = await pair.far.answer(offer.description)
                blocked = moved_to(answer.description, wire.Kind.ANSWER, nobody.getsockname()[1])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await offer.connect(bytes(32), blocked)
                # `connect` returns when nothing of its tether is left.
                assert offer.send([b"x"]) == 0
                answer.close()
                near.tether.close()
                await far.until(lambda: bool(far.closed))
            async with asyncio.timeout(5):
                # The last of them end in turns of the loop to come.
                while asyncio.all_tasks() != tasks or open_files() != files:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    run(main())


def test_blocked_peer_costs_no_more_than_the_deadline(lab):
    async def main():
        async with lab() as pair:
            loop = asyncio.get_running_loop()
            offer = await pair.near.offer()
            answer = await pair.far.answer(offer.description)
            with silent_socket() as nobody:
                blocked = moved_to(answer.description, wire.Kind.ANSWER, nobody.getsockname()[1])
                started = loop.time()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await offer.connect(bytes(32), blocked)
                assert 0.3 <= loop.time() - started < 1
                assert nobody.recv(2_000), "it was tried"

    run(main())


def test_closing_while_connecting_ends_connect(lab):
    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
            answer = await pair.far.answer(offer.description)
            with silent_socket() as nobody:
                blocked = moved_to(answer.description, wire.Kind.ANSWER, nobody.getsockname()[1])
                asyncio.get_running_loop().call_later(0.05, offer.close)
                with pytest.raises(TetherError):
                    await offer.connect(bytes(32), blocked)

    run(main())


def test_stop_during_connect_leaves_nothing(lab):
    async def main():
        before = asyncio.all_tasks()
        pair = lab()
        await pair.near.start(pair.config)
        offer = await pair.near.offer()
        answer = await pair.near.answer(offer.description)
        with silent_socket() as nobody:
            blocked = moved_to(answer.description, wire.Kind.ANSWER, nobody.getsockname()[1])
            async with asyncio.TaskGroup() as group:
                connecting = group.create_task(fails(offer.connect(bytes(32), blocked)))
                while not offer._connection._check_list:  # noqa: ASYNC110 (no event to wait for)
                    await asyncio.sleep(0)
                await pair.near.stop()
                await connecting
        assert asyncio.all_tasks() == before
        with pytest.raises(TetherError, match="not running"):
            await pair.near.offer()

    async def fails(connecting):
        with pytest.raises(TetherError):
            await connecting

    run(main())


def test_far_end_that_closes_at_once_is_noticed(lab, make_end):
    """Whether it is `connect` that fails or `on_closed` that is called, it is never missed."""

    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
            answer = await pair.far.answer(offer.description)
            near = make_end(offer)

            async def come_and_go():
                await answer.connect(bytes(32), None)
                answer.close()

            async with asyncio.TaskGroup() as both:
                both.create_task(come_and_go())
                try:
                    await offer.connect(bytes(32), answer.description)
                except TetherError:
                    assert not near.closed
                else:
                    await near.until(lambda: bool(near.closed))
            assert offer.send([b"x"]) == 0

    run(main())


# Hostile and broken ends


def test_another_certificate_than_described_is_refused(lab):
    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
            answer = await pair.far.answer(offer.description)
            good = wire.decode(answer.description, wire.Kind.ANSWER)
            forged = replace(good, fingerprint=bytes(32)).encode()
            async with asyncio.TaskGroup() as both:
                other_end = both.create_task(answer.connect(bytes(32), None))
                with pytest.raises(TetherError, match="DTLS"):
                    await offer.connect(bytes(32), forged)
                other_end.cancel()

    run(main())


def test_description_without_a_usable_address_fails_at_once(lab):
    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
            answer = await pair.far.answer(offer.description)
            with pytest.raises(TetherError, match="among 0 addresses"):
                await offer.connect(bytes(32), moved_to(answer.description, wire.Kind.ANSWER))
            with pytest.raises(TetherError):
                await answer.connect(bytes(32), answer.description)

    run(main())


def test_hostile_offer_never_reaches_our_loopback(lab):
    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
        strict = WebRtcTetherDriver({})
        await strict.start(TetherConfig(is_overlay=lambda address: False))
        try:
            with silent_socket() as ours:
                data = moved_to(offer.description, wire.Kind.OFFER, ours.getsockname()[1])
                answer = await strict.answer(data)
                with pytest.raises(TetherError):
                    await answer.connect(bytes(32), None)
                with pytest.raises(BlockingIOError):
                    ours.recv(2_000)
        finally:
            await strict.stop()

    run(main())


def test_noise_on_the_sockets_is_dropped_without_a_word(lab, caplog):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            port = near.tether._connection.local_candidates[0].port
            stun_with_bad_attribute = struct.pack(
                "!HHI12sHHH", 1, 6, 0x2112A442, b"t" * 12, 36, 2, 7
            )
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
                for first in range(256):
                    noise.sendto(bytes([first]) + os.urandom(60), ("127.0.0.1", port))
                noise.sendto(b"", ("127.0.0.1", port))
                noise.sendto(stun_with_bad_attribute + b"\0\0", ("127.0.0.1", port))
            far.tether.send_reliable(b"still here")
            await near.until(lambda: bool(near.reliable))
            assert not near.closed

    run(main())
    assert not caplog.records


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(struct.pack("!BBH", 0, 3, 2), id="chunk shorter than its header"),
        pytest.param(struct.pack("!BBH", 0, 3, 200) + bytes(20), id="chunk longer than its packet"),
        pytest.param(struct.pack("!BBHLLHH", 3, 0, 16, 1, 1, 9, 0), id="SACK without its gaps"),
        pytest.param(struct.pack("!BBHHH", 4, 0, 8, 1, 0), id="parameter of no length"),
        pytest.param(struct.pack("!BBH", 192, 0, 4), id="FORWARD TSN of no TSN"),
    ],
)
def test_far_end_that_breaks_sctps_rules_is_closed(lab, chunk):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            near.tether._association._transmit_packets([chunk])
            await far.until(lambda: bool(far.closed))
            assert far.closed[0].startswith("the far end broke SCTP's rules")
            await near.until(lambda: bool(near.closed))

    run(main())


def test_crowd_of_control_chunks_in_a_packet_is_not_worked_through(lab, monkeypatch):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            beats = []
            monkeypatch.setattr(
                far.tether._association, "_set_up", lambda *chunk: beats.append(chunk)
            )
            near.tether._association._transmit_packets([struct.pack("!BBH", 4, 0, 4) * 200])
            near.tether.send_reliable(b"still here")
            await far.until(lambda: bool(far.reliable))
            assert len(beats) == association.MAX_CONTROL_CHUNKS

    run(main())


def test_packets_of_another_association_are_dropped(lab):
    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            association = near.tether._association
            tag = association._remote_verification_tag
            for wrong in (0, tag ^ 1):
                association._remote_verification_tag = wrong
                association._transmit_packets([struct.pack("!BBH", 6, 0, 4)])
            association._remote_verification_tag = tag
            near.tether.send_reliable(b"still here")
            await far.until(lambda: bool(far.reliable))
            assert not far.closed

    run(main())


# ICE servers, settings, systems


class StunServer(asyncio.DatagramProtocol):
    """Answers every binding request with one mapped address (RFC 8489)."""

    MAPPED = ("198.51.100.9", 4_321)

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        port = self.MAPPED[1] ^ 0x2112
        host = struct.unpack("!L", socket.inet_aton(self.MAPPED[0]))[0] ^ 0x2112A442
        value = struct.pack("!HHBBHL", 0x0020, 8, 0, 1, port, host)
        header = struct.pack("!HHL12s", 0x0101, len(value), 0x2112A442, data[8:20])
        self.transport.sendto(header + value, addr)


def test_stun_server_adds_a_candidate_and_a_dead_one_costs_little(make_end):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("127.0.0.1", 0))
        driver = WebRtcTetherDriver({"allow_loopback": True})
        with silent_socket() as dead:
            ports = transport.get_extra_info("sockname")[1], dead.getsockname()[1]
            servers = [IceServer(url=f"stun:127.0.0.1:{port}") for port in ports]
            usable = {"127.0.0.1", StunServer.MAPPED[0]}
            await driver.start(
                TetherConfig(
                    is_overlay=lambda address: str(address) not in usable, ice_servers=servers
                )
            )
            try:
                started = loop.time()
                offer = await driver.offer()
                assert loop.time() - started < 1
                told = wire.decode(offer.description, wire.Kind.OFFER).candidates
                assert [(c.type.name, str(c.address)) for c in told] == [
                    ("HOST", "127.0.0.1"),
                    ("SERVER_REFLEXIVE", StunServer.MAPPED[0]),
                ]
                assert told[1].port == StunServer.MAPPED[1]
            finally:
                transport.close()
                await driver.stop()

    run(main())


def test_dead_stun_server_is_waited_for_briefly_and_can_be_cancelled(lab, monkeypatch):
    monkeypatch.setattr(ice, "GATHER_S", 0.2)

    async def main():
        with silent_socket() as dead:
            server = IceServer(url=f"stun:127.0.0.1:{dead.getsockname()[1]}")
            async with lab(server) as pair:
                tasks, files = asyncio.all_tasks(), open_files()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await pair.near.offer()
                assert asyncio.all_tasks() == tasks
                assert open_files() == files
                near, far = await pair.connect()
                near.tether.send_reliable(b"x")
                await far.until(lambda: bool(far.reliable))

    run(main())


def test_stop_during_gathering_leaves_nothing(lab):
    async def main():
        before = asyncio.all_tasks()
        with silent_socket() as dead:
            pair = lab(IceServer(url=f"stun:127.0.0.1:{dead.getsockname()[1]}"))
            files = open_files()
            await pair.near.start(pair.config)
            async with asyncio.TaskGroup() as group:
                gathering = group.create_task(fails(pair.near.offer()))
                while open_files() == files:  # noqa: ASYNC110 (no event to wait for)
                    await asyncio.sleep(0)
                await pair.near.stop()
                await gathering
            assert open_files() == files
            assert asyncio.all_tasks() == before

    async def fails(offering):
        with pytest.raises(TetherError, match="gathered"):
            await offering

    run(main())


def test_without_ice_servers_gathering_waits_for_nothing(lab):
    async def main():
        async with lab() as pair:
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            async with asyncio.TaskGroup() as group:
                counting = group.create_task(count())
                await pair.near.offer()
                counting.cancel()
            assert turns <= 1

    run(main())


@pytest.mark.parametrize(
    "url", ["", "http://x", "stun:", "stuns:h:1", "turn:h:1?transport=sctp", "turn:h:x"]
)
def test_unreadable_ice_server_is_named_at_start(url):
    async def main():
        driver = WebRtcTetherDriver({})
        with pytest.raises(Unavailable, match="write stun:host:port"):
            await driver.start(
                TetherConfig(is_overlay=lambda _: False, ice_servers=[IceServer(url=url)])
            )
        await driver.stop()

    run(main())


@pytest.mark.parametrize("settings", [{"allow_loopback": "yes"}, {"port": 4_000}])
def test_wrong_settings_are_usage_errors(settings):
    with pytest.raises(UsageError, match=r"conflux\.toml"):
        WebRtcTetherDriver(settings)


class ProactorLike(asyncio.SelectorEventLoop):
    """Cannot watch sockets, as Windows' loop cannot; asyncio's own transports still work."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError


@pytest.mark.parametrize("way", ["loop without readers", "no segmentation", "no joined reads"])
def test_tethers_work_where_the_system_offers_less(lab, monkeypatch, way):
    sent = os.urandom(MAX_MESSAGE_BYTES)

    async def main():
        async with lab() as pair:
            near, far = await pair.connect()
            near.tether.send([sent])
            await far.until(lambda: bool(far.datagrams))
            assert far.datagrams == [sent]
            far.tether.close()
            await near.until(lambda: bool(near.closed))

    async def bounded():
        async with asyncio.timeout(30):
            await main()

    if way == "no segmentation":  # an option that this kernel refuses, as older ones refuse 103
        monkeypatch.setattr(udp, "_UDP_SEGMENT", 9_999)
    if way == "no joined reads":
        monkeypatch.setattr(udp.sys, "platform", "other")
    factory = ProactorLike if way == "loop without readers" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


def test_malformed_answer_closes_the_tether(lab):
    async def main():
        async with lab() as pair:
            offer = await pair.near.offer()
            with pytest.raises(WireError):
                await offer.connect(bytes(32), offer.description)
            with pytest.raises(TetherError):
                await offer.connect(bytes(32), offer.description)

    run(main())
