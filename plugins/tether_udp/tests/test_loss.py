"""What the path loses is measured at the far end, and messages become as long as that allows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux_tether_udp.control import Report
from conflux_tether_udp.loss import UNIT_GAIN, Loss
from conflux_tether_udp.tally import Tally

MOST = 44


def feed(pair, seconds: float, messages_at_once: int = 8) -> None:
    for _ in range(int(seconds / 0.02)):
        for _ in range(messages_at_once):
            pair.near.post(bytes(pair.near.hop.unit_bytes()))
        pair.net.run(0.02)


@pytest.mark.parametrize("loss", [0.001, 0.01])
def test_losses_that_are_repaired_leave_messages_long(make_pair, loss):
    pair = make_pair(seed=1, delay_s=0.005).connect().settle()
    pair.net.loss = loss
    feed(pair, 10)
    assert pair.near.hop.unit_bytes() > 30 * 1_456
    assert pair.near.hop.loss == pytest.approx(loss, rel=0.5), "what is repaired was lost"


@pytest.mark.parametrize(("loss", "longest"), [(0.001, 14), (0.01, 4), (0.05, 2), (0.3, 1)])
def test_random_loss_makes_messages_shorter_where_repair_would_take_too_long(
    make_pair, loss, longest
):
    pair = make_pair(seed=1, delay_s=0.1).connect().settle()
    feed(pair, 1)
    assert pair.near.hop.unit_bytes() == MOST * 1_456 - 16
    pair.net.loss = loss
    feed(pair, 10)
    datagrams = (pair.near.hop.unit_bytes() + 16) // (pair.near.hop.datagram_bytes - 16)
    assert 1 <= datagrams <= longest
    assert pair.near.hop.loss == pytest.approx(loss, rel=0.5)
    assert pair.far.hop.loss == 0, "it is measured by direction"


def test_messages_grow_again_when_the_loss_is_over(make_pair):
    pair = make_pair(seed=2, delay_s=0.1).connect().settle()
    pair.net.loss = 0.05
    feed(pair, 5)
    assert pair.near.hop.unit_bytes() < 5 * 1_456
    pair.net.loss = 0.0
    feed(pair, 60, messages_at_once=2)
    assert pair.near.hop.unit_bytes() > 20 * 1_456


def test_whole_messages_that_vanish_in_one_piece_do_not_make_them_shorter(make_pair):
    """Batches that overflow a queue go together: smaller ones would fare no better."""
    pair = make_pair(seed=3, delay_s=0.005).connect().settle()
    kept: dict[bytes, bool] = {}

    def passes(source, target, data):
        if len(data) < 500:
            return True
        return kept.setdefault(data[:14], pair.net.chance.random() > 0.2)

    pair.net.passes = passes
    feed(pair, 5)
    assert pair.near.hop.unit_bytes() > 20 * 1_456


def test_what_the_receiver_has_no_room_for_is_not_the_paths_loss(make_pair):
    pair = make_pair(seed=4, delay_s=0.005).connect().settle()
    pair.net.loss = 0.1

    def passes(source, target, data):
        pair.far.dropped_here += 1
        return True

    pair.net.passes = passes
    feed(pair, 3)
    assert pair.near.hop.loss == 0


def test_probes_of_sizes_that_do_not_get_through_are_not_counted(make_pair):
    pair = make_pair(delay_s=0.005)
    pair.net.mtu = 1_290
    pair.connect()
    feed(pair, 5, messages_at_once=1)
    assert pair.near.hop.datagram_bytes >= 1_270
    assert pair.near.hop.loss < 0.001


def test_unit_of_a_clean_path_leaves_in_one_system_call(pair):
    pair.settle()
    unit = pair.near.hop.unit_bytes()
    assert unit == 44 * 1_456 - 16
    assert 44 * 1_472 <= 65_507 < 45 * 1_472


def test_unit_of_a_large_path_is_one_datagram(make_pair):
    pair = make_pair()
    pair.net.mtu = pair.near.ceiling = pair.far.ceiling = 65_507
    pair.connect().settle(1)
    assert pair.near.hop.unit_bytes() == 65_507 - 32


@given(st.floats(0, 1), st.integers(1, 64))
def test_unit_is_never_none_and_never_beyond_the_limit(share, most):
    loss = Loss(0.0)
    loss._lost, loss._sent, loss._missing = share * 1_000, 1_000.0, 1_000.0
    unit = loss.unit(most)
    assert 1 <= unit <= most
    if share:
        assert unit <= max(1, UNIT_GAIN / math.sqrt(share)) + 1e-9 or unit == most


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 8), max_size=12))
def test_any_report_gives_a_share(reports):
    """A far end may say what it likes: it harms its own traffic at most."""
    loss = Loss(0.0)
    for at, values in enumerate(reports):
        loss.report(Report(*values), float(at))
        assert 0 <= loss.unrepaired <= loss.share <= 1
        assert 0 <= loss.fresh <= 1


def test_reports_count_modulo_2_32():
    loss = Loss(0.0)
    wrap = 2**32
    loss.report(Report(wrap - 10, wrap - 10, 0, 0, wrap - 100, 0, 0, 0), 0.0)
    assert loss.report(Report(990, 890, 0, 100, 8_900, 1_000, 0, 0), 0.1)
    assert loss.share == pytest.approx(1_000 / (200 + 9_000 + 1_000), rel=0.01)


def test_report_that_is_overtaken_is_ignored():
    loss = Loss(0.0)
    loss.report(Report(0, 0, 0, 0, 0, 0, 0, 0), 0.0)
    assert loss.report(Report(100, 100, 100, 0, 100, 0, 0, 0), 0.1)
    assert not loss.report(Report(50, 40, 40, 0, 40, 0, 0, 0), 0.2)
    assert loss.share == 0


def test_counters_skipped_at_a_rekey_are_not_missed():
    tally = Tally()
    for counter in (1, 2, 4):
        tally.arrived(counter, 1)
    epoch = 1 << 22
    for counter in (epoch + 1, epoch + 2, 3):
        tally.arrived(counter, 1)
    assert tally.whole == 6
    assert tally.report(0, 0).expected == 4 + 3
    assert tally.report(2, 0).expected == 5
