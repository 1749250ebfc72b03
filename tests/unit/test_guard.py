"""conflux/anchor/guard.py and notary.py by themselves: stalls, leaves, a signer that fails."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.guard import STALL_S, Guard, Room
from conflux.anchor.notary import COVER_S, STRICT_SPAN, Notary, Witness
from conflux.anchor.timers import Timers
from conflux.api import WireError
from conflux.wire.frame import HEADER_BYTES

FRAME = memoryview(bytes(HEADER_BYTES + 30))


class Ends:
    """A Guard whose calls out are written down."""

    def __init__(self, *, is_strict=False):
        self.timers, self.counters, self.room = Timers(), Counter(), Room()
        self.called = []
        self.guard = Guard(
            self.timers, self.counters, self.room,
            transcript=bytes(32), stream_id=1, is_strict=is_strict,
            send=lambda message, now: None,
            deliver=lambda superframe: None,
            verify=lambda message, then, failed: None,
            on_forged=lambda now: self.called.append(("forged", now)),
            on_lapsed=lambda now: self.called.append(("lapsed", now)),
        )  # fmt: skip


def test_an_uncovered_frame_lapses_after_five_seconds():
    ends = Ends()
    assert ends.guard.opened(FRAME, 1, memoryview(b"\0"), 10.0)
    ends.timers.run(10.0 + COVER_S - 0.01)
    assert ends.called == []
    ends.timers.run(10.0 + COVER_S)
    assert ends.called == [("lapsed", 10.0 + COVER_S)]
    assert ends.timers.next_deadline() is None
    assert not ends.guard.opened(FRAME, 2, memoryview(b"\0"), 20.0)


def test_a_stall_of_this_host_is_not_held_against_the_peer():
    ends = Ends()
    ends.guard.opened(FRAME, 1, memoryview(b"\0"), 0.0)
    ends.timers.run(60.0)
    assert ends.called == []
    ends.timers.run(60.0 + STALL_S)
    assert ends.called == [("lapsed", 60.0 + STALL_S)]


def test_what_is_kept_back_is_given_back_at_the_end():
    ends = Ends(is_strict=True)
    assert not ends.guard.opened(FRAME, 1, memoryview(bytes(100)), 0.0)
    assert ends.room.held == 100
    ends.guard.stop()
    ends.guard.stop()
    assert ends.room.held == 0
    assert ends.counters["frames_left_uncovered"] == 1


class FailingWorld:
    def defer(self, work, then, failed):
        failed(WireError("no signer"), 3.0)


def test_a_stream_whose_leaf_cannot_be_signed_is_given_up():
    timers, counters, silent = Timers(), Counter(), []
    notary = Notary(FailingWorld(), counters, lambda: None)
    witness = Witness(
        timers, notary, transcript=bytes(32), stream_id=1, is_strict=True,
        send=lambda message, now: None, on_silent=silent.append,
    )  # fmt: skip
    witness.sealed(FRAME, 1, 2.0)
    timers.run(2.0)
    assert silent == [3.0]
    assert counters["checkpoint_not_signed"] == 1
    assert witness.uncovered == 0
    assert timers.next_deadline() is None


def test_more_than_can_be_signed_gives_the_stream_up(monkeypatch):
    monkeypatch.setattr("conflux.anchor.notary.MAX_UNSIGNED", 10)
    silent = []

    class Slow:
        def defer(self, work, then, failed):
            pass

    witness = Witness(
        Timers(), Notary(Slow(), Counter(), lambda: None), transcript=bytes(32), stream_id=1,
        is_strict=False, send=lambda message, now: None, on_silent=silent.append,
    )  # fmt: skip
    for counter in range(1, 30):
        witness.sealed(FRAME, counter, 0.0)
    assert silent == [0.0]
    assert witness.uncovered == 0


@given(st.sets(st.integers(1, 2_000), min_size=1), st.integers(1, 9))
def test_leaves_take_every_frame_once_in_order_and_span_no_more_than_they_may(counters, limit):
    class Never:
        def defer(self, work, then, failed):
            pass

    witness = Witness(
        Timers(), Notary(Never(), Counter(), lambda: None), transcript=bytes(32), stream_id=1,
        is_strict=True, send=lambda message, now: None, on_silent=lambda now: None,
    )  # fmt: skip
    witness._notary._is_signing = True
    for counter in sorted(counters):
        witness.sealed(FRAME, counter, 0.0)
    leaves = []
    while witness.has_pending:
        cut = witness.cut(limit)
        assert 0 < len(cut) <= limit
        leaves += [draft.leaf for draft in cut]
    assert [c for leaf in leaves for c in leaf.counters] == sorted(counters)
    assert all(leaf.counters[-1] - leaf.first < STRICT_SPAN for leaf in leaves)
    assert witness.uncovered == len(counters)
