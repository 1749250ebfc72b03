"""How long what is sent has to wait, on a simulated network: in our queue and in the path's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from conflux_tether_webrtc import congestion, lane
from conflux_tether_webrtc.lane import Lane

BINARY = 53
DEEP = 10_000_000
"""A queue of a path that drops nothing: what is called bufferbloat."""


@dataclass
class Waiting:
    data: bytes
    queued_at: float


def flood(path, size=1_400):
    """Queue what fits, always, and note when; return how long each that arrived took."""
    path.keep = False
    number = itertools.count()
    queued_at, took = {}, []

    def turn():
        while path.out.queued_bytes + size <= 262_144:
            key = next(number)
            queued_at[key] = path.now
            path.out.send(path.now, key.to_bytes(4, "big") + bytes(size - 4), 0, BINARY)

    def deliver(stream, ppid, data):
        path.delivered_bytes += len(data)
        took.append(path.now - queued_at.pop(int.from_bytes(data[:4], "big")))

    path.on_turn = turn
    path.into._deliver = deliver
    return took


class Reno:
    """A TCP flow inside the tether (RFC 5681, NewReno's rule of one loss a window), always busy.

    Segments are numbered messages; acknowledgements come back after *back_s*.
    """

    SEGMENT_BYTES = 1_400

    def __init__(self, path, back_s):
        self.arrived = 0
        self.took = []
        self._path = path
        self._back_s = back_s
        self._window, self._threshold = 10.0, 1e9
        self._next = self._acked = self._recovery = 0
        self._sent_at = {}
        self._due = []
        path.keep = False
        path.on_turn = self._turn
        path.into._deliver = self._deliver

    def _deliver(self, stream, ppid, data):
        number = int.from_bytes(data[:4], "big")
        self.arrived += 1
        self.took.append(self._path.now - self._sent_at[number])
        self._path._at(self._path.now + self._back_s, self._acknowledged, data[:4])

    def _acknowledged(self, data):
        number = int.from_bytes(data, "big")
        self._sent_at.pop(number)
        gone = [n for n in self._sent_at if n < number - 3]
        for n in gone:
            del self._sent_at[n]
        if gone and number >= self._recovery:
            self._window = self._threshold = max(self._window / 2, 2)
            self._recovery = self._next
        elif self._window < self._threshold:
            self._window += 1
        else:
            self._window += 1 / self._window

    def _turn(self):
        path = self._path
        while len(self._sent_at) < self._window:
            self._sent_at[self._next] = path.now
            data = self._next.to_bytes(4, "big") + bytes(self.SEGMENT_BYTES - 4)
            self._next += 1
            if path.out.queued_bytes + len(data) <= 262_144:
                path.out.send(path.now, data, 0, BINARY)


def median(values):
    return sorted(values)[len(values) // 2]


# The path's queue


@pytest.mark.parametrize(("rate", "delay_s"), [(1.25e5, 0.02), (1.25e6, 0.02), (3e6, 0.005)])
def test_path_s_own_queue_does_not_grow_however_long_it_is_kept_full(simulate, rate, delay_s):
    path = simulate(rate=rate, delay_s=delay_s, queue_bytes=DEEP)
    flood(path)
    path.run(20)
    before = path.delivered_bytes
    path.run(20)
    packet_s = 1_236 / rate
    ceiling_s = 2 * (2 * delay_s + packet_s) + congestion.DELAY_CEILING_S
    least_s = congestion.LEAST_WINDOW_BYTES / rate
    assert path.out.srtt < 1.2 * (ceiling_s + least_s)
    assert path.delivered_bytes - before > 0.85 * 20 * rate


def test_path_that_got_longer_is_believed(simulate):
    path = simulate(rate=2e6, delay_s=0.005, queue_bytes=DEEP)
    flood(path)
    path.run(10)
    path._delay_s = 0.05
    path.run(20)
    before = path.delivered_bytes
    path.run(10)
    assert path.delivered_bytes - before > 0.85 * 10 * 2e6


@pytest.mark.parametrize("size", [60, 100])
def test_small_messages_in_packets_that_overtake_each_other_are_not_taken_for_lost(simulate, size):
    path = simulate(rate=12.5e6, jitter_s=0.0003, queue_bytes=DEEP)
    flood(path, size)
    path.run(1)
    assert path.out.loss < 1e-6
    assert path.delivered_bytes > 0.5 * 1 * 12.5e6


# Our queue


@pytest.mark.parametrize("rate", [1.25e5, 6.25e5, 1.25e6])
def test_flood_waits_no_longer_than_is_of_use(simulate, rate):
    path = simulate(rate=rate, queue_bytes=DEEP)
    took = flood(path)
    path.run(20)
    late = took[len(took) // 2 :]
    assert max(late) < lane.MOST_WAIT_S + 2 * path.out.srtt
    assert path.out.dropped > 0


@pytest.mark.parametrize("rate", [1.25e5, 1.25e6, 2.5e6])
def test_tcp_inside_fills_the_path_and_waits_little(simulate, rate):
    path = simulate(rate=rate, queue_bytes=DEEP)
    tcp = Reno(path, back_s=0.01)
    path.run(5)
    before, took = tcp.arrived, len(tcp.took)
    path.run(10)
    assert (tcp.arrived - before) * tcp.SEGMENT_BYTES > 0.8 * 10 * rate
    assert median(tcp.took[took:]) < path.out.srtt + 0.05


def test_lone_message_is_never_dropped():
    queue = Lane()
    for second in range(100):
        queue.append(Waiting(b"x", float(second)))
        assert queue.take(second + 60.0, 0.0) is not None
    assert queue.dropped == 0


def test_burst_that_drains_within_an_interval_is_kept_whole():
    queue = Lane()
    for _ in range(20):
        queue.append(Waiting(b"x", 0.0))
    taken = [queue.take(0.02 + at * lane.INTERVAL_S / 20, 0.0) for at in range(20)]
    assert None not in taken
    assert queue.dropped == 0


def test_standing_queue_is_dropped_from_ever_faster_until_it_stands_no_more():
    queue = Lane()
    drops = []
    for step in range(2_000):
        now = step / 1_000
        queue.clear()
        queue.extend(Waiting(b"x", now - 0.05) for _ in range(9))
        before = queue.dropped
        queue.take(now, 0.0)
        drops += [now] * (queue.dropped - before)
    gaps = [later - sooner for sooner, later in itertools.pairwise(drops)]
    assert drops[0] == pytest.approx(lane.INTERVAL_S, abs=0.002)
    assert gaps[0] == pytest.approx(lane.INTERVAL_S, abs=0.002)
    assert median(gaps[-5:]) < lane.INTERVAL_S / 3
    queue.clear()
    queue.append(Waiting(b"x", 3.0))
    queue.append(Waiting(b"x", 3.0))
    before = queue.dropped
    assert queue.take(3.001, 0.0) is not None
    assert queue.dropped == before


def test_longer_round_trip_leaves_tcp_the_time_to_hear_of_a_drop():
    queue = Lane()
    for _ in range(50):
        queue.append(Waiting(b"x", 0.0))
    for step in range(40):
        queue.take(0.02 + step / 100, 0.5)
    assert queue.dropped == 0
