"""Reports: the bytes, what a receiver puts in them, what a sender makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.health import Health
from conflux.anchor.ledger import Ledger
from conflux.anchor.tally import REPEATS, Tally
from conflux.api import WireError
from conflux.wire.replay import WINDOW, ReplayWindow
from conflux.wire.report import MAX_BITMAP_BYTES, Report

u64 = st.integers(0, 2**64 - 1)


@st.composite
def reports(draw):
    highest = draw(st.integers(1, 2**64 - 1))
    size = draw(st.integers(1, min(MAX_BITMAP_BYTES, (highest >> 3) + 1)))
    bitmap = bytearray(draw(st.binary(min_size=size, max_size=size)))
    top = highest & 7
    bitmap[-1] = bitmap[-1] & ((1 << top) - 1) | 1 << top
    if (highest >> 3) - size + 1 == 0:
        bitmap[0] &= 0xFE
    return Report(draw(u64), highest, draw(st.integers(0, 2**32 - 1)), bytes(bitmap))


# Bytes


@given(reports())
def test_what_is_encoded_decodes_to_the_same(report):
    assert Report.decode(report.encode()) == report


@given(reports(), st.data())
def test_every_cut_and_every_tail_is_refused(report, data):
    encoded = report.encode()
    with pytest.raises(WireError):
        Report.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(WireError):
        Report.decode(encoded + b"\0")


@given(st.binary(max_size=120))
def test_noise_gives_wire_error_or_a_report_of_the_same_bytes(noise):
    try:
        report = Report.decode(noise)
    except WireError:
        return
    assert report.encode() == noise


@pytest.mark.parametrize(
    ("highest", "bitmap", "why"),
    [
        (0, b"\x01", "counter 0 is never used"),
        (9, b"", "no bitmap"),
        (9, b"\x01", "the highest counter is not set"),
        (9, b"\x06", "a counter above the highest is set"),
        (9, b"\x03\x02", "counter 0 is set"),
        (9, b"\x00\x00\x02", "it begins below counter 0"),
        (10**6, bytes(MAX_BITMAP_BYTES) + b"\x01", "too long"),
    ],
)
def test_impossible_reports_are_refused(highest, bitmap, why):
    with pytest.raises(WireError):
        Report.decode(Report(7, highest, 0, bitmap).encode())


def test_the_worked_example_of_the_specification():
    encoded = Report(0x1122334455667788, 19, 25_000, bytes((0xFE, 0xFF, 0x0B))).encode()
    assert encoded.hex() == "1122334455667788 0000000000000013 000061a8 0003 feff0b".replace(
        " ", ""
    )
    report = Report.decode(encoded)
    assert [c for c in range(1, 20) if not report.has(c)] == [18]


# The receiver


@given(st.lists(st.lists(st.integers(1, 4_000), max_size=60), min_size=1, max_size=12))
def test_every_frame_is_named_by_the_next_report_and_the_ones_after(batches):
    window, tally = ReplayWindow(), Tally()
    arrived: set[int] = set()
    recent: list[set[int]] = []
    for batch in batches:
        fresh = set()
        for counter in batch:
            if not window.seen(counter):
                window.mark(counter)
                tally.note(counter, b"", 1.0)
                fresh.add(counter)
        if not fresh:
            assert not tally.is_due
            continue
        above = max(arrived, default=0)
        arrived |= fresh
        report = Report.decode(tally.report(7, window, now=1.0).encode())
        named = {c for c in range(report.first, report.highest + 1) if report.has(c)}
        assert named <= arrived
        assert report.highest == max(arrived)
        # What came in late is named once, everything else in several reports in a row.
        recent.append({counter for counter in fresh if counter > above})
        assert fresh.union(*recent[-REPEATS:]) <= named


def test_only_the_first_frame_since_a_report_makes_one_due():
    window, tally = ReplayWindow(), Tally()
    for counter in (1, 2, 3):
        window.mark(counter)
    assert [tally.note(counter, b"", 0.0) for counter in (1, 2, 3)] == [True, False, False]
    tally.report(7, window, now=0.025)
    assert tally.note(4, b"", 0.1)


def test_a_report_says_how_long_the_highest_counter_has_waited():
    window, tally = ReplayWindow(), Tally()
    for counter, time in ((1, 10.0), (5, 10.01), (3, 10.02)):
        window.mark(counter)
        tally.note(counter, b"", time)
    report = tally.report(7, window, now=10.025)
    assert (report.highest, report.held_us) == (5, pytest.approx(15_000, abs=1))


def test_a_report_stays_within_its_bounds_however_many_frames_came():
    window, tally = ReplayWindow(), Tally()
    for counter in range(1, 100_000):
        window.mark(counter)
        tally.note(counter, b"", 0.0)
    report = Report.decode(tally.report(7, window, now=0.0).encode())
    assert len(report.bitmap) == MAX_BITMAP_BYTES
    assert report.highest == 99_999


@given(st.sets(st.integers(1, 3 * WINDOW), min_size=1, max_size=80), st.data())
def test_a_slice_of_the_replay_window_shows_exactly_what_was_marked(counters, data):
    window, marked = ReplayWindow(), set()
    for counter in data.draw(st.permutations(sorted(counters))):
        if not window.seen(counter):
            window.mark(counter)
            marked.add(counter)
    last = data.draw(st.integers(max(1, window.highest - WINDOW // 2), window.highest))
    first = data.draw(st.integers(max(1, last - 4_000), last))
    bits = window.slice(first, last, limit=1_024)
    start = ((last >> 3) - len(bits) + 1) << 3
    shown = {start + n for n in range(8 * len(bits)) if bits[n >> 3] >> (n & 7) & 1}
    assert shown == {c for c in marked if start <= c <= last}
    assert start <= first


# The sender


class Way:
    """Stands for a route: all that a ledger does with one is tell it from others."""


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=80),
    st.lists(st.sets(st.integers(1, 400)), max_size=6),
    st.integers(0, 100),
)
def test_a_ledger_frees_what_is_reported_and_only_that(frames, said, dropped):
    ledger, routes = Ledger(), [Way(), Way()]
    held: dict[int, int] = {}
    counter, slots = 0, 0
    for skipped, which in frames:
        counter += skipped + 1
        slots += ledger.keep(counter, bytearray(10 + counter), routes[which], float(counter))
        held[counter] = 10 + counter
        assert ledger.slots == slots
    for _ in range(min(dropped, ledger.slots)):
        frame, _ = ledger.drop_oldest()
        if frame is not None:
            del held[len(frame) - 10]
    for named in said:
        below = {c for c in named if c < ledger.end}
        if not below:
            continue
        highest = max(below)
        bits = bytearray((highest >> 3) + 1)
        for c in below:
            bits[c >> 3] |= 1 << (c & 7)
        heard, freed = ledger.take_reported(Report(1, highest, 0, bytes(bits)), 0.0)
        expected = [c for c in below if c in held]
        assert freed == sum(held.pop(c) for c in expected)
        assert sum(h.count for h in heard.values()) == len(expected)
    assert ledger.forget() == sum(held.values())


def test_a_frame_sent_again_is_credited_to_nobody_once_its_copy_may_have_arrived():
    ledger, first, second = Ledger(), Way(), Way()
    for counter in (1, 2):
        ledger.keep(counter, bytearray(9), first, 1.0)
    ledger.send_again(first, until=3.0)
    for again in ledger.again.values():
        again.route, again.told_apart_until = second, 2.0
    heard, freed = ledger.take_reported(Report(1, 1, 0, b"\x02"), 1.9)
    assert (list(heard), freed) == ([first], 9)
    heard, freed = ledger.take_reported(Report(1, 2, 0, b"\x06"), 2.1)
    assert (list(heard), freed) == ([], 9)


def test_the_bound_is_srtt_and_four_deviations_and_50_ms_but_not_below_the_floor():
    health = Health()
    assert health.bound_s(None, 0.0) == pytest.approx(3.05)
    assert health.bound_s(0.04, 0.0) == pytest.approx(0.04 + 4 * 0.02 + 0.05)
    for _ in range(100):
        health.measured(0.1)
    assert health.bound_s(0.04, 0.0) == pytest.approx(0.15)
    assert health.bound_s(0.04, 0.25) == 0.25


@pytest.mark.parametrize(
    ("times", "overdue_at"),
    [
        ([0.0], None),
        ([0.0, 0.01, 0.02, 0.03, 0.04], None),
        ([0.0, 0.2, 0.4], None),
        ([0.0, 0.2, 0.4, 0.6], 0.6),
        ([n / 100 for n in range(20)], 0.08),
    ],
)
def test_a_route_is_condemned_by_four_frames_over_75_ms(times, overdue_at):
    assert Health(doubts=times).overdue_at() == overdue_at
