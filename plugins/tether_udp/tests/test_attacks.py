"""Whoever lacks the keys gets nothing out of a tether, and nothing into it."""

from __future__ import annotations

import random

import pytest

from conflux.api import WireError
from conflux_tether_udp import control
from conflux_tether_udp.control import (
    FIRST,
    LAST,
    Ack,
    Challenge,
    Close,
    Response,
    Segment,
)
from conflux_tether_udp.datagram import HEADER_BYTES, Kind, single
from conflux_tether_udp.reassembly import MAX_HELD_BYTES, MAX_PARTIAL

NEAR, FAR = ("10.0.0.1", 4_000), ("10.0.0.2", 4_000)
STRANGER = ("203.0.113.66", 6_666)


def sent_by(pair, address):
    return [data for source, _, data in pair.net.log if source == address]


@pytest.fixture
def quiet(pair):
    """A pair that has nothing to say of its own accord for a while."""
    pair.settle(4)
    del pair.net.log[:]
    return pair


def test_stranger_gets_no_answer_whatever_he_sends(quiet):
    chance = random.Random(1)
    near = quiet.near
    genuine_size = 60
    for _ in range(300):
        noise = near.id + chance.randbytes(chance.randrange(genuine_size))
        quiet.net.deliver(STRANGER, NEAR, noise)
        quiet.net.deliver(FAR, NEAR, noise)
    quiet.net.run(0.2)
    assert sent_by(quiet, NEAR) == []
    assert near.messages == []
    assert near.hop.path.remote == FAR


def test_replayed_datagrams_are_dropped_and_counted(quiet):
    quiet.far.post(b"once")
    quiet.far.post(bytes(5_000))
    copies = sent_by(quiet, FAR)
    quiet.net.run(0.3)
    for data in copies:
        quiet.net.deliver(FAR, NEAR, data)
    quiet.net.run(1)
    assert quiet.near.messages == [b"once", bytes(5_000)]
    assert quiet.near.hop.dropped[0] == len(copies)


def test_reflected_datagrams_are_dropped(quiet):
    quiet.near.post(b"mine")
    own = bytearray(sent_by(quiet, NEAR)[0])
    quiet.net.deliver(FAR, NEAR, bytes(own))
    own[:8] = quiet.near.id  # readdressed to its own sender
    quiet.net.deliver(FAR, NEAR, bytes(own))
    quiet.net.run(0.3)
    assert quiet.near.messages == []
    assert quiet.near.hop.dropped == (0, 1)


@pytest.mark.parametrize("size", [10, 5_000])
def test_every_changed_bit_of_a_message_is_noticed(quiet, size):
    quiet.net.passes = lambda source, target, data: False
    quiet.far.post(bytes(size))
    datagrams = sent_by(quiet, FAR)
    chance = random.Random(2)
    for _ in range(200):
        victim = chance.randrange(len(datagrams))
        bad = [bytearray(data) for data in datagrams]
        bad[victim][chance.randrange(8, len(bad[victim]))] ^= 1 << chance.randrange(8)
        for data in bad:
            quiet.net.deliver(FAR, NEAR, bytes(data))
    assert quiet.near.messages in ([], [bytes(size)]), "damage of an index may be undone by a copy"
    quiet.net.run(1)
    for data in datagrams:
        quiet.net.deliver(FAR, NEAR, data)
    assert quiet.near.messages == [bytes(size)], "noise moves no window"


def test_forged_counters_far_ahead_keep_nothing_out(quiet):
    """Whoever sees the id may inject pieces: that spoils what it touches, not what comes later."""
    for counter in (1 << 40, (1 << 48) - 1, 10_000):
        for index in range(3):
            header = quiet.near.id + counter.to_bytes(6, "big") + bytes((index, 40))
            quiet.net.deliver(STRANGER, NEAR, header + bytes(1_000))
    quiet.net.run(1)
    quiet.far.post(bytes(9_000))
    quiet.net.run(1)
    assert quiet.near.messages == [bytes(9_000)]


