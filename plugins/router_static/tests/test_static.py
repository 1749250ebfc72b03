"""Lowest round-trip time wins, equals share, losses cost, the dead carry nothing."""

from __future__ import annotations

import itertools
import random

import pytest

from conflux.api import Link, LinkSample, NodeId, Path, PathSample, UsageError
from conflux_router_static import router as module
from conflux_router_static.router import StaticRouter

HERE, THERE, ONE, TWO, THREE = (NodeId(bytes([n]) * 32) for n in range(5))
LINK: Link = (HERE, THERE)
DIRECT: Path = LINK
VIA_ONE: Path = (HERE, ONE, THERE)
VIA_TWO: Path = (HERE, TWO, THERE)
ALL = [DIRECT, VIA_ONE, VIA_TWO]


@pytest.fixture
def router() -> StaticRouter:
    router = StaticRouter({})
    router.start(HERE, seed=1)
    return router


def measure(router: StaticRouter, path: Path, *rtts_ms: float, loss: float = 0.0) -> None:
    """Give every link of *path* its RTT; the same sample often enough to settle any average."""
    for link, rtt_ms in zip(itertools.pairwise(path), rtts_ms, strict=True):
        for _ in range(200):
            router.link_measured(link, LinkSample(rtt_s=rtt_ms / 1_000, loss=loss), now=0.0)


def weigh(router: StaticRouter, paths: list[Path], now: float = 0.0) -> list[float]:
    return list(router.weigh(THERE, paths, now=now))


def test_lowest_sum_of_round_trips_carries_everything(router: StaticRouter) -> None:
    measure(router, DIRECT, 90)
    measure(router, VIA_ONE, 20, 30)
    measure(router, VIA_TWO, 40, 40)
    assert weigh(router, ALL) == [0, 1, 0]


def test_equally_good_paths_share_equally(router: StaticRouter) -> None:
    measure(router, DIRECT, 100)
    measure(router, VIA_ONE, 60, 60)
    measure(router, VIA_TWO, 70, 70)
    assert weigh(router, ALL) == [1, 1, 0]  # 120 is within 25 % of 100, 140 is not


def test_a_few_milliseconds_do_not_matter_however_short_the_paths(router: StaticRouter) -> None:
    measure(router, VIA_ONE, 0.1, 0.1)
    measure(router, VIA_TWO, 2, 3)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 1]
    measure(router, VIA_TWO, 5, 6)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 0]


@pytest.mark.parametrize("direct_ms", [0.3, 1.2])
def test_within_a_few_milliseconds_the_way_without_relays_wins(
    router: StaticRouter, direct_ms: float
) -> None:
    measure(router, DIRECT, direct_ms)
    measure(router, VIA_ONE, 0.4, 0.5)
    measure(router, VIA_TWO, 0.4, 0.6)
    assert weigh(router, ALL) == [1, 0, 0]


def test_short_paths_whose_times_jitter_stay_equally_good(router: StaticRouter) -> None:
    chance = random.Random(1)
    for now in range(300):
        for path in (VIA_ONE, VIA_TWO):
            for link in itertools.pairwise(path):
                rtt_s = 0.0002 + chance.expovariate(1 / 0.0005)
                router.link_measured(link, LinkSample(rtt_s=rtt_s), now=now)
        assert weigh(router, [VIA_ONE, VIA_TWO], now) == [1, 1]


def test_one_lost_frame_of_few_does_not_move_the_flows(router: StaticRouter) -> None:
    measure(router, VIA_ONE, 0.2, 0.3)
    measure(router, VIA_TWO, 0.2, 0.3)
    router.path_measured(VIA_ONE, PathSample(delay_s=None, delivered=0, lost=1), now=0.0)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 1]


def test_tolerance_can_be_set() -> None:
    router = StaticRouter({"tolerance": 0.0, "tolerance_ms": 0})
    measure(router, DIRECT, 100)
    measure(router, VIA_ONE, 50, 51)
    measure(router, VIA_TWO, 50, 50)
    assert weigh(router, ALL) == [1, 0, 1]


def test_used_path_is_given_up_at_twice_the_tolerance_only(router: StaticRouter) -> None:
    measure(router, DIRECT, 100)
    measure(router, VIA_ONE, 60, 60)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 1]
    measure(router, VIA_ONE, 70, 70)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 1]
    measure(router, VIA_ONE, 80, 80)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 0]
    measure(router, VIA_ONE, 70, 70)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 0]


