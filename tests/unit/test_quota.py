"""conflux/anchor/quota.py: what one neighbour may push, and what is shared when all push."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.quota import BURST_BYTES, BYTES_PER_MBIT, DRAWN_BYTES, Quota, Quotas, Relaying
from conflux.api import MAX_MESSAGE_BYTES, NodeId

SECONDS = 10
FRAME = 9_000


def node(number: int) -> NodeId:
    return NodeId(bytes((number,)) * 32)


def quota_of(quotas: Quotas, number: int) -> Quota:
    quota = quotas.of(node(number))
    assert quota is not None
    return quota


def pushed(quotas: Quotas, mbits: dict[int, float], *, seconds: int = SECONDS) -> dict[int, float]:
    """Let each neighbour push at its Mbit/s; return what passed of each, in Mbit/s."""
    passed = dict.fromkeys(mbits, 0)
    owed = dict.fromkeys(mbits, 0.0)
    for tick in range(seconds * 1_000):
        for number, mbit in mbits.items():
            owed[number] += mbit * BYTES_PER_MBIT / 1_000
            while owed[number] >= FRAME:
                owed[number] -= FRAME
                passed[number] += FRAME * quota_of(quotas, number).allows(FRAME, tick / 1_000)
    return {number: total / seconds / BYTES_PER_MBIT for number, total in passed.items()}


def test_without_limits_there_is_no_quota():
    assert Quotas(Relaying()).of(node(1)) is None


def test_a_neighbour_passes_its_limit_and_a_burst_and_no_more():
    quotas = Quotas(Relaying(neighbour_mbit=8))
    passed = pushed(quotas, {1: 80, 2: 80})
    burst = BURST_BYTES / BYTES_PER_MBIT / SECONDS
    assert passed == pytest.approx({1: 8 + burst, 2: 8 + burst}, rel=0.02)


def test_a_neighbour_within_its_limit_loses_nothing():
    assert pushed(Quotas(Relaying(neighbour_mbit=8)), {1: 7.9})[1] == pytest.approx(7.9, rel=0.001)


def test_a_node_at_its_limit_shares_alike_among_those_who_want_more():
    passed = pushed(Quotas(Relaying(mbit=12)), {1: 100, 2: 50, 3: 20})
    assert passed == pytest.approx(dict.fromkeys((1, 2, 3), 4.0), rel=0.1)


def test_who_stays_within_its_share_loses_nothing_and_leaves_the_rest_to_others():
    passed = pushed(Quotas(Relaying(mbit=12)), {1: 100, 2: 2})
    assert passed[2] == pytest.approx(2, rel=0.005)
    assert passed[1] == pytest.approx(10, rel=0.05)


def test_a_neighbour_alone_has_the_whole_node():
    assert pushed(Quotas(Relaying(mbit=12)), {1: 100})[1] == pytest.approx(12, rel=0.03)


def test_both_limits_hold_together():
    passed = pushed(Quotas(Relaying(mbit=12, neighbour_mbit=4)), {1: 100, 2: 1})
    assert passed == pytest.approx({1: 4, 2: 1}, rel=0.05)


def test_a_neighbour_that_comes_again_goes_on_with_what_it_left():
    quotas = Quotas(Relaying(neighbour_mbit=1))
    while quota_of(quotas, 1).allows(FRAME, 0.0):
        pass
    quotas.drop_idle(lambda _: True, 1.0)
    assert not quota_of(quotas, 1).allows(FRAME, 0.0)
    quotas.drop_idle(lambda _: True, 100.0)
    assert quota_of(quotas, 1).allows(FRAME, 100.0)


def test_a_neighbour_that_is_there_is_never_forgotten():
    quotas = Quotas(Relaying(neighbour_mbit=1))
    quota = quota_of(quotas, 1)
    quotas.drop_idle(lambda _: False, 1e6)
    assert quota_of(quotas, 1) is quota


@given(
    st.floats(1, 1e4),
    st.lists(st.tuples(st.integers(1, MAX_MESSAGE_BYTES), st.floats(0, 0.5)), min_size=1),
)
def test_never_more_passes_than_two_bursts_and_the_rate(mbit, frames):
    quota = quota_of(Quotas(Relaying(neighbour_mbit=mbit)), 1)
    now, passed = 0.0, 0
    rate = mbit * BYTES_PER_MBIT
    for size, wait_s in frames:
        now += wait_s
        passed += size * quota.allows(size, now)
    assert passed <= now * rate + max(rate * 0.25, BURST_BYTES) + DRAWN_BYTES


def test_one_draw_lets_the_largest_message_pass():
    assert DRAWN_BYTES >= MAX_MESSAGE_BYTES
    assert quota_of(Quotas(Relaying(neighbour_mbit=1)), 1).allows(MAX_MESSAGE_BYTES, 0.0)
