"""Several kinds of tether: the best that gets through carries, and nobody waits for the others."""

from __future__ import annotations

import pytest

from conflux.anchor.exchange import FALLBACK_DEADLINE_S
from conflux.anchor.kinds import FAILED_S, MAX_NODES, TetherKinds
from conflux.api import NodeId
from conflux.testing.simnet import SimNetwork

BOTH = ("fast", "sure")


def kind_between(one, other):
    neighbour = one.anchor.neighbours.get(other.node_id)
    return None if neighbour is None else neighbour.kind


def pair(left=BOTH, right=BOTH, *, relays=0):
    network = SimNetwork(seed=5)
    nodes = [
        network.add_node("left", teams=["ops"], tether_kinds=left),
        network.add_node("right", teams=["ops"], tether_kinds=right),
    ]
    for number in range(relays):
        network.add_node(f"relay {number}", tether_kinds=("sure",))
    return network, *nodes


def test_the_best_common_kind_carries():
    network, left, right = pair()
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 2)
    assert kind_between(left, right) == kind_between(right, left) == "fast"


@pytest.mark.parametrize(("left", "right"), [(("fast",), BOTH), (BOTH, ("sure",)), (BOTH, BOTH)])
def test_of_kinds_that_only_one_end_has_none_is_tried(left, right):
    network, one, other = pair(left, right)
    ping = one.ping(other)
    assert network.run_until(lambda: ping.answers == 1, 2)
    assert kind_between(one, other) == next(kind for kind in right if kind in left)


@pytest.mark.parametrize("asks", ["left", "right"])
def test_a_kind_that_does_not_get_through_gives_way_to_the_next(asks):
    network, left, right = pair()
    network.link(left, right).blocked_kinds = {"fast"}
    one, other = (left, right) if asks == "left" else (right, left)
    ping = one.ping(other)
    assert network.run_until(lambda: kind_between(one, other) == "sure", FALLBACK_DEADLINE_S + 1)
    assert network.run_until(lambda: ping.answers == 1, 1)


def test_packets_take_a_relay_while_the_kinds_are_tried():
    network, left, right = pair(relays=2)
    network.link(left, right).blocked_kinds = {"fast"}
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 3)
    assert network.run_until(lambda: kind_between(left, right) == "sure", FALLBACK_DEADLINE_S + 1)


def test_a_kind_that_failed_is_left_out_at_the_next_meeting():
    network, left, right = pair()
    network.link(left, right).blocked_kinds = {"fast"}
    left.ping(right)
    assert network.run_until(lambda: kind_between(left, right) == "sure", 6)
    network.run(200)  # all dissolves
    assert kind_between(left, right) is None
    network.link(left, right).blocked_kinds = ()
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 1)
    assert kind_between(left, right) == "sure"
    network.run(FAILED_S + 200)
    left.ping(right)
    assert network.run_until(lambda: kind_between(left, right) == "fast", 1)


def test_where_nothing_gets_through_each_kind_is_tried_once_and_then_again_much_later():
    network, left, right = pair()
    network.link(left, right).blocked_kinds = set(BOTH)
    left.ping(right)
    network.run(25)
    assert left.anchor.counters["tether_failed"] == len(BOTH)


def test_two_who_cannot_connect_at_all_stop_trying_once_nobody_wants_to():
    """Whoever cannot get through by any kind would else hold sockets for ever."""
    network, left, right = pair(relays=1)
    network.block(left, right)
    left.ping(right)
    network.run(300)
    assert left.anchor.routing.all() == []
    failed = [node.anchor.counters["tether_failed"] for node in (left, right)]
    network.run(300)
    assert [node.anchor.counters["tether_failed"] for node in (left, right)] == failed
    assert network.underlay.tethers("left") == network.underlay.tethers("right") == []


def test_a_driver_that_can_make_nothing_gives_way_at_once():
    network, left, right = pair()
    right.refused_kinds = {"fast"}
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 1)
    assert kind_between(left, right) == "sure"


def test_what_failed_is_remembered_within_bounds_and_forgotten_in_time():
    kinds = TetherKinds(BOTH)
    node = NodeId(bytes(32))
    kinds.failed(node, "fast", now=0.0)
    assert list(kinds.to_try(node, now=1.0)) == ["sure"]
    assert list(kinds.common(node, ["fast"], now=1.0)) == ["fast"], "there is nothing else"
    assert list(kinds.to_try(node, now=FAILED_S)) == list(BOTH)
    kinds.failed(node, "sure", now=1.0)
    assert list(kinds.to_try(node, now=2.0)) == list(BOTH), "all failed: all again"
    kinds.worked(node, "fast")
    assert list(kinds.to_try(node, now=2.0)) == ["fast"]
    for number in range(MAX_NODES):
        kinds.failed(NodeId(number.to_bytes(32, "little") + b"x"), "fast", now=3.0)
    assert list(kinds.to_try(node, now=3.0)) == list(BOTH), "the oldest makes room"
