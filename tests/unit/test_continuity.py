"""Breaks in a machine's time: what is one, and that it is seen before anything else is done."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest

from conflux.runtime import continuity as module
from conflux.runtime.continuity import (
    LOOK_S,
    SLEPT_S,
    STALL_S,
    STEP_S,
    Break,
    Clocks,
    Continuity,
    KernelLog,
    VmClock,
    watching,
)
from conflux.runtime.loop import LookingLoop, run


class FakeClocks(Clocks):
    """Clocks that a test moves. `put_aside_s` pass between two readings, for so many times."""

    def __init__(self) -> None:
        self.ran, self.slept, self.stepped = 1_000.0, 50.0, 1.8e9
        self.put_aside: list[float] = []

    def monotonic(self) -> float:  # type: ignore[override]
        return self.ran

    def boot(self) -> float:
        self.ran += self.put_aside.pop() if self.put_aside else 0.0
        return self.ran + self.slept

    def wall(self) -> float:  # type: ignore[override]
        return self.ran + self.slept + self.stepped


@pytest.fixture
def clocks() -> FakeClocks:
    return FakeClocks()


def test_time_that_goes_on_is_no_break_and_neither_is_a_clock_that_ntp_corrects(clocks):
    watch = Continuity(clocks)
    for _ in range(10_000):
        clocks.ran += 0.9
        clocks.stepped += 0.9 * 500e-6
        assert watch.look() is None


def test_sleep_is_a_break_once_and_its_length_is_told(clocks):
    watch = Continuity(clocks)
    clocks.ran += 1
    assert watch.look() is None
    clocks.slept += 3_600
    clocks.ran += 2 * LOOK_S
    found = watch.look()
    assert found == Break("this machine slept for 3600.0 s", pytest.approx(3_600))
    clocks.ran += 1
    assert watch.look() is None


@pytest.mark.parametrize("step_s", [STEP_S + 0.1, -STEP_S - 0.1, 86_400.0, -1e6])
def test_a_wall_clock_that_is_set_is_a_break(clocks, step_s):
    watch = Continuity(clocks)
    clocks.stepped += step_s
    clocks.ran += 1
    found = watch.look()
    assert found is not None
    assert found.reason.startswith("the clock was set by ")
    assert found.slept_s == 0
    clocks.ran += 1
    assert watch.look() is None


def test_what_is_too_small_is_no_break(clocks):
    watch = Continuity(clocks)
    for _ in range(5):
        clocks.slept += SLEPT_S - 0.01
        clocks.ran += 1
        assert watch.look() is None
        clocks.stepped -= STEP_S - SLEPT_S - 0.01
        clocks.ran += 1
        assert watch.look() is None
        clocks.ran += STALL_S - 0.1
        assert watch.look() is None


def test_a_stall_that_no_peer_waits_for_is_a_break(clocks):
    watch = Continuity(clocks)
    clocks.ran += STALL_S
    assert watch.look() == Break("nothing ran for 10.0 s")


def test_a_process_that_is_put_aside_between_two_clocks_has_no_break(clocks):
    watch = Continuity(clocks)
    for pauses in ([3.0], [0.7, 0.0, 2.5], [5.0] * 8):
        clocks.ran += 0.5
        clocks.put_aside = pauses
        if sum(pauses) < STALL_S:
            assert watch.look() is None
        else:
            assert watch.look() == Break("nothing ran for 40.5 s")


# What the hypervisor says


def write_page(path, *, marker: int, magic: int = VmClock.MAGIC) -> None:
    page = struct.pack("<IIHBBIQQ", magic, 4_096, 1, 255, 0, 2, marker, 0)
    path.write_bytes(page.ljust(4_096, b"\0"))


def test_a_marker_of_the_hypervisor_that_changes_is_a_break_at_once(clocks, tmp_path):
    path = tmp_path / "vmclock0"
    write_page(path, marker=7)
    vm_clock = VmClock.open(path)
    assert vm_clock is not None
    watch = Continuity(clocks, vm_clock)
    assert watch.look() is None
    with path.open("r+b") as page:  # the same page, as the hypervisor writes it
        page.seek(16)
        page.write(struct.pack("<Q", 8))
    assert watch.look() == Break("the hypervisor moved or restored this machine")
    assert watch.look() is None
    vm_clock.close()


def test_a_page_that_is_none_or_cannot_be_had_is_not_used(tmp_path):
    write_page(tmp_path / "other", marker=7, magic=1)
    assert VmClock.open(tmp_path / "other") is None
    assert VmClock.open(tmp_path / "nothing") is None
    (tmp_path / "short").write_bytes(b"")
    assert VmClock.open(tmp_path / "short") is None
    assert KernelLog.open(tmp_path / "nothing") is None


FORKED = b"5,342,1269885,-;random: crng reseeded due to virtual machine fork\n"


@pytest.mark.parametrize(
    ("record", "forked"),
    [
        (FORKED, True),
        (b"6,343,1269886,-;eth0: link becomes ready\n", False),
        # A program's own words: the kernel gives them another facility.
        (b"12,344,1269887,-;random: crng reseeded due to virtual machine fork\n", False),
        (b"6,345,1269888,-;audit: random: crng reseeded due to virtual machine fork\n", False),
        (b"random: crng reseeded due to virtual machine fork\n", False),
        (b";\n", False),
    ],
)
def test_only_the_kernels_own_word_tells_of_a_fork(record, forked):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    log = KernelLog(reader)
    assert log.was_forked() is False
    os.write(writer, record)
    assert log.was_forked() is forked
    assert log.was_forked() is False
    os.close(writer)
    assert log.was_forked() is False
    os.close(reader)


# The loop


def test_the_loop_looks_before_it_does_what_is_ready_or_due():
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LookingLoop)
        reader, writer = os.pipe()
        loop.add_reader(reader, lambda: (seen.append("ready"), loop.remove_reader(reader)))
        loop.look_first(lambda: seen.append("look"))
        os.write(writer, b"x")
        loop.call_later(0, seen.append, "due")
        await asyncio.sleep(0.01)
        loop.look_first(None)
        looks = seen.count("look")
        await asyncio.sleep(0)
        assert seen.count("look") == looks
        os.close(reader)
        os.close(writer)

    run(main())
    assert seen[0] == "look"
    assert {"ready", "due"} <= set(seen)


def test_a_break_is_known_before_a_packet_that_waits_is_read(monkeypatch):
    """What comes from the TUN device after the sleep is sealed under new keys alone."""
    clocks, order = FakeClocks(), []
    monkeypatch.setattr(module, "Clocks", lambda: clocks)
    monkeypatch.setattr(module.VmClock, "open", classmethod(lambda cls: None))
    monkeypatch.setattr(module.KernelLog, "open", classmethod(lambda cls: None))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        done = asyncio.Event()

        def readable() -> None:
            order.append("packet")
            loop.remove_reader(reader)
            done.set()

        with watching(lambda found: order.append(found.reason)):
            loop.add_reader(reader, readable)
            clocks.slept += 60
            clocks.ran += 2 * LOOK_S
            os.write(writer, b"x")
            await done.wait()
        clocks.slept += 60
        clocks.ran += 1
        await asyncio.sleep(0)
        os.close(reader)
        os.close(writer)

    run(main())
    assert order == ["this machine slept for 60.0 s", "packet"]


def test_a_fork_that_the_kernel_tells_of_is_a_break(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    monkeypatch.setattr(module.VmClock, "open", classmethod(lambda cls: None))
    monkeypatch.setattr(module.KernelLog, "open", classmethod(lambda cls: cls(reader)))

    async def main() -> Break:
        found = asyncio.get_running_loop().create_future()
        with watching(found.set_result):
            os.write(writer, FORKED)
            return await found

    assert run(main()) == Break("this machine was cloned or restored")
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_elsewhere_whoever_asks_is_told(monkeypatch):
    """Where the loop is another one, the node asks once a second."""
    clocks, breaks = FakeClocks(), []
    monkeypatch.setattr(module, "Clocks", lambda: clocks)

    async def main() -> None:
        with watching(breaks.append) as look:
            clocks.slept += 60
            clocks.ran += 1
            await asyncio.sleep(0)
            assert breaks == []
            look()

    asyncio.run(main())
    assert len(breaks) == 1
