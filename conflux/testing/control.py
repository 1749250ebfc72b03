"""Conformance of control drivers."""

from __future__ import annotations

import abc
import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

import pytest

from conflux.api import (
    MAX_CONTROL_BYTES,
    TAG_BYTES,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
    Refused,
    Unavailable,
    Unreachable,
)
from conflux.testing import rig
from conflux.testing.rig import POLL_S, named, not_here, run, settle, until

ALICE, BOB, CAROL, ADDRESS, NEW_ADDRESS, SHARED = (bytes([n]) * TAG_BYTES for n in range(1, 7))
SIZES = (1, 100, 4_096, 16_384, MAX_CONTROL_BYTES)
FLOOD_BYTES = 64 << 20


class ControlBroker(Protocol):
    """A running broker, with what a test must be able to get from it."""

    dead_url: str
    """A URL of the broker's kind where nobody answers."""

    def credentials(
        self, *, handle: bytes, tags: Sequence[bytes], shared_tag: bytes
    ) -> ControlCredentials:
        """Let a node in. *tags* holds its handle too."""

    def refused(self, credentials: ControlCredentials) -> ControlCredentials:
        """Return the same for the same broker, but such that the broker refuses them."""

    async def interrupt(self) -> None:
        """Break every connection; nodes can come back at once, at the same URL."""


class ControlEnd:
    """One node's channel; keeps what it is told."""

    def __init__(self, channel: ControlChannel, credentials: ControlCredentials) -> None:
        self.channel = channel
        self.credentials = credentials
        self.messages: list[tuple[bytes, bytes]] = []
        self.tags: list[bytes] = []
        """Which tag each of `messages` was published to."""
        self.connections: list[bool] = []

    async def get_across(self, tag: bytes, payload: bytes, far: ControlEnd) -> None:
        """Publish until *far* has it: the channel is best effort."""
        message = self.credentials.handle, payload

        def arrived() -> bool:
            if message in far.messages:
                return True
            self.channel.publish(tag, payload)
            return False

        await until(arrived, f"a control message of {len(payload)} bytes to arrive")


class _Bench:
    """A broker with the channels that one test opens."""

    def __init__(self, driver: ControlDriver, broker: ControlBroker) -> None:
        self.driver = driver
        self.broker = broker
        self._open: list[ControlChannel] = []

    def credentials(self, handle: bytes, *tags: bytes) -> ControlCredentials:
        return self.broker.credentials(handle=handle, tags=(handle, *tags), shared_tag=SHARED)

    async def join(self, handle: bytes, *tags: bytes) -> ControlEnd:
        return await self.connect(self.credentials(handle, *tags))

    async def connect(self, credentials: ControlCredentials) -> ControlEnd:
        messages: list[tuple[bytes, bytes]] = []
        tags: list[bytes] = []
        connections: list[bool] = []

        def hear(tag: bytes, handle: bytes, payload: bytes) -> None:
            tags.append(bytes(tag))
            messages.append((bytes(handle), bytes(payload)))

        channel = await self.driver.connect(credentials, hear, connections.append)
        self._open.append(channel)
        end = ControlEnd(channel, credentials)
        end.messages, end.tags, end.connections = messages, tags, connections
        return end

    async def close(self) -> None:
        for channel in self._open:
            await channel.close()


_Check = Callable[["Any", _Bench], Awaitable[None]]


def _with_broker(check: _Check) -> Callable[[Any], None]:
    def test(self: ControlConformance) -> None:
        async def main() -> None:
            async with self.broker() as broker:
                try:
                    bench = _Bench(self.make_driver(), broker)
                except Unavailable as error:
                    not_here(error)
                try:
                    await check(self, bench)
                finally:
                    await bench.close()

        run(main())

    return named(test, check)


