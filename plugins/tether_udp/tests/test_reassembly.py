"""Pieces become messages in any order, and memory stays bounded whatever comes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from conflux_tether_udp.reassembly import (
    GIVE_UP_S,
    MAX_HELD_BYTES,
    MAX_PARTIAL,
    Reassembly,
)
from conflux_tether_udp.tally import Tally


def pieces(size: int, piece_bytes: int, seed: int = 0) -> list[bytes]:
    whole = random.Random(seed).randbytes(size)
    return [whole[at : at + piece_bytes] for at in range(0, size, piece_bytes)]


@given(st.integers(2_000, 65_551), st.randoms(use_true_random=False))
def test_pieces_in_any_order_and_doubled_give_the_message_once(size, chance):
    parts = pieces(size, 1_184)
    order = [*range(len(parts)), *range(len(parts) // 2)]
    chance.shuffle(order)
    reassembly, done = Reassembly(Tally()), []
    for index in order:
        whole = reassembly.add(7, index, len(parts) - 1, memoryview(parts[index]), 1_184, 0.0)
        if whole is not None:
            done.append(whole)
            break
    assert done == [b"".join(parts)]
    assert not reassembly
    assert reassembly._held_bytes == 0


@given(st.lists(st.integers(1, 10), min_size=1, max_size=12).filter(lambda x: sum(x) <= 55))
def test_runs_of_several_pieces_are_taken_at_once(lengths):
    parts = pieces(sum(lengths) * 1_184 - 100, 1_184)
    reassembly, at, whole = Reassembly(Tally()), 0, None
    for length in lengths:
        assert whole is None
        run = b"".join(parts[at : at + length])
        whole = reassembly.add(1, at, len(parts) - 1, memoryview(run), 1_184, 0.0)
        at += length
    assert whole == b"".join(parts)


def test_what_waits_too_long_is_given_up_and_counted():
    tally = Tally()
    reassembly = Reassembly(tally)
    tally.arrived(9, 1)
    parts = pieces(5_000, 1_000)
    for index in (0, 2, 3):
        reassembly.add(5, index, 4, memoryview(parts[index]), 1_000, 10.0)
    assert reassembly.unfinished() == 1
    reassembly.poll(10.0 + GIVE_UP_S - 0.01)
    assert tally.broken == 0
    reassembly.poll(10.0 + GIVE_UP_S)
    assert (tally.broken, tally.pieces, tally.missing) == (1, 4, 2)
    assert reassembly.add(5, 1, 4, memoryview(parts[1]), 1_000, 10.3) is None
    assert not reassembly, "a straggler does not begin it anew"


def test_pieces_that_contradict_each_other_are_dropped():
    reassembly = Reassembly(Tally())
    reassembly.add(1, 0, 4, memoryview(bytes(1_000)), 1_000, 0.0)
    assert reassembly.add(1, 1, 1, memoryview(bytes(1_000)), 1_000, 0.0) is None
    assert reassembly._held_bytes == 1_000


def test_message_longer_than_allowed_is_given_up():
    tally = Tally()
    reassembly = Reassembly(tally)
    for index in range(2):
        reassembly.add(1, index, 63, memoryview(bytes(40_000)), 40_000, 0.0)
    assert not reassembly
    assert tally.broken == 1


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 63), st.integers(1, 3_000))))
def test_memory_is_bounded(arrivals):
    tally = Tally()
    reassembly = Reassembly(tally)
    for counter, index, size in arrivals:
        reassembly.add(counter, index, 63, memoryview(bytes(size)), size, 0.0)
        assert reassembly._held_bytes <= MAX_HELD_BYTES
        assert len(reassembly._partial) <= MAX_PARTIAL
        assert reassembly._held_bytes == sum(p.size for p in reassembly._partial.values())


def test_oldest_message_makes_room_for_new_ones():
    reassembly = Reassembly(Tally())
    for counter in range(1, MAX_PARTIAL + 2):
        reassembly.add(counter, 0, 63, memoryview(bytes(1_000)), 1_000, 0.0)
    assert set(reassembly._partial) == set(range(2, MAX_PARTIAL + 2))
