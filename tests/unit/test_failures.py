"""How soon a path that failed may be tried again."""

from __future__ import annotations

from conflux.anchor.failures import FORGIVEN_S, LONGEST_S, Failures
from conflux.api import NodeId

PATH = tuple(NodeId(bytes((n,)) * 32) for n in range(3))


def pause(failures: Failures, now: float) -> float:
    """How long PATH is not tried from *now* on, in tenths of a second."""
    waited = 0
    while not failures.is_over(PATH, now=now + waited / 10):
        waited += 1
    return waited / 10


def broken(failures: Failures, now: float, *, longest_s: float = LONGEST_S) -> float:
    failures.broke(PATH, 0.0, longest_s=longest_s, now=now)
    return pause(failures, now)


def test_path_that_breaks_in_a_row_pauses_twice_as_long_each_time_up_to_a_minute():
    failures, now, pauses = Failures(), 0.0, []
    for _ in range(12):
        pauses.append(broken(failures, now))
        now += pauses[-1] + 1
    assert pauses == [0, 0.3, 0.6, 1.2, 2.4, 4.8, 9.6, 19.2, 38.4, 60, 60, 60]


def test_the_last_path_pauses_no_longer_than_its_destination_can_wait():
    failures, now = Failures(), 0.0
    for _ in range(8):
        now += broken(failures, now, longest_s=2.0) + 1
    assert broken(failures, now, longest_s=2.0) == 2.0


def test_path_that_stood_breaks_as_for_the_first_time():
    failures = Failures()
    for now in (0.0, 1.0, 2.0):
        broken(failures, now)
    later = 2.0 + pause(failures, 2.0) + FORGIVEN_S
    assert broken(failures, later) == 0


def test_failed_set_ups_pause_as_told_and_forgive_nothing():
    failures = Failures()
    for now in (0.0, 1.0, 2.0):
        broken(failures, now)
    failures.failed(PATH, 10.0, now=3.0)
    assert pause(failures, 3.0) == 10.0
    failures.failed(PATH, 0.3, now=13.0)
    assert pause(failures, 13.0) == 0.3
    assert broken(failures, 14.0) == 1.2


def test_old_failures_are_forgotten():
    failures = Failures()
    failures.failed(PATH, 1.0, now=0.0)
    failures.drop_old(FORGIVEN_S)
    assert failures._by_path
    failures.drop_old(FORGIVEN_S + 1.0)
    assert not failures._by_path