class ControlConformance(abc.ABC):
    """Subclass, return a driver and a broker for it to talk to, run pytest."""

    @abc.abstractmethod
    def make_driver(self) -> ControlDriver:
        """Return a driver. Raise Unavailable to skip, with the reason."""

    @abc.abstractmethod
    def broker(self) -> AbstractAsyncContextManager[ControlBroker]:
        """Run a broker of the driver's kind for as long as the context lasts."""

    @_with_broker
    async def test_message_arrives_with_its_senders_handle(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB, ADDRESS)
        for tag in (BOB, ADDRESS):
            bob.messages.clear()
            for size in SIZES:
                await alice.get_across(tag, b"\x5a" * size, bob)
            assert {handle for handle, _ in bob.messages} == {ALICE}
            assert {len(payload) for _, payload in bob.messages} == set(SIZES)

    @_with_broker
    async def test_message_reaches_its_listener_alone(self, bench: _Bench) -> None:
        alice, bob, carol = [await bench.join(who) for who in (ALICE, BOB, CAROL)]
        await alice.get_across(BOB, b"for bob", bob)
        await alice.get_across(CAROL, b"for carol", carol)
        await bob.get_across(ALICE, b"for alice", alice)
        await settle()
        assert set(alice.messages) == {(BOB, b"for alice")}
        assert set(bob.messages) == {(ALICE, b"for bob")}
        assert set(carol.messages) == {(ALICE, b"for carol")}

    @_with_broker
    async def test_message_tells_the_tag_that_it_was_published_to(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB, ADDRESS)
        for tag in (BOB, ADDRESS):
            await alice.get_across(tag, b"to " + tag, bob)
        heard = zip(bob.tags, bob.messages, strict=True)
        assert all(payload == b"to " + tag for tag, (_, payload) in heard)

    @_with_broker
    async def test_message_to_nobody_is_dropped(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        alice.channel.publish(NEW_ADDRESS, b"anybody?")
        await alice.get_across(BOB, b"after", bob)
        assert set(bob.messages) == {(ALICE, b"after")}
        assert alice.connections == []

    @_with_broker
    async def test_message_to_the_shared_tag_reaches_exactly_one(self, bench: _Bench) -> None:
        alice = await bench.join(ALICE)
        relays = [await bench.join(who) for who in (BOB, CAROL)]
        sent = [b"%d" % n for n in range(40)]
        for payload in sent:
            await until(
                lambda: alice.channel.publish(SHARED, payload),  # noqa: B023 (awaited)
                "room to publish",
            )

        def received() -> Counter[bytes]:
            ends = [alice, *relays]
            return Counter(payload for end in ends for _, payload in end.messages)

        await until(lambda: received().keys() >= set(sent), "every message to reach a relay")
        await settle()
        assert received() == Counter(sent)

    @_with_broker
    async def test_node_without_the_shared_tag_hears_nothing_of_it(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        carol = await bench.connect(replace(bench.credentials(CAROL), shared_tag=b""))
        sent = [b"%d" % n for n in range(40)]
        for payload in sent:
            await until(
                lambda: alice.channel.publish(SHARED, payload),  # noqa: B023 (awaited)
                "room to publish",
            )
        await until(
            lambda: len(alice.messages) + len(bob.messages) == len(sent), "all to reach a relay"
        )
        alice.channel.publish(CAROL, b"own")
        await until(lambda: carol.messages == [(ALICE, b"own")], "its own message alone")

    @_with_broker
    async def test_oversized_payload_is_refused(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        with pytest.raises(ValueError, match=r"."):
            alice.channel.publish(BOB, bytes(MAX_CONTROL_BYTES + 1))
        await alice.get_across(BOB, b"still alive", bob)

    @_with_broker
    async def test_publish_never_waits_and_its_queue_is_bounded(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        payload = bytes(MAX_CONTROL_BYTES)
        for _ in range(FLOOD_BYTES // len(payload)):
            if not alice.channel.publish(BOB, payload):
                break
        else:
            pytest.fail("64 MB were queued without a turn of the event loop")
        dropped = alice.channel.dropped()
        assert dropped == {} or sum(dropped.values()) >= 1, "what is counted counts this"
        await alice.get_across(BOB, b"after the flood", bob)

    @_with_broker
    async def test_close_flushes_and_ends(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        sent = [b"%d" % n for n in range(20)]
        for payload in sent:
            assert alice.channel.publish(BOB, payload)
        await alice.channel.close()
        await alice.channel.close()
        assert not alice.channel.connected
        assert alice.channel.publish(BOB, b"late") is False
        await until(lambda: len(bob.messages) >= len(sent), "what was sent before close")
        await settle()
        assert bob.messages == [(ALICE, payload) for payload in sent]
        assert alice.connections == [], "closing is no loss of the connection"

    @_with_broker
    async def test_closed_channel_hands_over_nothing(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        await alice.get_across(BOB, b"before", bob)
        await bob.channel.close()
        heard = list(bob.messages)
        alice.channel.publish(BOB, b"late")
        await settle()
        assert bob.messages == heard

    @_with_broker
    async def test_connection_that_breaks_comes_back_and_says_so(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        assert alice.connections == [], "the first connection is not announced"
        await bench.broker.interrupt()
        for end in (alice, bob):
            await until(
                lambda: end.connections == [False, True],  # noqa: B023 (awaited)
                "the channel to lose its connection and mend it",
                within_s=3 * rig.WAIT_S,
            )
            assert end.channel.connected
        await alice.get_across(BOB, b"after", bob)

    @_with_broker
    async def test_renewal_changes_what_is_heard_without_a_gap(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB, ADDRESS)
        sent: list[bytes] = []
        renewed = asyncio.Event()

        async def keep_talking() -> None:
            while not renewed.is_set():
                payload = b"%d" % len(sent)
                if alice.channel.publish(BOB, payload):
                    sent.append(payload)
                await asyncio.sleep(POLL_S)

        async with asyncio.TaskGroup() as both:
            both.create_task(keep_talking())
            await bob.channel.renew(bench.credentials(BOB, NEW_ADDRESS))
            renewed.set()
        await until(
            lambda: {payload for _, payload in bob.messages} >= set(sent),
            "every message of the time of the renewal",
        )
        await alice.get_across(NEW_ADDRESS, b"to the new address", bob)
        alice.channel.publish(ADDRESS, b"to the old address")
        await alice.get_across(BOB, b"last", bob)
        assert (ALICE, b"to the old address") not in bob.messages
        assert bob.connections == []

    @_with_broker
    async def test_failed_renewal_keeps_the_old_connection(self, bench: _Bench) -> None:
        alice, bob = await bench.join(ALICE), await bench.join(BOB)
        with pytest.raises(Refused):
            await bob.channel.renew(bench.broker.refused(bob.credentials))
        await alice.get_across(BOB, b"after a refusal", bob)
        with pytest.raises(Unreachable):
            await bob.channel.renew(
                dataclasses.replace(bob.credentials, urls=[bench.broker.dead_url])
            )
        await alice.get_across(BOB, b"after silence", bob)
        await bob.get_across(ALICE, b"and back", alice)

    @_with_broker
    async def test_connecting_tells_refusal_from_silence(self, bench: _Bench) -> None:
        good = bench.credentials(ALICE)
        for exception, credentials in (
            (Refused, bench.broker.refused(good)),
            (Unreachable, dataclasses.replace(good, urls=[bench.broker.dead_url])),
        ):
            with pytest.raises(exception) as caught:
                await bench.connect(credentials)
            reason = str(caught.value)
            assert reason.strip()
            assert "\n" not in reason
            assert credentials.jwt not in reason, "an error must not show a credential"
            assert credentials.seed not in reason, "an error must not show a credential"
