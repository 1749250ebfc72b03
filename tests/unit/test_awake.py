"""Whether a loop spends its waits awake: only while that pays, and never longer than it is told."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.runtime import loop as module
from conflux.runtime.awake import MAX_SHORT_WAITS, SHORT_WAITS, Awake
from conflux.runtime.loop import LookingLoop

BUDGET_S = 150e-6
short = st.floats(0, BUDGET_S)
long = st.floats(BUDGET_S * 1.01, 10)


def test_a_loop_at_rest_is_never_awake():
    awake = Awake(BUDGET_S)
    for _ in range(1_000):
        assert not awake.pays
        awake.waited(1.0)


@given(st.lists(short, min_size=SHORT_WAITS))
def test_waits_that_all_are_short_are_spent_awake_after_the_first_few(waits):
    awake = Awake(BUDGET_S)
    for number, wait in enumerate(waits):
        assert awake.pays == (number >= SHORT_WAITS)
        awake.waited(wait)


@given(st.lists(short | long), long)
def test_after_a_long_wait_the_next_is_spent_asleep(waits, last):
    awake = Awake(BUDGET_S)
    for wait in [*waits, last]:
        awake.waited(wait)
    assert not awake.pays


@given(st.lists(st.integers(0, 3 * SHORT_WAITS), min_size=1, max_size=300))
def test_long_waits_spent_awake_are_rarer_than_one_in_so_many_and_rarer_the_more_there_were(runs):
    """Each run of short waits is followed by a long one: of those few are spent in vain."""
    awake, in_vain = Awake(BUDGET_S), 0
    for run in runs:
        for _ in range(run):
            awake.waited(BUDGET_S / 2)
        in_vain += awake.pays
        awake.waited(1.0)
    assert in_vain * SHORT_WAITS <= sum(runs)


@given(st.lists(st.integers(SHORT_WAITS, 2 * SHORT_WAITS - 1), min_size=10, max_size=300))
def test_bursts_that_end_before_being_awake_paid_stop_it(runs):
    awake, in_vain = Awake(BUDGET_S), 0
    for run in runs:
        for _ in range(run):
            awake.waited(BUDGET_S / 2)
        in_vain += awake.pays
        awake.waited(1.0)
    assert in_vain == 1


@given(st.lists(short | long, max_size=200))
def test_whatever_was_before_enough_short_waits_wake_it_again(waits):
    awake = Awake(BUDGET_S)
    for wait in waits:
        awake.waited(wait)
    for _ in range(MAX_SHORT_WAITS):
        awake.waited(0.0)
    assert awake.pays


@given(st.lists(st.tuples(short, short | long), max_size=200), long)
def test_who_has_much_to_do_at_once_sleeps_after_it(waits, work):
    awake = Awake(BUDGET_S)
    for wait, worked in waits:
        awake.waited(wait)
        awake.worked(worked)
    awake.worked(work)
    assert not awake.pays


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="done on Linux only")


@needs_linux
def test_one_processor_is_never_kept_awake(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0})
    loop = LookingLoop()
    try:
        assert not loop.stay_awake(BUDGET_S)
    finally:
        loop.close()


@needs_linux
def test_what_arrives_and_what_is_due_is_seen_awake_as_asleep(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1})
    yields = []
    monkeypatch.setattr(module.os, "sched_yield", lambda: yields.append(os.getpid()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LookingLoop)
        assert loop.stay_awake(0.5)  # so long that each wait here is a short one
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(0)
            far.settimeout(0)
            for number in range(3 * SHORT_WAITS):
                loop.call_later(0.001, far.send, bytes([number]))
                assert await loop.sock_recv(near, 10) == bytes([number])

    with asyncio.Runner(loop_factory=LookingLoop) as runner:
        runner.run(main())
    assert yields
