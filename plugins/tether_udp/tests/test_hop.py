"""Both lanes of a tether between two ends on a virtual clock."""

from __future__ import annotations

import random

import pytest

SIZES = (0, 1, 1_168, 1_169, 1_440, 1_441, 9_000, 60_000, 65_535)


def message(size: int, tag: int = 0) -> bytes:
    return random.Random(size << 16 | tag).randbytes(size)


def test_both_ends_are_ready_within_two_round_trips(make_pair):
    pair = make_pair(delay_s=0.05)
    began = pair.net.now
    pair.connect()
    assert pair.near.ready_at - began <= 0.1 + 1e-9
    assert pair.far.ready_at - began <= 0.2 + 1e-9


def test_end_that_begins_later_is_found_as_soon_as_it_begins(make_pair):
    pair = make_pair(delay_s=0.01)
    pair.far.start(pair.near, is_offerer=False)
    pair.net.run(3.0)
    assert not pair.far.is_ready
    began = pair.net.now
    pair.near.start(pair.far, is_offerer=True)
    pair.net.run(1.0)
    assert pair.near.ready_at - began == pytest.approx(0.02)
    assert pair.far.ready_at - began == pytest.approx(0.03)


def test_messages_of_every_size_arrive_whole_and_in_order(pair):
    sent = [message(size) for size in SIZES]
    assert pair.near.post(*sent) == len(sent)
    pair.settle(1)
    assert pair.far.messages == sent
    assert pair.far.post(*sent) == len(sent)
    pair.settle(1)
    assert pair.near.messages == sent


def test_messages_survive_reordered_datagrams(make_pair):
    pair = make_pair(seed=3).connect().settle()
    pair.net.jitter_s = 0.02
    sent = [message(20_000, tag) for tag in range(16)]
    for each in sent:
        pair.near.post(each)
    pair.settle(1)
    assert sorted(pair.far.messages) == sorted(sent)


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_reliable_lane_loses_nothing_and_keeps_order(make_pair, loss):
    pair = make_pair(seed=5, delay_s=0.02).connect()
    pair.net.loss = loss
    chance = random.Random(6)
    there = [message(chance.randrange(16_385), tag) for tag in range(60)]
    there[3] = b""
    back = there[::-1]
    waiting = {pair.near: list(there), pair.far: list(back)}
    while any(waiting.values()):
        for end, rest in waiting.items():
            while rest and end.post_reliable(rest[0]):
                rest.pop(0)
        pair.net.run(0.1)
    pair.net.run(
        60, lambda: len(pair.far.reliables) == len(there) and len(pair.near.reliables) == len(back)
    )
    assert pair.far.reliables == there
    assert pair.near.reliables == back
    assert not pair.near.ended
    assert not pair.far.ended


def test_reliable_queue_is_bounded(pair):
    pair.net.passes = lambda source, target, data: False
    taken = 0
    while pair.near.post_reliable(bytes(16_384)):
        taken += 1
    assert 8 <= taken <= 16
    with pytest.raises(ValueError, match="16385"):
        pair.near.post_reliable(bytes(16_385))


def test_lone_message_leaves_at_once_and_takes_half_a_round_trip(pair):
    pair.settle()
    sent_at = pair.net.now
    pair.near.post(b"lone")
    assert pair.net.run(1, lambda: bool(pair.far.messages))
    assert pair.net.now - sent_at == pytest.approx(pair.net.delay_s)


def test_message_beyond_the_limit_is_refused(pair):
    with pytest.raises(ValueError, match="65536"):
        pair.near.post(bytes(65_536))


def test_no_more_is_taken_than_there_is_room_for(pair):
    pair.near.room = 1_000
    assert pair.near.post(bytes(1_000), bytes(1_001)) == 1
    assert pair.near.hop.room_bytes() == 1_000


def test_nothing_is_taken_before_there_is_a_path(make_pair):
    pair = make_pair()
    pair.near.start(pair.far, is_offerer=True)
    assert pair.near.post(b"early") == 0
    assert pair.near.hop.room_bytes() == 0


def test_reliable_message_before_there_is_a_path_waits_for_it(make_pair):
    pair = make_pair()
    pair.near.start(pair.far, is_offerer=True)
    assert pair.near.post_reliable(b"early")
    pair.far.start(pair.near, is_offerer=False)
    pair.settle(1)
    assert pair.far.reliables == [b"early"]


