"""Two nodes that cannot reach each other directly: relays found, lost, replaced, shared."""

from __future__ import annotations

import pytest

from conflux.testing import EqualRouter
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind

FLOWS = 64


def steady(network: SimNetwork, source: SimNode, target: SimNode, seconds: float) -> list:
    """Ping ten times a second, every ping a flow of its own; return the pings."""
    pings = []
    for n in range(round(seconds * 10)):
        pings.append(source.ping(target, port=1024 + n % FLOWS))
        network.run(0.1)
    return pings


def carried(node: SimNode) -> int:
    return node.anchor.relay.carried


def test_blocked_pair_gets_its_first_answer_over_a_relay_within_3_s(relayed):
    ping = relayed.left.ping(relayed.right)
    relayed.network.run(3)
    assert ping.answers == 1
    assert ping.rtt_s < 1.0


def test_spare_relay_is_found_soon_though_each_ask_may_be_drawn_to_a_node_that_cannot_help():
    for seed in range(20):
        network = SimNetwork(seed=seed)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        network.block(left, right)
        for name in ("one", "two"):
            network.add_node(name)
        for _ in range(20):
            left.ping(right)
            network.run(0.1)
        assert len(left.anchor.routing.get(right.node_id).routes) == 2, f"seed {seed}"


def test_flows_spread_over_two_equally_good_relays(relayed):
    relayed.left.ping(relayed.right)
    relayed.network.run(5)
    seen = {relay.name: 0 for relay in relayed.relays}

    def count(source: str, destination: str, message: bytes) -> None:
        if source == "left" and destination in seen and len(message) > 60:
            seen[destination] += 1

    relayed.network.on_datagram = count
    pings = [relayed.left.ping(relayed.right, port=2000 + n) for n in range(FLOWS)]
    relayed.network.run(1)
    assert all(ping.answers == 1 for ping in pings)
    assert min(seen.values()) > FLOWS / 5


def test_packets_of_one_flow_stay_on_one_route(relayed):
    relayed.left.ping(relayed.right)
    relayed.network.run(5)
    used = set()

    def note(source: str, destination: str, message: bytes) -> None:
        # Signatures of packets have thousands of bytes, and take any way.
        if source == "left" and 60 < len(message) < 200:
            used.add(destination)

    relayed.network.on_datagram = note
    for _ in range(20):
        relayed.left.send_packet(relayed.right, b"one flow", port=4321)
    relayed.network.run(1)
    assert len(used) == 1


def test_a_relay_that_closes_is_replaced_by_the_spare_without_a_pause(relayed):
    network = relayed.network
    relayed.left.ping(relayed.right)
    network.run(5)
    relayed.relays[0].stop()
    network.run(0.05)  # the news has to travel
    pings = steady(network, relayed.left, relayed.right, 3)
    network.run(1)
    assert all(ping.answers == 1 for ping in pings)


def test_a_relay_that_vanishes_costs_at_most_three_seconds_of_traffic(relayed):
    network = relayed.network
    relayed.left.ping(relayed.right)
    network.run(5)
    crashed_at = network.now()
    relayed.relays[1].crash()
    pings = steady(network, relayed.left, relayed.right, 10)
    network.run(1)
    lost = [ping for ping in pings if not ping.answers]
    assert all(ping.sent_at < crashed_at + 3 for ping in lost)


def test_the_only_relay_vanishes_and_another_one_is_found(relayed):
    network, (first, second) = relayed.network, relayed.relays
    second.stop()
    relayed.left.ping(relayed.right)
    network.run(5)
    assert carried(first) == 2
    second.start()
    crashed_at = network.now()
    first.crash()
    pings = steady(network, relayed.left, relayed.right, 12)
    network.run(2)
    assert carried(second) == 2
    assert all(ping.answers for ping in pings if ping.sent_at > crashed_at + 5)


def test_all_relays_vanish_and_traffic_resumes_once_one_is_back(relayed):
    network = relayed.network
    relayed.left.ping(relayed.right)
    network.run(5)
    for relay in relayed.relays:
        relay.crash()
    steady(network, relayed.left, relayed.right, 60)
    back_at = network.now()
    relayed.relays[0].start()
    pings = steady(network, relayed.left, relayed.right, 60)
    network.run(2)
    assert all(ping.answers for ping in pings if ping.sent_at > back_at + 40)


def test_a_direct_way_that_opens_up_is_taken(relayed):
    network = relayed.network
    steady(network, relayed.left, relayed.right, 5)
    network.unblock(relayed.left, relayed.right)
    steady(network, relayed.left, relayed.right, 120)
    reach = relayed.left.anchor.routing.get(relayed.right.node_id)
    assert reach.has_direct


