"""A member that does not want to know of its removal is cut off in a second; who stays goes on.

The mole runs the real program, patched to take nothing that Guardian says after its login.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PROGRAMS = Path(__file__).with_name("programs")
DEAD_S = 1.0
"""From the return of Guardian's command to the last packet, either way."""
GAP_S = 0.5
"""The longest that a flow of those who stay may stand still: a loaded machine stalls, too."""
WORKS_S = 1.0
"""From the return of Guardian's command to the first packet of a new team."""

_numbers = count(1)


@pytest.fixture(scope="module")
def pair(overlay):
    """London and tokyo, of two users, without a common team."""
    overlay.start_guardian()
    nodes = [overlay.conflux("london", "alice"), overlay.conflux("tokyo", "bob")]
    return [node.ready() for node in nodes]


@pytest.fixture
def team(overlay, pair) -> Iterator[str]:
    """A team that nobody has yet, and that london and tokyo lose again."""
    name = f"ops-{next(_numbers)}"
    overlay.admin("team", "create", name, "--owner", "alice@example.org")
    yield name
    for node in pair:
        overlay.admin("team", "detach", name, node.name)


@pytest.fixture
def three(overlay, pair, team):
    """London, tokyo and a mole of a third user, who have the team.

    The mole gets it by its login, the last word of Guardian's that it takes.
    """
    mole = overlay.conflux(f"mole-{next(_numbers)}", "carol").ready()
    for node in (*pair, mole):
        overlay.admin("team", "attach", team, node.name)
    mole.stop()
    mole.program = [sys.executable, str(PROGRAMS / "deaf.py")]
    yield (*pair, mole.run().ready())
    mole.stop()


def assert_goes_on(beats, source, target, since) -> str:
    """The flow neither stood still nor doubled anything; return what was seen."""
    arrivals = [(n, t) for n, t in beats.arrivals(source, target) if t > since]
    numbers = [n for n, _ in arrivals]
    gap = max(later - earlier for (_, earlier), (_, later) in pairwise(arrivals))
    lost = max(numbers) - min(numbers) + 1 - len(set(numbers))
    assert len(numbers) == len(set(numbers)), "a packet came twice"
    assert gap < GAP_S
    return f"{source.name} > {target.name}: {len(numbers)} packets, {lost} lost, gap {gap:.3f} s"


def assert_dead(beats, ways, since) -> list[str]:
    """Nothing came through DEAD_S after *since*; return what was seen."""
    seen = []
    for source, target in ways:
        after_s = beats.arrivals(source, target)[-1][1] - since
        seen.append(f"{source.name} > {target.name}: dead {after_s:+.3f} s")
        assert after_s < DEAD_S, seen
    return seen


def test_added_team_works_in_a_second(overlay, pair, team):
    london, tokyo = pair
    processes = [node.process.pid for node in pair]
    beats = overlay.beats((london, tokyo), (tokyo, london))
    time.sleep(3.0)
    assert not any(beats.arrivals(*way) for way in beats.ways)
    for node in (london, tokyo):
        overlay.admin("team", "attach", team, node.name)
    added = time.monotonic()
    overlay.until(beats.all_arrive, "the team to take effect")
    beats.stop()
    seen = {
        f"{source.name} > {target.name}": beats.arrivals(source, target)[0][1] - added
        for source, target in beats.ways
    }
    print("the first packet, from the end of the command:", seen)
    assert max(seen.values()) < WORKS_S
    assert [node.process.pid for node in pair] == processes, "nobody was restarted"


def all_talk(overlay, london, tokyo, mole):
    beats = overlay.beats((london, tokyo), (tokyo, london), (mole, london), (tokyo, mole))
    overlay.until(beats.all_arrive, "all of them to talk")
    time.sleep(1.0)
    return beats


def test_removed_member_that_ignores_it_is_dead_in_a_second_and_the_others_go_on(
    overlay, three, team
):
    london, tokyo, mole = three
    beats = all_talk(overlay, *three)
    processes = [node.process.pid for node in three]
    began = time.monotonic()
    overlay.admin("team", "detach", team, mole.name)
    removed = time.monotonic()
    time.sleep(DEAD_S + 2.0)
    beats.stop()
    print(
        f"the command took {removed - began:.3f} s; from its end:",
        *assert_dead(beats, beats.ways[2:], removed),
        *(assert_goes_on(beats, *way, began - 0.5) for way in beats.ways[:2]),
        sep="\n",
    )
    assert london.reaches(tokyo)
    assert not mole.ping(london, wait_s=1)
    assert [node.process.pid for node in three] == processes, "nobody was restarted"


def test_deleted_conflux_that_runs_on_is_nobodys_peer_or_neighbour_any_more(overlay, three):
    london, tokyo, mole = three
    beats = all_talk(overlay, *three)
    gone = mole.node_id
    assert gone in neighbours(london)
    # Unregistered from elsewhere, so that the mole's own process is not asked to stop.
    elsewhere = overlay.folder / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    shutil.copy(mole.folder / "conflux.json", elsewhere)
    began = time.monotonic()
    mole.host.run([*tokyo.program, "unregister", "--config-dir", str(elsewhere)])
    removed = time.monotonic()
    time.sleep(DEAD_S)
    for node in (london, tokyo):
        assert gone not in neighbours(node), node.name
    time.sleep(3.0)
    beats.stop()
    print(
        f"the command took {removed - began:.3f} s; from its end:",
        *assert_dead(beats, beats.ways[2:], removed),
        *(assert_goes_on(beats, *way, began - 0.5) for way in beats.ways[:2]),
        sep="\n",
    )
    assert mole.process.poll() is None
    for node in (london, tokyo):
        assert gone not in neighbours(node), node.name


def neighbours(node) -> set[str]:
    return {neighbour["node_id"] for neighbour in node.status()["neighbours"]}
