"""The live world: timers on the loop's clock, threads for slow work, tethers that may fail."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from conflux.anchor.timers import Timers
from conflux.api import Layout, TetherError, WireError
from conflux.registry import Registry
from conflux.runtime.world import LiveWorld
from conflux.testing import MemoryTun
from conflux.testing.packets import udp_packet


class InstantSelector(selectors.DefaultSelector):
    """Where nothing is ready it lets the wait pass at once, on a clock of its own."""

    time = 1000.0

    def select(self, timeout=None):
        ready = super().select(0)
        if ready or timeout is None:
            return ready or super().select(None)
        self.time += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on that clock: what sleeps an hour is done at once."""

    def __init__(self):
        self._instant = InstantSelector()
        super().__init__(self._instant)

    def time(self):
        return self._instant.time


def on_virtual_time(main):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


class Tethers:
    """Tethers of one driver, which does what the test says."""

    def __init__(self, act):
        self.act = act
        self.closed = 0

    async def get(self, kind):
        return self

    async def offer(self):
        return await self.act()

    async def answer(self, offer):
        return await self.act()

    async def connect(self, secret, remote):
        await self.act()

    def close(self):
        self.closed += 1


@contextlib.asynccontextmanager
async def living(tethers=None):
    with ThreadPoolExecutor(1) as executor:
        async with asyncio.TaskGroup() as tasks:
            world = LiveWorld(tasks, executor, Registry(), tethers, on_grant=lambda grant: None)
            yield world
            world.close()


class TestClock:
    def test_timers_are_called_when_due_with_the_time(self):
        async def main():
            async with living() as world:
                timers, called = Timers(), []
                start = world.now()
                timers.at(start + 5, lambda now: called.append(("five", now - start)))
                world.drive(timers)
                timers.at(start + 3600, lambda now: called.append(("hour", now - start)))
                timers.at(start + 1, lambda now: called.append(("one", now - start)))
                await asyncio.sleep(2)
                assert called == [("one", pytest.approx(1))]
                await asyncio.sleep(3600)
                assert called == [
                    ("one", pytest.approx(1)), ("five", pytest.approx(5)),
                    ("hour", pytest.approx(3600)),
                ]  # fmt: skip

        on_virtual_time(main)

    def test_timer_set_by_a_timer_is_called_too(self):
        async def main():
            async with living() as world:
                timers, times = Timers(), []

                def again(now):
                    times.append(now)
                    if len(times) < 5:
                        timers.at(now + 10, again)

                world.drive(timers)
                timers.at(world.now(), again)
                await asyncio.sleep(60)
                gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
                assert gaps == [pytest.approx(10)] * 4

        on_virtual_time(main)

    def test_cancelled_timer_is_not_called(self):
        async def main():
            async with living() as world:
                timers = Timers()
                world.drive(timers)
                timers.at(world.now() + 1, pytest.fail).cancel()
                await asyncio.sleep(5)

        on_virtual_time(main)

    def test_bug_in_one_timer_is_reported_and_stops_no_other(self):
        async def main():
            reported, called = [], []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
            async with living() as world:
                timers = Timers()
                world.drive(timers)
                timers.at(world.now() + 1, lambda now: 1 / 0)
                timers.at(world.now() + 1, called.append)
                await asyncio.sleep(2)
            assert [type(error) for error in reported] == [ZeroDivisionError]
            assert len(called) == 1

        on_virtual_time(main)

    def test_closed_world_calls_no_timer(self):
        async def main():
            async with living() as world:
                timers = Timers()
                world.drive(timers)
                timers.at(world.now() + 1, pytest.fail)
                world.close()
                await asyncio.sleep(5)

        on_virtual_time(main)


