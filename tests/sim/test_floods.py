"""Without the Master: Asks go from tether to tether, and answers straight back."""

from __future__ import annotations

import pytest

from conflux.anchor.post import FLOODS_BURST
from conflux.testing.simnet import SimNetwork
from conflux.wire.inband import Flood


@pytest.fixture
def star():
    """Three spokes that have met the hub, but not each other; then the Master goes down."""
    network = SimNetwork(seed=3)
    hub = network.add_node("hub", teams=["ops"])
    spokes = [network.add_node(f"spoke{n}", teams=["ops"]) for n in range(3)]
    for spoke in spokes:
        spoke.ping(hub)
    network.run(3)
    network.channel.is_down = True
    return network, hub, spokes


def paths_to(node, other):
    return [route.path for route in node.anchor.routing.get(other.node_id).routes]


def test_new_pairs_meet_over_tethers_while_the_master_is_down(star):
    network, _, (one, two, _) = star
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 3)


def test_a_new_pair_that_cannot_meet_directly_takes_the_relay_that_it_knows(star):
    network, hub, (one, two, _) = star
    network.block(one, two)
    network.run(3)  # a tether that they had as relays is found dead
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 3)
    paths = [[network.name_of(node) for node in path] for path in paths_to(one, two)]
    assert ["spoke0", "hub", "spoke1"] in paths
    assert hub.anchor.relay.carried


def test_a_master_that_swallows_everything_is_gone_round(star):
    network, _, (one, two, _) = star
    network.channel.is_down = False
    network.channel.tap = lambda message: ()
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 5)


def test_strangers_hear_nothing_by_flood_either(star):
    network, hub, _ = star
    network.channel.is_down = False
    stranger = network.add_node("stranger", teams=["others"])
    friend = network.add_node("friend", teams=["others", "ops"])
    stranger.ping(friend)
    friend.ping(hub)
    network.run(3)
    network.channel.is_down = True
    ping = stranger.ping(hub)
    network.run(20)
    assert ping.answers == 0
    assert hub.node_id not in stranger.anchor.sessions


def test_a_flood_ends_and_each_node_passes_it_on_once(star):
    network, hub, spokes = star
    nodes = [hub, *spokes]
    before = [node.anchor.flooding.passed_on for node in nodes]
    spokes[0].send_packet("10.77.0.99", b"nobody lives there")
    network.run(60)
    passed = [node.anchor.flooding.passed_on - b for node, b in zip(nodes, before, strict=True)]
    # The Ask goes out once and is repeated three times: four floods, each passed on once a node.
    assert passed == [4, 4, 4, 4]


def test_floods_over_the_rate_are_dropped_and_counted(star):
    network, hub, (one, *_) = star
    for number in range(500):
        one.anchor.flooding.send(number.to_bytes(16, "big"), b"noise", now=network.now())
    network.run(1)
    assert hub.anchor.counters["flood_over_rate"] >= 500 - FLOODS_BURST - 25
    assert hub.anchor.flooding.passed_on <= FLOODS_BURST + 25


def test_the_master_is_used_again_when_it_is_back(star):
    network, _, (one, two, three) = star
    one.ping(two)
    network.run(3)
    network.channel.is_down = False
    published = network.channel.published.total()
    ping = one.ping(three)
    assert network.run_until(lambda: ping.answers == 1, 3)
    assert network.channel.published.total() > published


def test_a_neighbour_that_claims_a_handle_does_not_keep_its_answers_away(star):
    """Floods are not signed: *three* floods under the handle of *one* before that asks."""
    network, hub, (one, two, three) = star
    handle = one.anchor.standing.grant.control.handle
    for number in range(3):
        flood = Flood(number.to_bytes(16, "big"), 4, bytes(16), handle, b"\x01\x01claimed")
        three.anchor.neighbours.get(hub.node_id).send_inband(flood)
        network.run(0.1)
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 5)


def test_claims_from_many_neighbours_make_answers_go_to_all(star):
    network, hub, (one, two, *_) = star
    network.channel.is_down = False
    liars = [network.add_node(f"liar {n}", teams=["ops"]) for n in range(6)]
    for liar in liars:
        liar.ping(hub)
    network.run(3)
    network.channel.is_down = True
    handle = one.anchor.standing.grant.control.handle
    for number, liar in enumerate(liars):
        flood = Flood(number.to_bytes(16, "big"), 4, bytes(16), handle, b"\x01\x01claimed")
        liar.anchor.neighbours.get(hub.node_id).send_inband(flood)
    network.run(0.1)
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 5)


def test_a_memory_of_floods_that_one_neighbour_fills_lets_others_through(star):
    network, hub, (one, two, three) = star
    hub.anchor.flooding._seen._limit = 20
    for number in range(30):
        three.anchor.flooding.send(number.to_bytes(16, "big"), b"noise", now=network.now())
    network.run(0.1)
    ping = one.ping(two)
    assert network.run_until(lambda: ping.answers == 1, 3)
