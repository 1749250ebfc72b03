"""What `make bench` makes of its figures: medians, goals, tables, the picture, the page."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.compare.figures import (
    FIGURES,
    GOALS,
    Entry,
    Failure,
    Results,
    at_least,
    at_most,
    judge,
)
from benches.compare.picture import draw
from benches.compare.report import BEGIN, END, TABLES, put_into, render

SVG = "{http://www.w3.org/2000/svg}"

figures = st.dictionaries(st.sampled_from(sorted(FIGURES)), st.floats(0, 1e9), max_size=6)
names = st.sampled_from(["veth", "conflux-udp", "n2n"])


def results(*rounds: dict[str, dict[str, float]], absent: str = "") -> Results:
    rows = {name: None for measured in rounds for name in measured}
    entries = [Entry(name, f"label of {name}", "1.0") for name in rows]
    if absent:
        entries.append(Entry("n2n", "n2n", absent=absent))
    return Results("2026-01-01", "whole", {"processor": "a, 2 cores"}, entries, rounds=list(rounds))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 (drawn here)


def only(goal, *rounds):
    return judge(results(*rounds), [goal])[0]


def test_a_figure_is_the_median_of_the_rounds_that_have_it_and_their_range():
    measured = results({"a": {"cpu": 9.0}}, {}, {"a": {"cpu": 1.0}}, {"a": {"cpu": 3.0}})
    spread = measured.spread("a", "cpu")
    assert spread is not None
    assert (spread.median, spread.low, spread.high) == (3.0, 1.0, 9.0)


def test_nothing_lost_means_in_no_round():
    (goal,) = (goal for goal in GOALS if goal.key == "cold_lost")
    rounds = [{goal.product: {"cold_lost": lost}} for lost in (0.0, 0.0, 1.0)]
    assert only(goal, *rounds[:2]).is_met
    assert not only(goal, *rounds).is_met


def test_what_no_round_has_is_no_figure():
    assert results({"a": {"cpu": 1.0}}).spread("a", "cold") is None
    assert results({"a": {"cpu": 1.0}}).spread("b", "cpu") is None


def test_a_goal_compares_medians_and_shows_the_ratios_of_single_rounds():
    verdict = only(
        at_least("", "a", "tcp1_there", 2.0, "b"),
        {"a": {"tcp1_there": 40.0}, "b": {"tcp1_there": 10.0}},
        {"a": {"tcp1_there": 20.0}, "b": {"tcp1_there": 20.0}},
        {"a": {"tcp1_there": 30.0}, "b": {"tcp1_there": 15.0}},
    )
    assert verdict.value is not None
    assert (verdict.value.median, verdict.value.low, verdict.value.high) == (2.0, 1.0, 4.0)
    assert verdict.is_met


@pytest.mark.parametrize(("goal", "mine", "is_met"), [
    (at_least("", "a", "udp64", 1.5, "b"), 15.0, True),
    (at_least("", "a", "udp64", 1.5, "b"), 14.9, False),
    (at_most("", "a", "rtt_p50", 0.7, "b"), 7.0, True),
    (at_most("", "a", "rtt_p50", 0.7, "b"), 7.1, False),
    (at_most("", "a", "cold", 50.0), 50.0, True),
    (at_most("", "a", "cold", 50.0), 50.1, False),
])  # fmt: skip
def test_a_goal_is_met_up_to_its_bound_and_not_beyond(goal, mine, is_met):
    assert only(goal, {"a": {goal.key: mine}, "b": {goal.key: 10.0}}).is_met is is_met


def test_of_several_rivals_the_best_counts():
    measured = {"a": {"udp1200": 30.0, "cpu": 2.0}}
    measured |= {"b": {"udp1200": 10.0, "cpu": 1.0}, "c": {"udp1200": 20.0, "cpu": 4.0}}
    more = only(at_least("", "a", "udp1200", 1.0, "b", "c"), measured)
    less = only(at_most("", "a", "cpu", 1.0, "b", "c"), measured)
    assert more.value is not None
    assert less.value is not None
    assert (more.rival, more.value.median) == ("c", 1.5)
    assert (less.rival, less.value.median) == ("b", 2.0)


@pytest.mark.parametrize("measured", [
    {"a": {"udp64": 1.0}},
    {"b": {"udp64": 1.0}},
    {"a": {"udp64": 1.0}, "b": {"udp64": 0.0}},
])  # fmt: skip
def test_a_goal_with_a_side_missing_is_neither_met_nor_missed(measured):
    verdict = only(at_least("", "a", "udp64", 1.0, "b"), measured)
    assert verdict.value is None
    assert verdict.is_met is None


def test_every_goal_of_the_project_speaks_of_figures_that_are_measured():
    for goal in GOALS:
        assert goal.key in FIGURES
        assert goal.against_key in {"", *FIGURES}


def test_every_table_has_headings_for_its_figures():
    assert {key for keys in TABLES.values() for key in keys} <= FIGURES.keys()


@given(st.lists(st.dictionaries(names, figures), max_size=4), st.text(), st.text())
def test_results_survive_their_file(rounds, text, reason):
    before = results(*rounds, absent=reason)
    before.products.extend(Entry(n, text) for n in ("veth", "conflux-udp"))
    before.failures.append(Failure(1, "veth", "whole", reason))
    assert Results.from_json(before.to_json()) == before


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_a_file_of_something_else_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 (whatever it says)
        Results.from_json(text)


@pytest.mark.parametrize("change", [
    {"format": 2},
    {"products": [{"nome": "a"}]},
    {"rounds": [{"stranger": {}}]},
    {"rounds": [{"a": {"no such figure": 1.0}}]},
    {"rounds": [{"a": {"cpu": "1.0"}}]},
    {"more": 1},
])  # fmt: skip
def test_a_file_that_is_wrong_in_one_place_is_a_value_error(change):
    good = json.loads(results({"a": {"cpu": 1.0}}).to_json())
    Results.from_json(json.dumps(good))
    with pytest.raises(ValueError):  # noqa: PT011 (whatever it says)
        Results.from_json(json.dumps(good | change))


def test_a_cell_holds_the_median_and_the_range():
    text = render(results(*({"a": {"tcp1_there": n}} for n in (1000.0, 1250.4, 3000.0))))
    row = next(line for line in text.splitlines() if line.startswith("| label of a"))
    assert re.split(r" *\| *", row)[2] == "1,250 (1,000\u20133,000)"


def test_what_is_absent_or_failed_is_named_with_the_reason():
    measured = results({"a": {"tcp1_there": 1.0}}, absent="no such package")
    measured.failures.append(Failure(3, "a", "loss", "nft said no"))
    text = render(measured)
    assert re.search(r"^\| n2n +\| absent", text, re.MULTILINE)
    assert "- absent: n2n: no such package" in text
    assert "- failed: a, loss, round 3: nft said no" in text


def test_a_goal_that_is_not_met_says_so():
    goal = next(goal for goal in GOALS if goal.key == "cold")
    text = render(results({goal.product: {"cold": goal.bound + 1}}))
    row = next(line for line in text.splitlines() if f"| {goal.title}, " in line)
    assert "**not met**" in row
    assert f"{goal.bound + 1}" in row


def test_only_what_is_between_the_markers_of_the_page_is_replaced():
    page = put_into(f"head\n{BEGIN}\nold\n{END}\ntail\n", "new")
    assert page == f"head\n{BEGIN}\n\nnew\n\n{END}\ntail\n"
    assert put_into(page, "new") == page


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_both_markers_in_order_is_refused(page):
    with pytest.raises(ValueError, match="each once"):
        put_into(page, "new")


@given(st.lists(st.dictionaries(names, figures), max_size=4), st.text())
def test_the_picture_is_well_formed_whatever_was_measured(rounds, reason):
    picture = parsed(draw(results(*rounds, absent=reason)))
    assert picture.tag == f"{SVG}svg"


def test_bars_are_as_long_as_their_medians():
    measured = results({"a": {"tcp1_there": 100.0}, "b": {"tcp1_there": 50.0}})
    bars = [
        float(bar.get("width", ""))
        for bar in parsed(draw(measured)).iter(f"{SVG}rect")
        if bar.get("rx")
    ]
    assert bars[0] == pytest.approx(2 * bars[1], abs=0.2)


def test_the_picture_names_what_is_absent():
    picture = draw(results({"a": {"tcp1_there": 1.0}}, absent="no such package"))
    words = [text.text for text in parsed(picture).iter(f"{SVG}text")]
    assert words.count("absent") == 1
    assert "n2n" in words


def test_labels_are_text_and_never_markup():
    measured = results({"a": {"tcp1_there": 1.0}})
    measured.products = [Entry("a", "<b>&")]
    words = [text.text for text in parsed(draw(measured)).iter(f"{SVG}text")]
    assert "<b>&" in words