def test_a_direct_way_that_closes_is_replaced_by_relays(pair):
    network = pair.network
    for name in ("one", "two"):
        network.add_node(name)
    steady(network, pair.left, pair.right, 2)
    blocked_at = network.now()
    network.block(pair.left, pair.right)
    pings = steady(network, pair.left, pair.right, 20)
    network.run(2)
    assert all(ping.answers == 1 for ping in pings if ping.sent_at > blocked_at + 5)


@pytest.mark.parametrize("seed", range(8))
def test_relays_without_a_way_to_the_destination_do_not_hold_up_the_one_that_has(seed):
    network = SimNetwork(seed=seed)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    cut_off = [network.add_node(f"cut off {n}") for n in range(6)]
    for relay in cut_off:
        network.block(right, relay)
    network.add_node("good")
    pings = steady(network, left, right, 12)
    assert any(ping.answers for ping in pings)


def test_spare_routes_that_carry_nothing_do_not_make_the_nodes_ask_again(relayed):
    network = relayed.network
    relayed.left.ping(relayed.right)
    network.run(10)
    asked = network.channel.count(Kind.ASK)
    for _ in range(600):
        relayed.left.ping(relayed.right, port=99)  # one flow: one of the routes is idle
        network.run(0.5)
    # What is left is the direct way, tried again at most every half minute, from both ends.
    assert network.channel.count(Kind.ASK) - asked < 120


def test_a_relay_never_sees_a_packet_in_the_clear(relayed):
    marker = b"nobody on the way may read this"
    seen = []
    relayed.network.on_datagram = lambda source, to, message: seen.append(message)
    for _ in range(5):
        relayed.left.send_packet(relayed.right, marker)
        relayed.network.run(0.5)
    assert relayed.right.payloads() == [marker] * 5
    assert sum(len(message) for message in seen) > 5 * 2 * len(marker)
    assert not any(marker in message for message in seen)
    assert not any(marker in message.payload for message in relayed.network.channel.messages)


class Proposing(EqualRouter):
    """Knows one way, as a router that hears gossip would."""

    def __init__(self) -> None:
        super().__init__()
        self.path: tuple[bytes, ...] = ()

    def propose(self, destination, *, limit, avoid, now):
        return [self.path] if self.path and self.path[-1] == destination else []


def test_a_proposed_way_over_four_relays_carries_traffic_both_ways():
    network = SimNetwork(seed=12)
    router = Proposing()
    left = network.add_node("left", teams=["ops"], router=lambda: router)
    right = network.add_node("right", teams=["ops"])
    chain = [left, *(network.add_node(f"relay {n}") for n in range(4)), right]
    for at, one in enumerate(chain):
        network.block(one, *chain[at + 2 :])
    router.path = tuple(node.node_id for node in chain)
    pings = steady(network, left, right, 15)
    network.run(1)
    assert all(ping.answers == 1 for ping in pings[-20:])
    paths = [route.path for route in left.anchor.routing.get(right.node_id).routes]
    assert paths == [router.path]
    back = [route.path for route in right.anchor.routing.get(left.node_id).routes]
    assert back == [tuple(reversed(router.path))]


def test_no_frame_overtakes_the_open_over_a_relay_to_a_peer_with_older_streams(relayed):
    """It accepts routes for the streams that it has: what comes over them is of newer ones."""
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    left.anchor.sessions.close(left.anchor.sessions[right.node_id], "forgotten", network.now())
    right.deferred_s = 0.2  # a busy host, which verifies the Open long after a route stands
    began = network.now()
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1
    assert ping.rtt_s < 1.3
    assert right.anchor.counters["frame_of_unknown_stream"] == 0
    assert [at for at, event in left.events if event == "routes right: none" and at > began] == []


def test_search_begun_anew_asks_for_relays_though_a_wider_seek_was_due(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    reach = left.anchor.routing.get(right.node_id)
    relayed.relays[0].crash()
    assert network.run_until(lambda: reach.is_widening, 10)
    relayed.relays[1].stop()
    third = network.add_node("third")
    began = network.now()
    assert network.run_until(lambda: reach.routes and reach.routes[0].path[1] == third.node_id, 5)
    assert network.now() - began < 0.6


def test_streams_that_lapse_give_way_to_the_new_ones_that_wait_for_a_frame(relayed):
    """What vouches for packets is lost with the way: there is no need of a third handshake."""
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    for relay in relayed.relays:
        network.block(relay, left, right)
    former = left.anchor.sessions[right.node_id]

    def has_new_streams():
        left.send_packet(right, b"asks anew once there is no way for a second")
        return right.anchor.sessions[left.node_id].transcript != former.transcript

    assert network.run_until(has_new_streams, 10)
    network.run(0.2)
    assert left.anchor.sessions[right.node_id] is former
    left.anchor.sessions.lapsed(former, "not vouched for", network.now())
    ours, theirs = left.anchor.sessions[right.node_id], right.anchor.sessions[left.node_id]
    assert ours.transcript == theirs.transcript
    network.unblock(relayed.relays[0], left, right)
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 5)
    assert left.anchor.sessions[right.node_id] is ours