def test_flood_of_pieces_holds_a_bounded_amount_of_memory(quiet):
    for counter in range(1, 3_000):
        header = quiet.near.id + (1_000 + counter).to_bytes(6, "big") + bytes((0, 63))
        quiet.net.deliver(STRANGER, NEAR, header + bytes(1_100))
    reassembly = quiet.near.hop._arrivals._reassembly
    assert reassembly._held_bytes <= MAX_HELD_BYTES
    assert len(reassembly._partial) <= MAX_PARTIAL
    quiet.net.run(1)
    assert reassembly._held_bytes == 0


def test_end_that_does_not_know_the_secret_connects_to_nobody(make_pair):
    pair = make_pair()
    pair.far.start(pair.near, is_offerer=False, secret=bytes(32))
    pair.near.start(pair.far, is_offerer=True)
    pair.net.run(20)
    assert not pair.near.is_ready
    assert not pair.far.is_ready
    assert pair.near.hop.dropped[1] > 0


# A neighbour that holds the keys and breaks the rules


def say(quiet, items: bytes, kind: Kind = Kind.CONTROL) -> None:
    """Have the far end send *items* as if it were written by somebody else."""
    far = quiet.far.hop
    quiet.net.deliver(FAR, NEAR, single(far._sealer, quiet.near.id, kind, items, quiet.net.now))


@pytest.mark.parametrize(
    "items",
    [
        b"\x07",
        b"\xff",
        Challenge(bytes(8)).encode()[:-1],
        Segment(0, 4 | FIRST | LAST, b"x").encode(),
        Segment(0, LAST, b"x").encode(),
        Segment(0, FIRST, b"").encode(),
        Segment(0, FIRST, b"x").encode() + Segment(1, FIRST, b"x").encode(),
        b"".join(Segment(i, int(i == 0), bytes(1_160)).encode() for i in range(16)),
        Ack(5, b"").encode(),
        Ack(0, b"\xff").encode(),
        Segment(0, FIRST | LAST, b"xy").encode()[:-1],
        Ack(0, bytes(3)).encode()[:-1],
    ],
)
def test_broken_rules_end_the_tether_with_a_reason(quiet, items):
    say(quiet, items)
    if items == Ack(0, b"\xff").encode():
        assert not quiet.near.ended, "bits for what was not sent mean nothing"
        return
    assert len(quiet.near.ended) == 1
    assert "broke the rules" in quiet.near.ended[0]
    assert quiet.near.post(b"late") == 0


def test_segments_beyond_the_window_are_not_kept(quiet):
    say(quiet, Segment(256, FIRST | LAST, b"beyond").encode())
    say(quiet, Segment(0xFFFF_FFFF, FIRST | LAST, b"before").encode())
    assert quiet.near.hop._in._early == {}
    say(quiet, Segment(255, FIRST | LAST, b"within").encode())
    assert list(quiet.near.hop._in._early) == [255]
    assert quiet.near.reliables == []


def test_response_that_nobody_asked_for_is_ignored(quiet):
    say(quiet, Response(bytes(8)).encode())
    quiet.net.run(0.2)
    assert not quiet.near.ended
    assert quiet.near.hop.path.remote == FAR


def test_nothing_behind_a_close_is_read(quiet):
    say(quiet, Close().encode() + Segment(0, FIRST | LAST, b"x").encode())
    assert quiet.near.ended == ["the far end closed the tether"]
    assert quiet.near.reliables == []


def test_datagram_full_of_challenges_is_answered_once(quiet):
    say(quiet, Challenge(bytes(8)).encode() * 100)
    (answer,) = sent_by(quiet, NEAR)
    assert len(answer) == HEADER_BYTES + 9 + 16


def test_control_items_are_read_strictly():
    with pytest.raises(WireError):
        list(control.read(memoryview(b"\x09")))
    assert list(control.read(memoryview(b"\0\x09"))) == [], "what pads is not read"