def test_at_the_start_equally_long_paths_are_tried_alike(router: StaticRouter) -> None:
    assert weigh(router, ALL) == [1, 0, 0]
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 1]


def test_unmeasured_link_counts_as_much_as_the_measured_ones(router: StaticRouter) -> None:
    measure(router, VIA_ONE, 30, 30)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 1]
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 0]


def test_lossy_path_loses_to_a_slower_one(router: StaticRouter) -> None:
    measure(router, VIA_ONE, 10, 10, loss=0.2)
    measure(router, VIA_TWO, 40, 40)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [0, 1]


def test_path_that_loses_frames_between_good_links_is_left(router: StaticRouter) -> None:
    """A relay that answers probes and drops frames."""
    measure(router, VIA_ONE, 10, 10)
    measure(router, VIA_TWO, 30, 30)
    assert weigh(router, [VIA_ONE, VIA_TWO]) == [1, 0]
    for _ in range(20):
        router.path_measured(VIA_ONE, PathSample(delay_s=None, delivered=50, lost=50), now=1.0)
    assert weigh(router, [VIA_ONE, VIA_TWO], now=1.0) == [0, 1]


def test_path_without_reports_gets_another_chance(router: StaticRouter) -> None:
    test_path_that_loses_frames_between_good_links_is_left(router)
    assert weigh(router, [VIA_ONE, VIA_TWO], now=1.0 + 20 * module.FORGET_LOSS_S) == [1, 0]


def test_lost_link_carries_nothing_until_it_is_measured_again(router: StaticRouter) -> None:
    measure(router, DIRECT, 10)
    measure(router, VIA_ONE, 50, 50)
    router.link_lost(LINK, now=1.0)
    assert weigh(router, [DIRECT, VIA_ONE]) == [0, 1]
    router.link_measured(LINK, LinkSample(rtt_s=0.01), now=2.0)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 0]


def test_nothing_from_before_a_loss_is_believed_after_it(router: StaticRouter) -> None:
    measure(router, DIRECT, 10)
    measure(router, VIA_ONE, 50, 50)
    router.link_lost(LINK, now=1.0)
    router.link_measured(LINK, LinkSample(rtt_s=0.9), now=2.0)
    assert weigh(router, [DIRECT, VIA_ONE]) == [0, 1]


def test_all_lost_still_gives_the_flows_somewhere_to_go(router: StaticRouter) -> None:
    for path in ALL:
        for link in itertools.pairwise(path):
            router.link_lost(link, now=1.0)
    assert any(weigh(router, ALL))


def test_one_outlier_does_not_move_the_flows(router: StaticRouter) -> None:
    measure(router, DIRECT, 10)
    measure(router, VIA_ONE, 20, 20)
    router.link_measured(LINK, LinkSample(rtt_s=0.05), now=1.0)
    assert weigh(router, [DIRECT, VIA_ONE]) == [1, 0]


def test_link_is_one_in_both_directions(router: StaticRouter) -> None:
    measure(router, (THERE, HERE), 500)
    measure(router, VIA_ONE, 10, 10)
    assert weigh(router, [DIRECT, VIA_ONE]) == [0, 1]


def test_memory_is_bounded(router: StaticRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 4)
    nodes = [NodeId(n.to_bytes(32, "big")) for n in range(100, 120)]
    for node in nodes:
        router.link_measured((HERE, node), LinkSample(rtt_s=0.3), now=0.0)
    measure(router, VIA_ONE, 10, 10)
    assert len(router._links._entries) == 4
    assert weigh(router, [VIA_ONE, (HERE, nodes[0], THERE)]) == [1, 1], "the oldest is forgotten"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -1}, "tolerance must be a number from 0 to 10"),
        ({"tolerance": "wide"}, "tolerance must be a number from 0 to 10"),
        ({"tolerance_ms": True}, "tolerance_ms must be a number from 0 to 10000"),
        ({"tolerance": float("nan")}, "tolerance must be a number from 0 to 10"),
        ({"tolerence": 1}, "has no setting tolerence"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StaticRouter(settings)
