"""conflux/anchor/timers.py, limits.py and affinity.py."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor import affinity
from conflux.anchor.limits import MAX_SENDERS, RateLimit, SeenNonces, Shares
from conflux.anchor.timers import Timers
from conflux.api import NodeId
from conflux.wire.control import MAX_TEAM_TAGS
from conflux.wire.credentials import TeamKey

whens = st.floats(0, 100)


def team(n: int) -> TeamKey:
    return TeamKey(team_id=bytes(16), epoch=1, key=n.to_bytes(32, "big"), name=f"t{n}")


# Timers


@given(st.lists(st.tuples(whens, st.booleans()), max_size=40), whens)
def test_due_timers_fire_once_in_order_and_cancelled_ones_never(plan, until):
    timers, fired = Timers(), []
    for n, (when, cancelled) in enumerate(plan):
        timer = timers.at(when, lambda now, n=n: fired.append(n))
        if cancelled:
            timer.cancel()
    timers.run(until)
    due = [(when, n) for n, (when, cancelled) in enumerate(plan) if not cancelled and when <= until]
    assert fired == [n for _, n in sorted(due)]
    timers.run(until)
    assert len(fired) == len(due)
    later = [when for when, cancelled in plan if not cancelled and when > until]
    assert timers.next_deadline() == min(later, default=None)


def test_a_timer_set_by_a_timer_that_is_due_fires_in_the_same_run():
    timers, fired = Timers(), []
    timers.at(1, lambda now: timers.at(now, fired.append))
    timers.run(5)
    assert fired == [5]


def test_owner_of_the_clock_hears_of_each_new_earliest_deadline():
    timers, heard = Timers(), []
    timers.on_earliest = heard.append
    for when in (5.0, 7.0, 3.0, 3.0, 2.0):
        timers.at(when, lambda now: None)
    assert heard == [5.0, 3.0, 2.0]


def test_a_timer_cancelled_by_another_one_of_the_same_time_does_not_fire():
    timers, fired = Timers(), []
    timers.at(1, lambda _: doomed.cancel())
    doomed = timers.at(1, fired.append)
    timers.run(1)
    assert fired == []


# Limits


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_rate_over_any_span_stays_within_burst_and_rate(gaps):
    limit, now, allowed = RateLimit(per_s=5, burst=3), 0.0, 0
    for gap in gaps:
        now += gap
        allowed += limit.allows(b"sender", now=now)
    assert allowed <= 3 + 5 * now + 1e-6
    assert allowed >= min(len(gaps), 3)


def test_senders_have_buckets_of_their_own_and_the_oldest_is_forgotten():
    limit = RateLimit(per_s=1, burst=1)
    assert limit.allows(b"one", now=0)
    assert not limit.allows(b"one", now=0)
    assert limit.allows(b"two", now=0)
    for n in range(MAX_SENDERS + 10):
        limit.allows(n.to_bytes(4, "big"), now=0)
    assert len(limit._buckets) == MAX_SENDERS


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), max_size=100))
def test_a_nonce_is_fresh_once_within_the_time_that_it_is_kept(steps):
    seen, now, last = SeenNonces(keep_s=10, limit=1_000), 0.0, {}
    for gap, n in steps:
        now += gap
        expected = n not in last or now - last[n] > 10
        assert seen.fresh(bytes([n]), by=b"sender", now=now) is expected
        if expected:
            last[n] = now


def test_a_full_memory_of_nonces_forgets_only_those_of_whoever_brought_most():
    seen = SeenNonces(keep_s=10, limit=4)
    assert seen.fresh(b"honest", by=b"a", now=0)
    assert all(seen.fresh(bytes([n]), by=b"greedy", now=0) for n in range(100))
    assert seen.fresh(b"also honest", by=b"b", now=9)
    assert not seen.fresh(b"honest", by=b"greedy", now=10)
    assert not seen.fresh(b"also honest", by=b"greedy", now=10)
    assert seen.fresh(bytes([0]), by=b"greedy", now=10)
    assert len(seen._seen) == 4


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.booleans()), max_size=300))
def test_shares_agree_with_counting(steps):
    shares, held = Shares(), {}
    for n, thing, adds in steps:
        owner, thing = bytes([n]), bytes([n, thing])
        if not adds:
            shares.remove(owner, thing)
            held.get(owner, {}).pop(thing, None)
        elif thing not in held.setdefault(owner, {}):
            shares.add(owner, thing)
            held[owner][thing] = None
        counts = {owner: len(things) for owner, things in held.items()}
        assert len(shares) == sum(counts.values())
        assert shares.most == max(counts.values(), default=0)
        assert shares.of(owner) == counts.get(owner, 0)
        if shares.most:
            greediest, first = shares.greediest()
            assert counts[greediest] == shares.most
            assert first == next(iter(held[greediest]))


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), max_size=100))
def test_forgetting_what_is_idle_changes_no_verdict_and_leaves_nothing(steps):
    one, other = RateLimit(per_s=2, burst=3), RateLimit(per_s=2, burst=3)
    seen, also_seen = SeenNonces(keep_s=2, limit=4), SeenNonces(keep_s=2, limit=4)
    now = 0.0
    for gap, n in steps:
        now += gap
        other.drop_idle(now)
        also_seen.drop_idle(now)
        assert one.allows(bytes([n]), now=now) is other.allows(bytes([n]), now=now)
        assert seen.fresh(bytes([n]), by=b"s", now=now) is also_seen.fresh(
            bytes([n]), by=b"s", now=now
        )
    other.drop_idle(now + 1.6)
    also_seen.drop_idle(now + 2.1)
    assert not other._buckets
    assert not also_seen._seen


# Affinity


@given(
    st.sets(st.integers(0, 40), max_size=12),
    st.sets(st.integers(0, 40), max_size=12),
    st.binary(min_size=32, max_size=32),
)
def test_exactly_the_common_teams_are_found(ours, theirs, core_hash):
    entropy = random.Random(1).randbytes
    tags = affinity.make_tags([team(n) for n in theirs], core_hash, entropy)
    common = affinity.common_teams([team(n) for n in ours], core_hash, tags)
    assert {t.name for t in common.values()} == {f"t{n}" for n in ours & theirs}
    assert set(common) <= set(tags)


@given(st.integers(0, MAX_TEAM_TAGS + 20))
def test_tags_are_padded_and_sorted_so_that_their_number_tells_little(count):
    tags = affinity.make_tags(
        [team(n) for n in range(count)], bytes(32), random.Random(1).randbytes
    )
    assert len(tags) % 8 == 0
    assert 8 <= len(tags) <= MAX_TEAM_TAGS
    assert tags == sorted(tags)
    assert len(set(tags)) == len(tags)


def test_tags_of_another_ask_prove_nothing():
    tags = affinity.make_tags([team(1)], b"a" * 32, random.Random(1).randbytes)
    assert not affinity.common_teams([team(1)], b"b" * 32, tags)


@given(st.sets(st.integers(0, 40), max_size=6), st.sets(st.integers(0, 40), max_size=6))
def test_salt_depends_on_all_common_teams_and_on_nothing_else(one, other):
    def salt(numbers, *, backwards):
        return affinity.team_salt([team(n) for n in sorted(numbers, reverse=backwards)])

    assert salt(one, backwards=False) == salt(one, backwards=True)
    assert (salt(one, backwards=False) == salt(other, backwards=False)) is (one == other)


def test_strangers_are_bounded_and_the_latest_are_kept():
    core = bytes(range(32))
    strangers = affinity.Strangers()
    for n in range(affinity.MAX_STRANGERS + 10):
        tags = [affinity.team_tag(team(1).key, core)]
        strangers.note(NodeId(n.to_bytes(32, "big")), core, tags, now=0.0)
    assert strangers.that_share([team(2)], now=1.0) == []
    found = strangers.that_share([team(2), team(1)], now=1.0)
    latest = range(10, affinity.MAX_STRANGERS + 10)
    assert [int.from_bytes(node, "big") for node in found] == list(latest)
    assert strangers.that_share([team(1)], now=1.0) == []
