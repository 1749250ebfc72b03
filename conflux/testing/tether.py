"""Conformance of tether drivers."""

from __future__ import annotations

import abc
import asyncio
import os
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from conflux.api import (
    MAX_DESCRIPTION_BYTES,
    MAX_MESSAGE_BYTES,
    Tether,
    TetherConfig,
    TetherDriver,
    TetherError,
    Unavailable,
    WireError,
)
from conflux.testing import rig
from conflux.testing.rig import named, not_here, run, settle, until

MAX_RELIABLE_BYTES = 16_384
SECRET = bytes(range(32))
SIZES = (1, 2, 1_199, 1_200, 1_401, 9_000, 16_384, 16_385, 65_000, MAX_MESSAGE_BYTES)

FLOOD_BYTES = 64 << 20
"""What a flood tries to send without a turn of the event loop."""

QUEUE_LIMIT_BYTES = 16 << 20
"""No bounded queue is longer than this."""


def plain_config() -> TetherConfig:
    """A configuration for tests: no overlay addresses, no ICE servers."""
    return TetherConfig(is_overlay=lambda address: False)


class TetherEnd:
    """One end of a tether under test; keeps what it is handed."""

    def __init__(self, tether: Tether) -> None:
        self.tether = tether
        self.datagrams: list[bytes] = []
        self.reliable: list[bytes] = []
        self.closed: list[str] = []
        # bytes(...) at once: a message is valid only during the call.
        tether.attach(
            lambda message: self.datagrams.append(bytes(message)),
            lambda message: self.reliable.append(bytes(message)),
            self.closed.append,
        )

    async def send_reliable(self, message: bytes) -> None:
        """Send on the reliable lane, waiting for room."""
        await until(lambda: self.tether.send_reliable(message), "room on the reliable lane")

    async def get_across(self, message: bytes, far: TetherEnd) -> None:
        """Send on the datagram lane, again and again: that lane may lose."""

        def arrived() -> bool:
            if message in far.datagrams:
                return True
            if self.tether.room_bytes() >= len(message):
                self.tether.send([message])
            return False

        await until(arrived, f"a datagram of {len(message)} bytes to get across")


_Pair = tuple[TetherDriver, TetherDriver]
_DriverCheck = Callable[["Any", TetherDriver, TetherDriver], Awaitable[None]]
_EndCheck = Callable[["Any", TetherEnd, TetherEnd], Awaitable[None]]


def _with_drivers(check: _DriverCheck) -> Callable[[Any], None]:
    """Make a test of *check*: two started drivers, stopped whatever happens."""

    def test(self: TetherConformance) -> None:
        async def main() -> None:
            near, far = await self._started()
            try:
                await check(self, near, far)
            finally:
                await near.stop()
                await far.stop()

        run(main())

    return named(test, check)


def _with_ends(check: _EndCheck) -> Callable[[Any], None]:
    """Make a test of *check*: the two ends of a connected tether."""

    async def connected(self: Any, near: TetherDriver, far: TetherDriver) -> None:
        await check(self, *await connect(near, far))

    return named(_with_drivers(connected), check)


async def connect(near: TetherDriver, far: TetherDriver) -> tuple[TetherEnd, TetherEnd]:
    """Make a tether from *near* to *far* and wait until both ends carry messages."""
    offer = await near.offer()
    answer = await far.answer(offer.description)
    ends = TetherEnd(offer), TetherEnd(answer)
    async with asyncio.TaskGroup() as both:
        both.create_task(offer.connect(SECRET, answer.description))
        both.create_task(answer.connect(SECRET, None))
    return ends