def test_round_trip_is_measured(make_pair):
    pair = make_pair(delay_s=0.04).connect().settle()
    assert pair.near.hop.rtt_s == pytest.approx(0.08)
    assert pair.far.hop.rtt_s == pytest.approx(0.08)


@pytest.mark.parametrize(("each_s", "least", "most"), [(0.01, 19, 20), (0.5, 3, 4)])
def test_round_trip_is_asked_for_each_second_of_a_flow_and_every_five_of_a_trickle(
    pair, each_s, least, most
):
    pair.settle(5)
    del pair.net.log[:]
    for _ in range(round(20 / each_s)):
        pair.near.post(b"x")
        pair.net.run(each_s)
    own = pair.near.addresses[0]
    probes = [
        data
        for source, _, data in pair.net.log
        if source == own and data[14] >> 6 == 2 and len(data) < 100
    ]
    assert least <= len(probes) <= most


def test_long_round_trips_are_no_silence(make_pair):
    """By satellite: nothing is tried again, doubted or changed just because it takes its time."""
    pair = make_pair(delay_s=0.4, seed=4)
    pair.near.addresses.append(("10.0.0.21", 4_000))
    pair.net.hosts[("10.0.0.21", 4_000)] = pair.near
    pair.connect().settle(10)
    path, size = pair.near.hop.path, pair.near.hop.datagram_bytes
    del pair.net.log[:]
    for _ in range(100):
        pair.near.post(bytes(2_000))
        pair.net.run(0.1)
        assert (pair.near.hop.path, pair.near.hop.datagram_bytes) == (path, size) == (path, 1_472)
    probes = [data for _, _, data in pair.net.log if data[14] >> 6 == 2]
    assert len(probes) <= 2 * 2 * 13, "a round trip a second, and its answer"


def test_far_end_hears_of_the_end_once(pair):
    pair.near.close()
    pair.settle(1)
    assert pair.far.ended == ["the far end closed the tether"]
    assert pair.near.ended == []
    assert pair.far.post(b"late") == 0
    assert pair.far.post_reliable(b"late") is False


def test_idle_tether_keeps_its_nats_open_and_stays(pair):
    pair.settle()
    began = pair.net.now
    del pair.net.log[:]
    pair.net.run(600)
    assert not pair.near.ended
    assert not pair.far.ended
    for end in (pair.near, pair.far):
        sent = [data for source, _, data in pair.net.log if source == end.source]
        # RFC 4787 REQ-5: mappings may go after 120 s, at least 15 s apart is RFC 8445's advice.
        assert (pair.net.now - began) / 20 <= len(sent) <= (pair.net.now - began) / 4


def test_silent_far_end_ends_the_tether(pair):
    pair.settle()
    pair.net.passes = lambda source, target, data: False
    pair.net.run(50)
    assert [len(pair.near.ended), len(pair.far.ended)] == [1, 1]
    assert "nothing came" in pair.near.ended[0]


def test_reliable_message_that_nobody_acknowledges_ends_the_tether_sooner(pair):
    pair.settle()
    pair.net.passes = lambda source, target, data: source != pair.near.source
    pair.near.post_reliable(b"x")
    began = pair.net.now
    pair.net.run(40, lambda: bool(pair.near.ended))
    assert pair.near.ended == ["the far end acknowledges nothing"]
    assert pair.net.now - began < 16


def test_new_keys_come_without_a_message_being_lost(pair):
    """Both ends go through several epochs, by time."""
    sent = []
    for tag in range(60):
        each = message(3_000, tag)
        sent.append(each)
        pair.near.post(each)
        pair.far.post(each)
        pair.net.run(10)
    assert pair.far.messages == sent
    assert pair.near.messages == sent
    assert pair.near.hop.dropped == pair.far.hop.dropped == (0, 0)
    assert pair.far.hop._opener.highest >> 22 >= 4
    assert pair.near.hop.loss == 0, "the counters skipped at a rekey are no loss"


def test_path_that_carries_no_datagrams_of_1200_bytes_ends_the_tether(make_pair):
    pair = make_pair()
    pair.net.mtu = 1_100
    pair.connect()
    pair.net.run(5)
    assert pair.near.ended == ["the path carries no datagrams of 1200 bytes"]
