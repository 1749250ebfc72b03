"""conflux/wire/replay.py against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conflux.wire.replay import WINDOW, ReplayWindow

steps = st.one_of(
    st.integers(-3, 3),
    st.integers(-WINDOW - 20, -WINDOW + 20),
    st.integers(WINDOW - 20, WINDOW + 20),
    st.integers(-200_000, 200_000),
)


@given(st.lists(steps, max_size=200))
def test_window_agrees_with_a_set_of_all_that_was_seen(moves):
    window, marked, highest = ReplayWindow(), set(), 0
    for move in moves:
        counter = max(0, highest + move)
        expected = counter == 0 or counter in marked or counter <= highest - WINDOW
        assert window.seen(counter) is expected
        if not expected:
            window.mark(counter)
            marked.add(counter)
            highest = max(highest, counter)
        assert window.highest == highest
        assert window.seen(counter)


def test_every_counter_of_the_window_is_told_apart():
    window = ReplayWindow()
    top = 3 * WINDOW + 5
    window.mark(top)
    inside = range(top - WINDOW + 1, top)
    assert not any(window.seen(counter) for counter in inside)
    for counter in inside:
        window.mark(counter)
    assert all(window.seen(counter) for counter in range(top + 1))
    assert not window.seen(top + 1)


def test_a_jump_to_the_largest_counter_costs_no_more_than_any_other():
    window = ReplayWindow()
    window.mark(1)
    window.mark(2**64 - 1)
    assert window.seen(1)
    assert not window.seen(2**64 - 2)
