"""conflux/anchor/attempts.py: whom an Ask for any relay names to be avoided."""

from __future__ import annotations

import pytest

from conflux.anchor.attempts import FORGET_S, KNOWN_NAMED, MAX_TRIED, TRIED_S, Attempts
from conflux.api import NodeId
from conflux.wire.control import MAX_AVOID


def nodes(*numbers: int) -> list[NodeId]:
    return [NodeId(number.to_bytes(32, "big")) for number in numbers]


def failed(*numbers: int) -> Attempts:
    """Attempts that failed one after the other, a second apart."""
    attempts = Attempts()
    for at, node in enumerate(nodes(*numbers)):
        attempts.began(node, now=float(at))
        attempts.ended(node, up=False, now=float(at))
    return attempts


def test_first_come_those_asked_for_then_neighbours_then_failures_the_freshest_first():
    attempts = failed(1, 2, 3)
    avoid = attempts.avoid(nodes(9), nodes(7, 8), now=3.0)
    assert avoid == nodes(9, 7, 8, 3, 2, 1)


def test_an_attempt_under_way_counts_like_a_failure_and_one_that_worked_does_not():
    attempts = Attempts()
    (one, two) = nodes(1, 2)
    attempts.began(one, now=0.0)
    attempts.began(two, now=0.0)
    attempts.ended(one, up=True, now=0.3)
    assert attempts.avoid([], [], now=0.3) == [two]
    assert attempts.is_recent(two, now=0.3)
    assert not attempts.is_recent(one, now=0.3)


@pytest.mark.parametrize("failures", range(1, 7))
def test_each_failure_counts_for_longer_than_the_one_before_up_to_a_minute(failures):
    attempts, (one,) = Attempts(), nodes(1)
    for now in range(failures):
        attempts.began(one, now=float(now))
        attempts.ended(one, up=False, now=float(now))
    counts_s = TRIED_S[min(failures, len(TRIED_S)) - 1]
    last = failures - 1
    assert attempts.is_recent(one, now=last + counts_s - 0.01)
    assert attempts.avoid([], [], now=last + counts_s - 0.01) == [one]
    assert not attempts.is_recent(one, now=last + counts_s)
    assert attempts.avoid([], [], now=last + counts_s) == []


@pytest.mark.parametrize("drops", [True, False])
def test_failures_are_forgotten_after_a_while_and_by_success(drops):
    attempts, (one, two) = failed(1, 2), nodes(1, 2)
    for node in (one, two):
        attempts.ended(node, up=False, now=2.0)
    attempts.ended(two, up=True, now=3.0)
    if drops:
        attempts.drop_idle(2 + FORGET_S)
    for node in (one, two):
        attempts.ended(node, up=False, now=2 + FORGET_S)
        assert not attempts.is_recent(node, now=2 + FORGET_S + TRIED_S[0])


def test_an_ask_names_no_more_than_it_may_and_nobody_twice():
    attempts = failed(*range(100))
    known = nodes(*range(90, 120))
    avoid = attempts.avoid(nodes(1), known, now=100.0)
    assert len(set(avoid)) == len(avoid) == MAX_AVOID
    assert avoid[: 1 + KNOWN_NAMED] == nodes(1, *range(112, 120))
    assert avoid[1 + KNOWN_NAMED :] == nodes(*range(99, 92, -1))


def test_a_node_of_many_neighbours_names_them_where_nothing_failed():
    known = nodes(*range(30))
    avoid = Attempts().avoid([], known, now=0.0)
    assert len(set(avoid)) == MAX_AVOID
    assert set(avoid) <= set(known)


def test_memory_is_bounded_and_the_oldest_goes_first():
    attempts = Attempts()
    for node in nodes(*range(2 * MAX_TRIED)):
        attempts.began(node, now=0.0)
    assert not attempts.is_recent(nodes(MAX_TRIED - 1)[0], now=0.0)
    assert attempts.is_recent(nodes(MAX_TRIED)[0], now=0.0)
