"""A download over four relays, two a stage, while one relay after another dies or comes back."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from conflux.testing import EqualRouter
from conflux.testing.simnet import EVERY_S, Bulk, Ladder, SimNetwork, SimNode, ladder
from conflux.wire.control import AuthLevel

STAGES = 4
DELAY_S = 0.008
"""Of each of five links: the way is as long as that of test_failure.py over one relay."""
GAP_S = 0.3
"""What test_failure.py allows where a spare route stands by."""


def made_of(seed: int) -> Ladder:
    network = SimNetwork(seed=seed, packet_auth=AuthLevel.HANDSHAKE)
    network.underlay.default.delay_s = DELAY_S
    return ladder(network, STAGES)


def stands_by(made: Ladder, source: SimNode, target: SimNode) -> bool:
    """Tell whether there are two routes, all of whose relays live, and which share only those that
    are alone in their stage."""
    alive = {relay.node_id for relay in made.relays if relay.is_alive}
    reach = source.anchor.routing.get(target.node_id)
    ways = [set(route.path[1:-1]) for route in reach.routes]
    if len(ways) != 2 or not ways[0] | ways[1] <= alive:
        return False
    stages = ([relay.node_id for relay in stage if relay.is_alive] for stage in made.stages)
    alone = {stage[0] for stage in stages if len(stage) == 1}
    return ways[0] & ways[1] == alone


def both_stand_by(made: Ladder) -> bool:
    left, right = made.left, made.right
    return stands_by(made, left, right) and stands_by(made, right, left)


def until_standing_by(made: Ladder, bulks: list[Bulk]) -> None:
    """Go on sending until both ends have their spare routes, and have used them for a second."""
    for _ in range(600):
        if both_stand_by(made):
            send(bulks, 1)
            return
        send(bulks, 0.1)
    raise AssertionError(f"no spare: {made.paths(made.left, made.right)}")


def send(bulks: list[Bulk], seconds: float) -> None:
    for _ in range(round(seconds / EVERY_S)):
        for bulk in bulks:
            bulk.run(EVERY_S / len(bulks), every_s=EVERY_S / len(bulks))


def in_use(made: Ladder, source: SimNode, target: SimNode) -> list[SimNode]:
    """The relays that the latest frame of *source* to *target* took."""
    routes = source.anchor.routing.get(target.node_id).routes
    latest = max(routes, key=lambda route: route.last_used)
    return [made.network.nodes[made.network.name_of(node)] for node in latest.path[1:-1]]


def settled(made: Ladder) -> None:
    for _ in range(300):
        made.left.ping(made.right)
        made.network.run(0.1)
        if both_stand_by(made):
            return
    raise AssertionError("no two routes")


@pytest.mark.parametrize("seed", range(4))
def test_one_relay_after_another_dies_silently_and_is_replaced_without_losing_a_packet(seed):
    made = made_of(seed)
    settled(made)
    chance = random.Random(seed)
    there = Bulk(made.network, made.left, made.right)
    send([there], 1)
    for _ in range(4):
        victim = chance.choice(in_use(made, made.left, made.right))
        victim.crash()
        until_standing_by(made, [there])
        victim.start()
        until_standing_by(made, [there])
    made.network.run(1)
    assert there.gap_s() < GAP_S
    assert (there.missing(), there.doubled()) == ([], 0)


@pytest.mark.parametrize("stage", range(STAGES))
def test_both_directions_survive_the_same_death_in_any_stage(stage):
    made = made_of(10 + stage)
    settled(made)
    bulks = [
        Bulk(made.network, made.left, made.right),
        Bulk(made.network, made.right, made.left),
    ]
    send(bulks, 1)
    victim = in_use(made, made.left, made.right)[stage]
    victim.crash()
    send(bulks, 2)
    until_standing_by(made, bulks)
    made.network.run(1)
    for bulk in bulks:
        assert bulk.gap_s() < GAP_S
        assert (bulk.missing(), bulk.doubled()) == ([], 0)


@pytest.mark.parametrize("seed", range(20, 24))
def test_a_relay_that_swallows_frames_is_found_again_and_never_trusted_again(seed):
    made = made_of(seed)
    settled(made)
    bulk = Bulk(made.network, made.left, made.right)
    send([bulk], 1)
    swallower = in_use(made, made.left, made.right)[2]
    swallower.anchor.relay.forward = lambda *_args, **_kwargs: None
    send([bulk], 15)
    made.network.run(1)
    assert made.left.anchor.counters["route_suspect"] == 1
    assert bulk.gap_s() < GAP_S
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_a_new_route_beside_others_takes_no_packet_before_it_has_carried_an_empty_frame():
    made = made_of(24)
    settled(made)
    bulk = Bulk(made.network, made.left, made.right)
    send([bulk], 1)
    sent: dict[int, list[tuple[float, int]]] = {}

    def note(source: str, destination: str, message: bytes) -> None:
        label = int.from_bytes(message[4:8], "big")
        if source == "left" and label:
            sent.setdefault(label, []).append((made.network.now(), len(message)))

    known = {route.label for route in routes_of(made)}
    made.network.on_datagram = note
    in_use(made, made.left, made.right)[1].crash()
    until_standing_by(made, [bulk])
    for port in range(64):
        made.left.send_packet(made.right, bytes(500), port=2_000 + port)
    made.network.run(1)
    fresh = [sent[route.label] for route in routes_of(made) if route.label not in known]
    assert fresh
    for messages in fresh:
        began = messages[0][0]
        # There and back over five links, and what the report waits.
        first_packet = min(time for time, size in messages if size > 500)
        assert first_packet - began > 2 * 5 * DELAY_S
        assert messages[0][1] < 60


def routes_of(made: Ladder):
    return made.left.anchor.routing.get(made.right.node_id).routes


def test_when_all_routes_die_traffic_is_back_within_5_s_over_those_that_are_left():
    made = made_of(22)
    settled(made)
    bulk = Bulk(made.network, made.left, made.right)
    send([bulk], 1)
    one, two = made.paths(made.left, made.right)
    for name in (one[1], two[2]):
        made.network.nodes[name].crash()
    died_at = made.network.now()
    send([bulk], 15)
    made.network.run(1)
    late = [bulk.sent_at[number] for number in bulk.missing()]
    assert all(sent_at < died_at + 5 for sent_at in late)
    assert bulk.doubled() == 0


# Load over several routes


class Fixed(EqualRouter):
    """Gives all weight to routes over one relay."""

    def __init__(self) -> None:
        super().__init__()
        self.over = b""

    def weigh(self, destination, paths, *, now):
        chosen = [float(self.over in path) for path in paths]
        return chosen if any(chosen) else [1.0] * len(paths)


def crossed(made: Ladder, size: int = 200) -> dict[tuple[str, str], int]:
    """How many messages with packets cross each link from now on."""
    seen: dict[tuple[str, str], int] = {}

    def note(source: str, destination: str, message: bytes) -> None:
        if len(message) > size:
            seen[source, destination] = seen.get((source, destination), 0) + 1

    made.network.on_datagram = note
    return seen


def test_flows_of_one_stream_spread_over_two_routes_of_four_relays_each():
    made = made_of(30)
    settled(made)
    seen = crossed(made)
    flows = 64
    for port in range(flows):
        made.left.send_packet(made.right, bytes(500), port=2_000 + port)
    made.network.run(1)
    assert len(made.right.payloads()) >= flows
    one, two = made.paths(made.left, made.right)
    for path in (one, two):
        row = ["left", *path, "right"]
        carried = {seen.get(link, 0) for link in pairwise(row)}
        # The same number on each of its five links, and a fair part of the flows.
        assert len(carried) == 1
        assert carried.pop() > flows / 5
    assert sum(seen.get(("left", path[0]), 0) for path in (one, two)) == flows


def test_packets_of_one_flow_stay_on_one_route_of_four_relays():
    made = made_of(31)
    settled(made)
    seen = crossed(made)
    for _ in range(40):
        made.left.send_packet(made.right, bytes(500), port=4_321)
        made.network.run(0.01)
    made.network.run(1)
    assert sorted(seen.values()) == [40] * 5


def test_streams_of_both_directions_take_routes_of_their_own():
    made = made_of(32)
    routers = {}
    for node in (made.left, made.right):
        routers[node.name] = router = Fixed()
        node.anchor.routing._weigher._router = router
    settled(made)
    upper = made.paths(made.left, made.right)[0]
    [lower] = [p for p in made.paths(made.right, made.left) if p[-1] != upper[0]]
    routers["left"].over = made.network.nodes[upper[0]].node_id
    routers["right"].over = made.network.nodes[lower[-1]].node_id
    made.network.run(1.5)  # weights are taken anew every second
    seen = crossed(made)
    for port in range(40):
        made.left.send_packet(made.right, bytes(500), port=5_000 + port)
        made.right.send_packet(made.left, bytes(500), port=5_000 + port)
        made.network.run(0.01)
    made.network.run(1)
    there, back = ["left", *upper, "right"], ["right", *lower, "left"]
    expected = {link: 40 for row in (there, back) for link in pairwise(row)}
    assert seen == expected