class TestThreads:
    def test_slow_work_runs_aside_and_its_result_comes_back(self):
        async def main():
            done = asyncio.Event()
            async with living() as world:
                got = []

                def then(result, now):
                    got.append((result, threading.current_thread(), now <= world.now()))
                    done.set()

                world.defer(threading.current_thread, then, pytest.fail)
                await done.wait()
                [(worker, thread, timely)] = got
                assert worker is not threading.main_thread()
                assert thread is threading.main_thread()
                assert timely

        asyncio.run(main())

    def test_what_a_peer_causes_goes_to_failed(self):
        async def main():
            done = asyncio.Event()

            def work():
                raise WireError("a bad signature")

            async with living() as world:
                errors = []
                world.defer(
                    work, pytest.fail, lambda error, _: (errors.append(str(error)), done.set())
                )
                await done.wait()
                assert errors == ["a bad signature"]

        asyncio.run(main())

    def test_bug_in_the_work_is_reported_and_the_node_goes_on(self):
        async def main():
            reported = asyncio.Queue()
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: reported.put_nowait(context["exception"])
            )
            async with living() as world:
                world.defer(lambda: 1 / 0, pytest.fail, pytest.fail)
                assert isinstance(await reported.get(), ZeroDivisionError)

        asyncio.run(main())

    def test_result_after_the_end_is_dropped(self):
        async def main():
            may_go_on = threading.Event()
            async with living() as world:
                world.defer(may_go_on.wait, pytest.fail, pytest.fail)
                world.close()
                may_go_on.set()
            await asyncio.sleep(0)

        asyncio.run(main())


class TestTethers:
    @pytest.mark.parametrize("error", [TetherError("no"), WireError("noise")])
    def test_tether_that_cannot_be_made_is_none(self, error, caplog):
        async def fail():
            raise error

        results = self._begun(fail)
        assert results == [None, None]
        assert not caplog.records, "peers cause no log line"

    def test_bug_of_a_plugin_is_logged_and_counts_as_failure(self, caplog):
        async def fail():
            raise ZeroDivisionError

        assert self._begun(fail) == [None, None]
        assert "the tether driver memory failed" in caplog.text

    def _begun(self, act):
        results = []

        async def main():
            async with living(Tethers(act)) as world:
                world.offer_tether("memory", lambda tether, _: results.append(tether))
                world.answer_tether("memory", b"", lambda tether, _: results.append(tether))
                await asyncio.sleep(1)

        on_virtual_time(main)
        return results

    def test_connection_that_takes_too_long_is_closed(self):
        async def main():
            async def hang():
                await asyncio.sleep(3600)

            async with living() as world:
                tether, results = Tethers(hang), []
                start = world.now()
                world.connect_tether(
                    tether, b"", None, deadline_s=3,
                    then=lambda up, now: results.append((up, now - start)),
                )  # fmt: skip
                await asyncio.sleep(10)
                assert results == [(False, pytest.approx(3))]
                assert tether.closed == 1

        on_virtual_time(main)

    def test_tether_that_comes_after_the_end_is_closed(self):
        async def main():
            tether = Tethers(None)

            async def slowly():
                await asyncio.sleep(1)
                return tether

            async with living(Tethers(slowly)) as world:
                world.offer_tether("memory", pytest.fail)
                await asyncio.sleep(0.5)
                world.close()
            assert tether.closed == 1

        on_virtual_time(main)

    def test_nothing_begins_after_the_end(self):
        async def main():
            async with living(Tethers(pytest.fail)) as world:
                world.close()
                world.offer_tether("memory", pytest.fail)
                world.connect_tether(
                    Tethers(pytest.fail), b"", None, deadline_s=1, then=pytest.fail
                )
                await asyncio.sleep(2)

        on_virtual_time(main)


def test_packets_for_a_device_that_was_taken_away_are_dropped():
    async def main():
        async with living() as world:
            record = memoryview(bytes(22))
            world.deliver(record, Layout.BARE)
            world.tun, _ = MemoryTun.pair()
            world.deliver(record, Layout.BARE)
            world.tun.close()
            world.deliver(record, Layout.BARE)

    asyncio.run(main())


def test_what_the_system_is_told_comes_out_of_the_device():
    packet = udp_packet(ip_address("10.0.0.2"), ip_address("10.0.0.1"), b"an error")
    buffer = memoryview(bytearray(2_000))

    async def main():
        async with living() as world:
            world.tell_system(packet)  # there is no device yet
            world.tun, system = MemoryTun.pair()
            world.tell_system(packet)
            size = system.receive(buffer)
            assert bytes(buffer[2:size]) == packet

    asyncio.run(main())


def test_an_alarm_is_a_warning_in_the_log(caplog):
    async def main():
        async with asyncio.TaskGroup() as tasks:
            with ThreadPoolExecutor(1) as executor:
                world = LiveWorld(tasks, executor, Registry(), None, on_grant=lambda grant: None)
                world.alarmed(b"\xab" * 32, "a frame was forged")

    asyncio.run(main())
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "security: a frame was forged (streams with abababab)"
