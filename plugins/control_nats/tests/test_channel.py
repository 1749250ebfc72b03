"""The channel on a real server."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import nats
import pytest

from conflux.api import MAX_CONTROL_BYTES, Closed, Refused, Unreachable, UsageError
from conflux_control_nats.driver import NatsControlDriver

ALICE, BOB, CAROL = (bytes([n]) * 16 for n in (0xA1, 0xB0, 0xCA))
ADDRESS = bytes([0xAD]) * 16


class Refusals(logging.Handler):
    """Keeps the levels of the log lines about a refusal, and lets a test wait for some."""

    def __init__(self, enough):
        super().__init__()
        self.levels = []
        self.enough = enough
        self.came = asyncio.Event()

    def emit(self, record):
        if "refuses this node" in record.getMessage():
            self.levels.append(record.levelno)
        if len(self.levels) == self.enough:
            self.came.set()


@asynccontextmanager
async def joined(credentials, inbox, *, ping_s=4.0):
    channel = await NatsControlDriver({"ping_s": ping_s}).connect(
        credentials, inbox.on_message, inbox.on_connected
    )
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def pair(master, make_inbox):
    """Alice's channel, Bob's channel and what Bob gets."""
    ears = make_inbox()
    async with (
        joined(master.credentials(ALICE), make_inbox()) as alice,
        joined(master.credentials(BOB, ADDRESS), ears) as bob,
    ):
        yield alice, bob, ears


def test_message_to_a_handle_and_to_an_address_arrives_with_its_sender(master, make_inbox):
    async def main():
        async with pair(master, make_inbox) as (alice, _, ears):
            assert alice.connected
            assert alice.publish(BOB, b"to the handle")
            assert alice.publish(ADDRESS, b"to the address")
            await ears.until(lambda e: len(e.messages) == 2)
            assert sorted(ears.messages) == [
                (ALICE, b"to the address"),
                (ALICE, b"to the handle"),
            ]
            assert ears.states == []

    asyncio.run(main())


def test_largest_message_arrives_and_a_larger_one_is_a_bug_of_the_caller(master, make_inbox):
    async def main():
        async with pair(master, make_inbox) as (alice, _, ears):
            payload = bytes(MAX_CONTROL_BYTES)
            assert alice.publish(BOB, payload)
            await ears.until(lambda e: e.messages == [(ALICE, payload)])
            with pytest.raises(ValueError, match="65536"):
                alice.publish(BOB, payload + b"!")
            with pytest.raises(ValueError, match="16 bytes"):
                alice.publish(BOB[1:], b"")

    asyncio.run(main())


def test_message_to_the_shared_tag_reaches_one_other_node(master, make_inbox, shared_tag):
    async def main():
        own, ears = make_inbox(), make_inbox()
        async with (
            joined(master.credentials(ALICE), own) as alice,
            joined(master.credentials(BOB), ears),
            joined(master.credentials(CAROL), ears),
        ):
            sent = [n.to_bytes() for n in range(50)]
            for payload in sent:
                assert alice.publish(shared_tag, payload)
            await ears.until(lambda e: len(e.messages) >= len(sent))
            # What follows on the same connections would come after any double.
            alice.publish(BOB, b"last")
            alice.publish(CAROL, b"last")
            await ears.until(lambda e: [p for _, p in e.messages].count(b"last") == 2)
            assert sorted(p for _, p in ears.messages if p != b"last") == sent
            assert own.messages == []

    asyncio.run(main())


def test_publish_says_no_once_its_buffer_is_full_and_takes_more_when_it_has_drained(
    master, make_inbox
):
    async def main():
        async with pair(master, make_inbox) as (alice, _, ears):
            payload = bytes(MAX_CONTROL_BYTES)
            # Nothing is written before the event loop runs again.
            taken = sum(alice.publish(BOB, payload) for _ in range(100))
            assert 1 <= taken <= 8
            assert alice.dropped() == {"bad_subject": 0, "oversized": 0, "unsent": 100 - taken}
            await ears.until(lambda e: len(e.messages) == taken)
            assert alice.publish(BOB, b"again")
            await ears.until(lambda e: e.messages[-1] == (ALICE, b"again"))

    asyncio.run(main())


def test_noise_is_dropped_and_counted(make_master, make_inbox):
    async def main():
        # Without authentication anybody may publish any subject.
        master = make_master(authenticates=False)
        credentials = master.credentials(BOB)
        ears = make_inbox()
        async with joined(credentials, ears) as bob:
            head = f"{credentials.prefix}.{BOB.hex()}"
            noisy = await nats.connect(master.url)
            for sender in ("zz", ALICE.hex().upper(), ALICE.hex() + "00", "é" * 32):
                await noisy.publish(f"{head}.{sender}", b"noise")
            await noisy.publish(f"{head}.{ALICE.hex()}", bytes(MAX_CONTROL_BYTES + 1))
            await noisy.publish(f"{head}.{ALICE.hex()}", b"good", reply="some.inbox")
            await noisy.close()
            await ears.until(lambda e: e.messages == [(ALICE, b"good")])
            assert bob.dropped() == {"bad_subject": 4, "oversized": 1, "unsent": 0}

    asyncio.run(main())


@pytest.mark.parametrize(
    "command",
    [
        b"PUB %s \xff\xfe 5\r\nevil!\r\n",
        b"HPUB %s 8 13\r\nNATS/1.0evil!\r\n",
        b"HPUB %s 19 24\r\nNATS/1.0\r\n\xff: \xff\xff\r\n\r\nevil!\r\n",
    ],
    ids=["reply is no UTF-8", "header without end", "header is no UTF-8"],
)
def test_hostile_reply_or_header_does_not_deafen_a_node(make_master, make_inbox, command):
    async def main():
        master = make_master(authenticates=False)
        credentials = master.credentials(BOB)
        ears = make_inbox()
        async with joined(credentials, ears, ping_s=60):
            subject = f"{credentials.prefix}.{BOB.hex()}.{ALICE.hex()}".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", master.port)
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
            writer.write(command % subject)
            writer.write(b"PUB %s 4\r\ngood\r\nPING\r\n" % subject)
            await reader.readuntil(b"PONG\r\n")
            writer.close()
            await writer.wait_closed()
            await ears.until(lambda e: (ALICE, b"good") in e.messages)
            assert ears.states == []

    asyncio.run(main())


def test_bug_in_the_kernels_callback_is_shown_and_does_not_end_the_channel(
    master, make_inbox, caplog
):
    async def main():
        async with pair(master, make_inbox) as (alice, bob, ears):
            healthy = bob._on_message

            def buggy(tag, sender, payload):
                healthy(tag, sender, payload)
                raise KeyError("a bug")

            bob._on_message = buggy
            for payload in (b"one", b"two"):
                assert alice.publish(BOB, payload)
            await ears.until(lambda e: len(e.messages) == 2)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert any(r.exc_info and r.exc_info[0] is KeyError for r in caplog.records)


def test_killed_server_is_found_again_and_messages_flow(master, make_inbox):
    async def main():
        voice, ears = make_inbox(), make_inbox()
        async with (
            joined(master.credentials(ALICE), voice) as alice,
            joined(master.credentials(BOB), ears),
        ):
            master.kill()
            await voice.until(lambda v: v.states == [False])
            await ears.until(lambda e: e.states == [False])
            assert not alice.connected
            assert not alice.publish(BOB, b"into the void")
            master.start()
            await voice.until(lambda v: v.states == [False, True])
            await ears.until(lambda e: e.states == [False, True])
            assert alice.connected
            assert alice.publish(BOB, b"back")
            await ears.until(lambda e: bool(e.messages))
            assert ears.messages == [(ALICE, b"back")]

    asyncio.run(main())


def test_what_was_pending_at_a_loss_is_not_sent_after_it(master, make_inbox):
    async def main():
        voice, ears = make_inbox(), make_inbox()
        async with joined(master.credentials(ALICE), voice) as alice:
            master.freeze()
            for _ in range(100):
                while alice.publish(BOB, bytes(MAX_CONTROL_BYTES)):
                    pass
                await asyncio.sleep(0)
            assert alice._client.pending_data_size > MAX_CONTROL_BYTES
            master.kill()
            await voice.until(lambda v: v.states == [False])
            assert alice._client.pending_data_size == 0
            master.start()
            async with joined(master.credentials(BOB), ears):
                await voice.until(lambda v: v.states == [False, True])
                assert alice.publish(BOB, b"fresh")
                await ears.until(lambda e: bool(e.messages))
                assert ears.messages == [(ALICE, b"fresh")]

    asyncio.run(main())


@pytest.mark.parametrize("fill", [False, True], ids=["idle", "with full buffers"])
def test_hanging_server_is_noticed_in_bounded_time(master, make_inbox, fill):
    async def main():
        voice = make_inbox()
        async with joined(master.credentials(ALICE), voice, ping_s=0.2) as alice:
            master.freeze()
            started = time.monotonic()
            while fill and voice.states == [] and time.monotonic() < started + 5:
                while alice.publish(BOB, bytes(MAX_CONTROL_BYTES)):
                    pass
                await asyncio.sleep(0)
            await voice.until(lambda v: v.states == [False], within_s=5)
            assert not alice.publish(BOB, b"")
            master.thaw()
            await voice.until(lambda v: v.states == [False, True])

    asyncio.run(main())


def test_hanging_server_takes_neither_memory_nor_a_slow_close(master, make_inbox):
    async def main():
        descriptors = len(os.listdir("/proc/self/fd"))
        async with joined(master.credentials(ALICE), make_inbox(), ping_s=60) as alice:
            master.freeze()
            taken = 0
            for _ in range(300):
                while alice.publish(BOB, bytes(MAX_CONTROL_BYTES)):
                    taken += MAX_CONTROL_BYTES
                await asyncio.sleep(0)
            # What the two sockets hold is the kernel's, some MB; without a bound it were 150 MB.
            assert taken < 40 << 20
            async with asyncio.timeout(3):
                await alice.close()
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) == descriptors
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_close_sends_what_was_published_and_leaves_no_task(master, make_inbox):
    async def main():
        voice, ears = make_inbox(), make_inbox()
        async with joined(master.credentials(BOB), ears):
            async with joined(master.credentials(ALICE), voice) as alice:
                assert alice.publish(BOB, b"farewell")
                await alice.close()
                await alice.close()
                assert not alice.connected
                assert not alice.publish(BOB, b"too late")
                with pytest.raises(Closed):
                    await alice.renew(master.credentials(ALICE))
            await ears.until(lambda e: e.messages == [(ALICE, b"farewell")])
            assert voice.states == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_renewal_loses_nothing_of_a_stream_of_messages(master, make_inbox):
    async def main():
        async with pair(master, make_inbox) as (alice, bob, ears):
            sent = 0
            done = asyncio.Event()

            async def talk():
                nonlocal sent
                while not done.is_set():
                    assert alice.publish(BOB, sent.to_bytes(4))
                    sent += 1
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(talk())
                for _ in range(5):
                    await bob.renew(master.credentials(BOB, ADDRESS))
                    await alice.renew(master.credentials(ALICE))
                done.set()
            await ears.until(lambda e: len({p for _, p in e.messages}) == sent)
            assert sent > 10
            assert ears.states == []

    asyncio.run(main())


def test_renewal_that_fails_keeps_the_connection(master, make_inbox):
    async def main():
        async with pair(master, make_inbox) as (alice, bob, ears):
            with pytest.raises(Refused):
                await bob.renew(replace(master.credentials(BOB), jwt="wrong"))
            with pytest.raises(Unreachable):
                await bob.renew(replace(master.credentials(BOB), urls=["nats://127.0.0.1:1"]))
            assert bob.connected
            assert alice.publish(BOB, b"still here")
            await ears.until(lambda e: e.messages == [(ALICE, b"still here")])

    asyncio.run(main())


def test_renewed_connection_mends_itself_too(master, make_inbox):
    async def main():
        async with pair(master, make_inbox) as (_, bob, ears):
            await bob.renew(master.credentials(BOB))
            master.kill()
            await ears.until(lambda e: e.states == [False])
            master.start()
            await ears.until(lambda e: e.states == [False, True])

    asyncio.run(main())


def test_expired_credentials_end_the_connection_once_and_renewal_revives_it(master, make_inbox):
    async def main():
        voice = make_inbox()
        soon = master.credentials(ALICE, expires=time.time() + 2)
        async with joined(soon, voice) as alice:
            await voice.until(lambda v: v.states == [False])
            assert not alice.connected
            assert not alice.publish(BOB, b"")
            await alice.renew(master.credentials(ALICE))
            await voice.until(lambda v: v.states == [False, True])
            assert alice.publish(ALICE, b"")

    asyncio.run(main())


def test_credentials_that_expired_while_the_server_was_away_are_complained_of_once(
    master, make_inbox, caplog
):
    async def main():
        voice = make_inbox()
        expires = int(time.time()) + 2
        async with joined(master.credentials(ALICE, expires=expires), voice) as alice:
            master.kill()
            await voice.until(lambda v: v.states == [False])
            # The server compares whole seconds of the wall clock, which no test can turn.
            await asyncio.sleep(expires + 1 - time.time())
            master.start()
            refusals = Refusals(enough=3)
            log = logging.getLogger("conflux.control")
            log.addHandler(refusals)
            try:
                async with asyncio.timeout(20):
                    await refusals.came.wait()
            finally:
                log.removeHandler(refusals)
            assert refusals.levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]
            await alice.renew(master.credentials(ALICE))
            await voice.until(lambda v: v.states == [False, True])

    with caplog.at_level(logging.DEBUG, "conflux.control"):
        asyncio.run(main())


def test_nothing_there_is_unreachable_at_once(make_inbox, master):
    async def main():
        master.kill()
        started = time.monotonic()
        with pytest.raises(Unreachable, match=f"127.0.0.1:{master.port} does not answer"):
            async with joined(master.credentials(ALICE), make_inbox()):
                pass
        assert time.monotonic() - started < 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_second_server_serves_when_the_first_is_gone(make_master, make_inbox):
    async def main():
        master = make_master()
        credentials = master.credentials(ALICE)
        for urls in ([master.url, "nats://127.0.0.1:1"], ["nats://127.0.0.1:1", master.url]):
            async with joined(replace(credentials, urls=urls), make_inbox()) as alice:
                assert alice.connected

    asyncio.run(main())


@pytest.mark.parametrize(
    "greeting", [b"", b"INFO []\r\n", b"SSH-2.0\r\n", b"x" * 100_000, b"INFO {}\r\n-ERR\r\n"]
)
def test_what_is_no_nats_server_is_unreachable_in_bounded_time(master, make_inbox, greeting):
    async def main():
        hung_up = asyncio.Event()

        async def greet(reader, writer):
            writer.write(greeting)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            hung_up.set()

        stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with stranger:
            port = stranger.sockets[0].getsockname()[1]
            credentials = replace(master.credentials(ALICE), urls=[f"nats://127.0.0.1:{port}"])
            with pytest.raises(Unreachable):
                async with asyncio.timeout(6), joined(credentials, make_inbox()):
                    pass
            async with asyncio.timeout(5):
                await hung_up.wait()

    asyncio.run(main())


def test_stranger_on_the_port_does_not_end_the_search_for_the_server(master, make_inbox):
    async def main():
        voice = make_inbox()
        met = asyncio.Event()
        guests = []

        async def babble(_reader, writer):
            guests.append(writer)
            writer.write(b"y" * 100_000)
            if len(guests) == 3:
                met.set()

        async with joined(master.credentials(ALICE), voice):
            master.kill()
            stranger = await asyncio.start_server(babble, "127.0.0.1", master.port)
            async with asyncio.timeout(10):
                await met.wait()
            stranger.close()
            for guest in guests:
                guest.transport.abort()
            await stranger.wait_closed()
            master.start()
            await voice.until(lambda v: v.states == [False, True])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [w for w in caught if "unclosed <StreamWriter" in str(w.message)] == []


def test_endless_message_from_the_server_is_cut_off(master, make_inbox):
    async def main():
        voice = make_inbox()
        lost = asyncio.Event()

        async def flood(reader, writer):
            writer.write(b'INFO {"max_payload": 1048576}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            for _ in range(2):
                await reader.readuntil(b"PING\r\n")
                writer.write(b"PONG\r\n")
            writer.write(b"MSG a.b 1 99999999999\r\n")
            try:
                while not lost.is_set():
                    writer.write(bytes(1 << 20))
                    await writer.drain()
            except ConnectionError:
                lost.set()
            writer.close()

        hostile = await asyncio.start_server(flood, "127.0.0.1", 0)
        port = hostile.sockets[0].getsockname()[1]
        credentials = replace(master.credentials(ALICE), urls=[f"nats://127.0.0.1:{port}"])
        async with joined(credentials, voice, ping_s=60):
            async with asyncio.timeout(20):
                await lost.wait()
            hostile.close()
            await voice.until(lambda v: v.states[:1] == [False])

    asyncio.run(main())


def test_connect_returns_only_after_the_server_has_handled_every_subscription(master, make_inbox):
    async def main():
        handled = []  # subscriptions before each PING that was answered

        async def serve(reader, writer):
            subscriptions = 0
            writer.write(b'INFO {"max_payload": 1048576}\r\n')
            while line := await reader.readline():
                subscriptions += line.startswith(b"SUB ")
                if line.startswith(b"PING"):
                    handled.append(subscriptions)
                    writer.write(b"PONG\r\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            urls = [f"nats://127.0.0.1:{port}"]
            async with joined(replace(master.credentials(ALICE), urls=urls), make_inbox()):
                assert handled[-1] == 2

    asyncio.run(main())


def test_servers_that_a_server_advertises_are_not_tried(master, make_inbox):
    async def main():
        lured = []
        voice = make_inbox()

        async def lure(_reader, writer):
            lured.append(writer)
            writer.close()

        async with await asyncio.start_server(lure, "127.0.0.1", 0) as foreign:
            address = b"127.0.0.1:%d" % foreign.sockets[0].getsockname()[1]
            visits = 0

            async def serve(reader, writer):
                nonlocal visits
                visits += 1
                writer.write(b'INFO {"max_payload":1048576,"connect_urls":["%s"]}\r\n' % address)
                pings = 0
                while line := await reader.readline():
                    if line.startswith(b"PING"):
                        writer.write(b"PONG\r\n")
                        pings += 1
                    if pings == 3 and visits < 4:  # the handshake and what settles: hang up
                        break
                writer.close()

            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                urls = [f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
                async with joined(replace(master.credentials(ALICE), urls=urls), voice) as alice:
                    await voice.until(lambda v: v.states.count(False) >= 1 and v.states[-1])
                    assert [s.uri.port for s in alice._client.server_pool] == [
                        server.sockets[0].getsockname()[1]
                    ]
            assert lured == []

    asyncio.run(main())


def test_foreign_account_is_refused(make_master, make_inbox):
    async def main():
        ours, theirs = make_master(), make_master()
        credentials = replace(ours.credentials(ALICE), urls=[theirs.url])
        with pytest.raises(Refused, match="refuses this node"):
            async with joined(credentials, make_inbox()):
                pass

    asyncio.run(main())


def test_tag_that_is_not_ones_own_is_refused(master, make_inbox):
    async def main():
        credentials = master.credentials(ALICE, ADDRESS, may_listen_to=(ALICE,))
        with pytest.raises(
            Refused, match="refuses this node: permissions violation for subscription"
        ):
            async with joined(credentials, make_inbox()):
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_server_that_takes_too_small_messages_is_refused(make_master, make_inbox):
    async def main():
        master = make_master("max_payload: 8192")
        with pytest.raises(Refused, match="set its max_payload to 65536"):
            async with joined(master.credentials(ALICE), make_inbox()):
                pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("urls", []),
        ("urls", ["http://127.0.0.1:4222"]),
        ("urls", ["nats://user:secret@127.0.0.1:4222"]),
        ("urls", ["nats://127.0.0.1:notaport"]),
        ("seed", "SUNOSEED"),
        ("seed", "é"),
        ("seed", ""),
        ("ca_pem", "no certificate"),
    ],
)
def test_unusable_credentials_are_refused_without_a_connection(master, make_inbox, field, value):
    async def main():
        with pytest.raises(Refused, match="Guardian") as refusal:
            async with joined(replace(master.credentials(ALICE), **{field: value}), make_inbox()):
                pass
        assert len(str(refusal.value).splitlines()) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "settings", [{"ping_s": 0}, {"ping_s": "4"}, {"ping_s": True}, {"pings": 4}]
)
def test_wrong_setting_is_a_usage_error(settings):
    with pytest.raises(UsageError, match=r"\[plugin.control.nats\]"):
        NatsControlDriver(settings)
