"""Sizes of datagrams: what a path carries is found, by probes alone, and lost again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux_tether_udp.datagram import BASE_BYTES
from conflux_tether_udp.pmtu import MAX_PROBES, RAISE_S, STEP_BYTES, PathMtu, State

HEADERS = 28


class Prober:
    """Sends the probes of a PathMtu along a path that carries `carries` bytes."""

    def __init__(self, carries: int, ceiling: int = 1_472) -> None:
        self.now = 0.0
        self.carries = carries
        self.sent: list[int] = []
        self.mtu = PathMtu(ceiling, HEADERS, self.now)

    def run(self, seconds: float) -> PathMtu:
        ends = self.now + seconds
        while self.mtu.due <= ends:
            self.now = max(self.now, self.mtu.due)
            size = self.mtu.probe(0.02, self.now)
            if size is not None:
                self.sent.append(size)
                if size <= self.carries:
                    self.mtu.answered(size, self.now)
        self.now = ends
        return self.mtu


@given(st.integers(BASE_BYTES, 70_000), st.integers(BASE_BYTES, 65_507))
def test_size_found_is_carried_and_near_the_best(carries, ceiling):
    prober = Prober(carries, ceiling)
    mtu = prober.run(60)
    best = min(carries, ceiling)
    assert mtu.state is State.COMPLETE
    assert best - STEP_BYTES <= mtu.size <= best
    assert len(prober.sent) <= 60


@pytest.mark.parametrize("link", [1_280, 1_400, 1_420, 1_492, 1_500])
def test_usual_links_are_used_to_the_byte(link):
    assert Prober(link - HEADERS).run(60).size == link - HEADERS


def test_size_of_the_interface_is_tried_first():
    prober = Prober(8_972, 8_972)
    assert prober.run(0.01).size == 8_972
    assert prober.sent == [BASE_BYTES, 8_972]


def test_path_below_the_base_fails():
    prober = Prober(BASE_BYTES - 1)
    assert prober.run(10).state is State.FAILED
    assert len(prober.sent) == 10
    prober.run(10_000)
    assert len(prober.sent) == 10


def test_black_hole_is_left_for_the_base_and_a_smaller_size_found():
    prober = Prober(1_472)
    prober.run(1)
    prober.carries = 1_252
    mtu = prober.mtu
    mtu.doubt(prober.now)
    prober.run(0.5)
    assert mtu.size == BASE_BYTES
    assert prober.sent[2 : 2 + MAX_PROBES] == [1_472] * MAX_PROBES
    assert prober.run(10).size == 1_252


def test_doubt_that_proves_wrong_changes_nothing():
    prober = Prober(1_472)
    mtu = prober.run(1)
    for _ in range(5):
        mtu.doubt(prober.now)
        prober.run(1)
    assert (mtu.size, mtu.state) == (1_472, State.COMPLETE)
    assert prober.sent == [BASE_BYTES, 1_472] + [1_472] * 5


def test_doubt_while_doubting_starts_nothing_anew():
    prober = Prober(1_472)
    mtu = prober.run(1)
    prober.carries = 1_300
    for _ in range(40):
        mtu.doubt(prober.now)
        prober.run(0.01)
    assert mtu.size < 1_472


def test_size_in_use_is_confirmed_from_time_to_time():
    prober = Prober(1_472)
    mtu = prober.run(1)
    for _ in range(100):
        mtu.used(prober.now)
        prober.run(1)
    assert 8 <= prober.sent.count(1_472) <= 12


def test_path_that_grew_is_noticed_after_a_while():
    prober = Prober(1_400)
    assert prober.run(60).size <= 1_400
    prober.carries = 1_472
    assert prober.run(RAISE_S).size == 1_472


def test_confirming_does_not_put_off_the_next_search():
    prober = Prober(1_400)
    mtu = prober.run(60)
    prober.carries = 1_472
    for _ in range(int(RAISE_S)):
        mtu.used(prober.now)
        prober.run(1)
    assert mtu.size == 1_472


def test_refusal_by_the_system_is_final_at_once():
    prober = Prober(1_472)
    mtu = prober.run(1)
    mtu.refused(1_472, prober.now)
    assert mtu.size == BASE_BYTES
    prober.carries = 1_372
    assert prober.run(10).size == 1_372
    mtu.refused(BASE_BYTES, prober.now)
    assert mtu.size == 1_372


def test_refused_probe_moves_the_search_on():
    prober = Prober(8_972, 8_972)
    prober.mtu.answered(BASE_BYTES, 0.0)
    assert prober.mtu.probe(0.02, 0.0) == 8_972
    prober.mtu.refused(8_972, 0.0)
    prober.carries = 1_472
    assert prober.run(10).size == 1_472


def test_answer_to_what_was_never_asked_is_no_size():
    prober = Prober(1_472)
    prober.mtu.answered(60_000, 0.0)
    assert prober.mtu.size == BASE_BYTES


# The same, of a whole tether


def test_tether_uses_what_the_path_carries(make_pair):
    pair = make_pair()
    pair.net.mtu = 1_372
    pair.connect().settle(5)
    assert pair.near.hop.datagram_bytes == pair.far.hop.datagram_bytes == 1_372
    del pair.net.log[:]
    pair.near.post(bytes(20_000))
    pair.settle(0.1)
    assert pair.far.messages == [bytes(20_000)]
    assert max(len(data) for _, _, data in pair.net.log) == 1_372


def test_path_that_shrinks_under_bulk_traffic_carries_again_soon(pair):
    pair.settle()
    pair.net.mtu = 1_252
    began = pair.net.now
    pair.far.messages.clear()
    while not pair.far.messages:
        pair.near.post(bytes(40_000))
        pair.net.run(0.02)
        assert pair.net.now - began < 1.5
    pair.settle(5)
    assert pair.near.hop.datagram_bytes == 1_252


def test_path_that_shrinks_under_lone_packets_carries_again_soon(pair):
    """Nothing arrives, so nothing is reported: that alone says that something is wrong."""
    pair.settle()
    pair.net.mtu = 1_252
    began = pair.net.now
    pair.far.messages.clear()
    while not pair.far.messages:
        pair.near.post(bytes(1_400))
        pair.net.run(0.02)
        assert pair.net.now - began < 2.5


def test_loss_alone_does_not_shrink_datagrams(make_pair):
    pair = make_pair(seed=9).connect().settle()
    pair.net.loss = 0.05
    for _ in range(1_000):
        pair.near.post(bytes(pair.near.hop.unit_bytes()))
        pair.net.run(0.02)
        assert pair.near.hop.datagram_bytes == 1_472


def test_every_path_is_measured_anew(pair):
    pair.settle()
    pair.net.passes = lambda source, target, data: len(data) <= 1_300 or "10.0.0.77" not in target
    pair.far.move(("10.0.0.77", 5_000))
    pair.far.post(b"moved")
    pair.settle(10)
    assert pair.near.hop.datagram_bytes <= 1_300
    assert pair.near.hop.path.remote[0] == "10.0.0.77"