class TetherConformance(abc.ABC):
    """Subclass, return two drivers from `make_drivers`, run pytest.

    The drivers are started (`plain_config()` will do) and can reach each other, over loopback for
    instance. The kit makes the tethers, and stops the drivers.
    """

    @abc.abstractmethod
    async def make_drivers(self) -> tuple[TetherDriver, TetherDriver]:
        """Return two started drivers. Raise Unavailable to skip, with the reason."""

    async def _started(self) -> _Pair:
        try:
            return await self.make_drivers()
        except Unavailable as error:
            not_here(error)

    # Messages

    @_with_ends
    async def test_datagram_lane_keeps_boundaries_at_every_size(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        sent = [_message(size) for size in SIZES]
        for message in sent:
            await near.get_across(message, far)
            await far.get_across(message, near)
        assert set(far.datagrams) == set(near.datagrams) == set(sent)

    @_with_ends
    async def test_several_messages_in_one_send_stay_several(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        sent = [_message(size) for size in (10, 20, 1_400, 30)]

        def all_arrived() -> bool:
            if set(sent) <= set(far.datagrams):
                return True
            assert 0 <= near.tether.send(sent) <= len(sent)
            return False

        await until(all_arrived, "every message of one send to get across")
        assert set(far.datagrams) == set(sent)

    @_with_ends
    async def test_datagram_lane_takes_every_kind_of_buffer(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        whole = _message(3_000)
        view = memoryview(b"xx" + whole + b"yy")[2:-2]

        def arrived() -> bool:
            near.tether.send([view, bytearray(whole[:2_000]), whole[:1_000]])
            return {whole, whole[:2_000], whole[:1_000]} <= set(far.datagrams)

        await until(arrived, "messages from three kinds of buffers to get across")
        assert len(set(far.datagrams)) == 3

    @_with_ends
    async def test_reliable_lane_keeps_order_boundaries_and_everything(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        chance = random.Random(1)
        sizes = [1, MAX_RELIABLE_BYTES, *(chance.randrange(4, 5_000) for _ in range(300))]
        there = [_message(size, tag=i) for i, size in enumerate(sizes)]
        back = there[::-1]
        async with asyncio.TaskGroup() as both:
            both.create_task(_send_all(near, there))
            both.create_task(_send_all(far, back))
        await until(lambda: len(far.reliable) >= len(there), "the reliable messages there")
        await until(lambda: len(near.reliable) >= len(back), "the reliable messages back")
        await settle()
        assert far.reliable == there
        assert near.reliable == back

    @_with_ends
    async def test_lanes_do_not_mix(self, near: TetherEnd, far: TetherEnd) -> None:
        await near.send_reliable(b"reliable")
        await near.get_across(b"datagram", far)
        await until(lambda: bool(far.reliable), "the reliable message to arrive")
        assert far.reliable == [b"reliable"]
        assert set(far.datagrams) == {b"datagram"}

    @_with_ends
    async def test_sender_may_reuse_its_buffers_at_once(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        sent = _message(20_000)

        def arrived() -> bool:
            buffer = bytearray(sent)
            near.tether.send([memoryview(buffer)])
            buffer[:] = bytes(len(buffer))
            return bool(far.datagrams)

        await until(arrived, "a datagram to get across")
        assert set(far.datagrams) == {sent}
        buffer = bytearray(b"reliable")
        assert near.tether.send_reliable(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        await until(lambda: bool(far.reliable), "the reliable message to arrive")
        assert far.reliable == [b"reliable"]

    @_with_ends
    async def test_oversized_messages_are_refused(self, near: TetherEnd, far: TetherEnd) -> None:
        with pytest.raises(ValueError, match=r"."):
            near.tether.send([bytes(MAX_MESSAGE_BYTES + 1)])
        with pytest.raises(ValueError, match=r"."):
            near.tether.send_reliable(bytes(MAX_RELIABLE_BYTES + 1))
        await near.get_across(b"still alive", far)

    @_with_drivers
    async def test_first_message_is_not_lost_on_an_end_that_still_connects(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        offer = await near.offer()
        answer = await far.answer(offer.description)
        ends = TetherEnd(offer), TetherEnd(answer)

        async def greet(end: TetherEnd, remote: bytes | None) -> None:
            await end.tether.connect(SECRET, remote)
            assert end.tether.send_reliable(b"hello")

        async with asyncio.TaskGroup() as both:
            both.create_task(greet(ends[0], answer.description))
            both.create_task(greet(ends[1], None))
        for end in ends:
            await until(lambda: bool(end.reliable), "the first message")  # noqa: B023 (awaited)
            assert end.reliable == [b"hello"]

    @_with_drivers
    async def test_tethers_of_the_same_drivers_do_not_mix(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        pairs = [await connect(near, far), await connect(far, near), await connect(near, far)]
        for i, (left, right) in enumerate(pairs):
            await left.send_reliable(bytes([i]))
            await right.send_reliable(bytes([i + 10]))
        for i, (left, right) in enumerate(pairs):
            await left.get_across(bytes([i + 20]), right)
            await until(
                lambda: bool(left.reliable and right.reliable),  # noqa: B023 (awaited)
                "the reliable messages",
            )
            assert (left.reliable, right.reliable) == ([bytes([i + 10])], [bytes([i])])
            assert set(right.datagrams) == {bytes([i + 20])}

    # Bounds

    @_with_ends
    async def test_room_is_there_to_be_used(self, near: TetherEnd, far: TetherEnd) -> None:
        for size in SIZES:
            await until(lambda: near.tether.room_bytes() >= size, "room")  # noqa: B023 (awaited)
            assert near.tether.send([bytes(size)]) == 1, "room_bytes promised more than send took"

    @_with_ends
    async def test_datagram_queue_is_bounded(self, near: TetherEnd, far: TetherEnd) -> None:
        batch = [_message(60_000)] * 16
        taken = 0
        for _ in range(FLOOD_BYTES // (60_000 * len(batch))):
            count = near.tether.send(batch)
            assert 0 <= count <= len(batch)
            taken += count
            if count < len(batch):
                break
        # A driver may hand all of it to the system, which drops; it may not hoard it.
        assert near.tether.stats().queued_bytes <= QUEUE_LIMIT_BYTES
        assert taken * 60_000 < FLOOD_BYTES - 16 * 60_000 or not near.tether.stats().queued_bytes
        await until(lambda: near.tether.room_bytes() >= 60_000, "room after a flood")
        far.datagrams.clear()
        await near.get_across(b"after the flood", far)

    @_with_ends
    async def test_reliable_queue_is_bounded_and_loses_nothing_it_took(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        taken = 0
        while near.tether.send_reliable(_message(MAX_RELIABLE_BYTES, tag=taken)):
            taken += 1
            assert taken * MAX_RELIABLE_BYTES < QUEUE_LIMIT_BYTES, "the queue has no end"
        await until(
            lambda: len(far.reliable) >= taken,
            "all that was taken to arrive",
            within_s=3 * rig.WAIT_S,
        )
        assert far.reliable == [_message(MAX_RELIABLE_BYTES, tag=i) for i in range(taken)]
        await near.send_reliable(b"room again")

    @_with_ends
    async def test_stats_are_sane(self, near: TetherEnd, far: TetherEnd) -> None:
        await near.get_across(_message(1_000), far)
        stats = near.tether.stats()
        assert stats.rtt_s is None or 0 <= stats.rtt_s < 10
        assert stats.loss is None or 0 <= stats.loss <= 1
        assert stats.queued_bytes >= 0
        assert stats.underlay, "`underlay` tells people how the tether runs"

    @_with_ends
    async def test_unit_is_within_the_contracts_bounds(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        for end in (near, far):
            unit_bytes = end.tether.unit_bytes
            assert 1 <= unit_bytes <= MAX_MESSAGE_BYTES
            assert end.tether.send([bytes(unit_bytes)]) == 1, "a message of one unit is no flood"

    # Closing

    @_with_ends
    async def test_close_is_heard_once_at_the_far_end_only(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        near.tether.close()
        near.tether.close()
        await until(lambda: bool(far.closed), "the far end to notice")
        await settle()
        assert len(far.closed) == 1
        assert far.closed[0], "the reason is for people"
        assert near.closed == []

    @_with_ends
    async def test_abandoned_tether_says_nothing(self, near: TetherEnd, far: TetherEnd) -> None:
        near.tether.abandon()
        near.tether.abandon()
        assert near.tether.send([b"late"]) == 0
        assert near.tether.send_reliable(b"late") is False
        near.tether.close()
        await settle()
        assert far.closed == [], "the far end was told: something left under the old keys"
        assert near.closed == []
        assert (far.datagrams, far.reliable) == ([], [])

    @_with_ends
    async def test_closed_tether_takes_nothing(self, near: TetherEnd, far: TetherEnd) -> None:
        near.tether.close()
        await until(lambda: bool(far.closed), "the far end to notice")
        for end in (near, far):
            assert end.tether.send([b"late"]) == 0
            assert end.tether.send_reliable(b"late") is False
            assert end.tether.room_bytes() == 0
            end.tether.stats()
            end.tether.close()

    @_with_ends
    async def test_nothing_is_handed_over_after_close(
        self, near: TetherEnd, far: TetherEnd
    ) -> None:
        near.tether.send([_message(100)] * 8)
        near.tether.send_reliable(b"under way")
        far.tether.close()
        handed_over = len(far.datagrams), len(far.reliable)
        await settle()
        assert (len(far.datagrams), len(far.reliable)) == handed_over
        assert far.closed == []

    @_with_drivers
    async def test_stop_closes_every_tether(self, near: TetherDriver, far: TetherDriver) -> None:
        pairs = [await connect(near, far) for _ in range(2)]
        await near.stop()
        for left, right in pairs:
            assert left.tether.send([b"late"]) == 0
            await until(lambda: bool(right.closed), "the far end to notice")  # noqa: B023 (awaited)
            assert left.closed == []

    def test_nothing_is_left_after_stop(self) -> None:
        """No task, and from the second time on no file descriptor or thread more than before."""

        async def whole_life() -> None:
            before = asyncio.all_tasks()
            near, far = await self._started()
            try:
                left, right = await connect(near, far)
                await left.send_reliable(b"x")
                await until(lambda: bool(right.reliable), "the message to arrive")
                await far.offer()
            finally:
                await near.stop()
                await far.stop()
            assert asyncio.all_tasks() == before, "a task outlived stop()"

        # The first time may load libraries, which keep threads and files for good.
        run(whole_life())
        first = _open_files(), threading.active_count()
        run(whole_life())
        assert _open_files() <= first[0], "a socket or file outlived stop()"
        assert threading.active_count() <= first[1], "a thread outlived stop()"

    # Making

    @_with_drivers
    async def test_descriptions_are_small_and_hold_no_secret(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        offer = await near.offer()
        _check_description(offer.description)
        answer = await far.answer(offer.description)
        _check_description(answer.description)

    @_with_drivers
    async def test_malformed_offers_are_wire_errors(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        good = (await near.offer()).description
        for bad in _malformed(good):
            with pytest.raises(WireError):
                await far.answer(bad)
        await connect(near, far)

    @_with_drivers
    async def test_malformed_answers_are_wire_errors(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        for i in range(len(_malformed(b""))):
            offer = await near.offer()
            answer = await far.answer(offer.description)
            TetherEnd(offer)
            with pytest.raises(WireError):
                await offer.connect(SECRET, _malformed(answer.description)[i])
        await connect(near, far)

    @_with_drivers
    async def test_damaged_offers_raise_nothing_else(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        """A damaged offer may still be one; it is never an exception that nobody expects."""
        good = (await near.offer()).description
        chance = random.Random(2)
        for _ in range(30):
            damaged = bytearray(good)
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                tether = await far.answer(bytes(damaged))
            except (WireError, TetherError):
                continue
            tether.close()

    @_with_drivers
    async def test_cancelled_connect_closes_the_tether(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        offer = await near.offer()
        answer = await far.answer(offer.description)
        end = TetherEnd(offer)
        TetherEnd(answer)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                # The answerer never connects, so this cannot succeed.
                await offer.connect(SECRET, answer.description)
        assert offer.send([b"late"]) == 0
        assert offer.room_bytes() == 0
        assert end.closed == []
        await connect(near, far)

    @_with_drivers
    async def test_tether_that_never_connected_can_be_closed(
        self, near: TetherDriver, far: TetherDriver
    ) -> None:
        offer = await near.offer()
        answer = await far.answer(offer.description)
        assert offer.send([b"early"]) == 0
        assert offer.send_reliable(b"early") is False
        for tether in (offer, answer, offer):
            tether.close()
        await connect(near, far)


def _check_description(description: bytes) -> None:
    assert type(description) is bytes
    assert 0 < len(description) <= MAX_DESCRIPTION_BYTES
    assert SECRET not in description


async def _send_all(end: TetherEnd, messages: list[bytes]) -> None:
    for message in messages:
        await end.send_reliable(message)


def _message(size: int, *, tag: int = 0) -> bytes:
    """Bytes that show where they belong: no two sizes or tags give the same."""
    return random.Random(size << 20 | tag).randbytes(size)


def _malformed(good: bytes) -> list[bytes]:
    return [
        b"",
        b"\xff" * 64,
        random.Random(3).randbytes(400),
        good[: len(good) // 2],
        good + bytes(MAX_DESCRIPTION_BYTES),
    ]


def _open_files() -> int:
    """How many file descriptors are open, where the system can tell (Linux)."""
    listing = Path("/proc/self/fd")
    return len(os.listdir(listing)) if listing.is_dir() else 0
