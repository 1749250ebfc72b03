"""The reliable lane's halves against each other on links that lose, double and reorder."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conflux.api import WireError
from conflux_tether_udp.control import FIRST, LAST, MAX_SEGMENT_BYTES, Ack, Segment
from conflux_tether_udp.reliable import (
    DEAD_S,
    QUEUE_BYTES,
    RTO_MIN_S,
    WINDOW,
    ReliableIn,
    ReliableOut,
    RoundTrip,
)


class Link:
    """A sender and a receiver with a hostile link between them, in rounds of 10 ms."""

    def __init__(self, seed: int, *, loss: float, first: int = 0) -> None:
        self.chance = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.rtt = RoundTrip()
        self.out = ReliableOut(self.rtt)
        self.received: list[bytes] = []
        self.into = ReliableIn(lambda message: self.received.append(bytes(message)))
        self.out._next = self.into._next = first
        self.sent = 0
        self.most_in_flight = 0

    def round(self) -> None:
        self.now += 0.01
        if self.out.due is not None and self.now >= self.out.due:
            assert self.out.timed_out(self.now)
        segments = []
        while (segment := self.out.segment(MAX_SEGMENT_BYTES, self.now)) is not None:
            segments.append(segment)
        self.sent += len(segments)
        self.most_in_flight = max(self.most_in_flight, self.out._in_flight)
        self.chance.shuffle(segments)
        for segment in segments:
            for _ in range(self.chance.choice([1, 1, 1, 2])):
                if self.chance.random() >= self.loss:
                    self.into.segment(segment._replace(sequence=segment.sequence & 0xFFFFFFFF))
        if self.into.ack_due:
            ack = self.into.ack()
            if self.chance.random() >= self.loss:
                self.out.acknowledged(ack, self.now)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.02, 0.1]),
    st.lists(st.integers(0, 16_384), min_size=1, max_size=15),
    st.sampled_from([0, 2**32 - 5, 2**33 - 100]),
)
def test_every_message_arrives_once_and_in_order(seed, loss, sizes, first):
    link = Link(seed, loss=loss, first=first)
    sent = [random.Random(size).randbytes(size) for size in sizes]
    for message in sent:
        assert link.out.send(message, link.now)
    for _ in range(60_000):
        if link.received == sent and not link.out.held_bytes:
            break
        link.round()
    assert link.received == sent
    assert link.out.held_bytes == 0
    assert link.out.due is None
    assert link.most_in_flight <= WINDOW


def test_clean_link_sends_nothing_twice():
    link = Link(1, loss=0.0)
    link.chance.shuffle = lambda segments: None
    total = 0
    while link.out.send(bytes(16_384), link.now):
        total += 1
    for _ in range(100):
        link.round()
    assert len(link.received) == total
    assert link.sent == total * -(-16_384 // MAX_SEGMENT_BYTES)


def test_lost_segment_is_sent_again_before_any_timeout():
    out = ReliableOut(RoundTrip())
    out.send(bytes(6 * MAX_SEGMENT_BYTES), 0.0)
    segments = [out.segment(MAX_SEGMENT_BYTES, 0.0) for _ in range(6)]
    into = ReliableIn(lambda message: None)
    for segment in segments[1:]:
        into.segment(segment)
    out.acknowledged(into.ack(), 0.05)
    assert out.segment(MAX_SEGMENT_BYTES, 0.05) == segments[0]
    assert out.segment(MAX_SEGMENT_BYTES, 0.05) is None


def test_lone_segment_is_sent_again_after_the_timeout_later_and_later():
    rtt = RoundTrip()
    rtt.sample(0.01)
    out = ReliableOut(rtt)
    out.send(b"x", 0.0)
    out.segment(100, 0.0)
    times = []
    for _ in range(4):
        now = out.due
        assert out.timed_out(now)
        assert out.segment(100, now) is not None
        times.append(now)
    assert times[0] == pytest.approx(RTO_MIN_S)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 2 * RTO_MIN_S


def test_silence_is_the_end_after_a_bounded_time():
    out = ReliableOut(RoundTrip())
    out.send(b"x", 0.0)
    out.segment(100, 0.0)
    while out.timed_out(out.due):
        out.segment(100, out.due)
    assert DEAD_S <= out.due <= DEAD_S + 3.1


def test_long_quiet_before_a_message_is_no_silence():
    out = ReliableOut(RoundTrip())
    out.send(b"x", 0.0)
    out.segment(100, 0.0)
    out.acknowledged(Ack(1, b""), 0.1)
    out.send(b"y", 1_000.0)
    out.segment(100, 1_000.0)
    assert out.timed_out(1_001.0)


def test_wait_for_a_path_is_no_silence():
    out = ReliableOut(RoundTrip())
    out.send(b"x", 0.0)
    out.segment(100, 60.0)
    assert out.timed_out(61.0)


def test_window_halves_once_for_losses_of_one_flight():
    out = ReliableOut(RoundTrip())
    out._window = out._threshold = 64.0
    out.send(bytes(16_384), 0.0)
    for _ in range(3):
        out.send(bytes(16_384), 0.0)
    flight = [out.segment(MAX_SEGMENT_BYTES, 0.0) for _ in range(60)]
    into = ReliableIn(lambda message: None)
    for at, segment in enumerate(flight):
        if at % 10:
            into.segment(segment)
            out.acknowledged(into.ack(), 0.1)
    assert 30 <= out._window <= 40


def test_queue_is_bounded():
    out = ReliableOut(RoundTrip())
    taken = 0
    while out.send(bytes(1_000), 0.0):
        taken += 1_000
    assert 0.9 * QUEUE_BYTES < taken <= QUEUE_BYTES


def test_messages_cost_their_segments_even_when_empty():
    out = ReliableOut(RoundTrip())
    assert out.send(b"", 0.0)
    assert out.segment(0, 0.0) == Segment(0, FIRST | LAST, b"")


def test_number_of_empty_messages_is_bounded():
    out = ReliableOut(RoundTrip())
    taken = 0
    while out.send(b"", 0.0) and taken < 1_000_000:
        taken += 1
    assert taken < QUEUE_BYTES


def test_acknowledgement_of_what_was_never_sent_is_a_wire_error():
    out = ReliableOut(RoundTrip())
    out.send(bytes(5_000), 0.0)
    out.segment(MAX_SEGMENT_BYTES, 0.0)
    with pytest.raises(WireError):
        out.acknowledged(Ack(2, b""), 0.0)
    out.acknowledged(Ack(0xFFFF_FFFF, b""), 0.0)  # an old one
    out.acknowledged(Ack(1, b""), 0.0)
    assert out.held_bytes == 5_000 - MAX_SEGMENT_BYTES + 4 * 32
