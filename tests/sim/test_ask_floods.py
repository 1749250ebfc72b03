"""A thousand identities ask one node all the time; an honest peer still gets through.

The node has two worker threads that take half a millisecond for each signature or verification, so
that it cannot answer them all.
"""

from __future__ import annotations

import pytest

from conflux.anchor.answering import MAX_ANSWERED, MAX_OFFERS
from conflux.anchor.identity import node_tag
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind, Purpose, Target, TargetKind

IDENTITIES = 1_000
PER_S = 3
"""Asks a second of each identity: more than the node can answer."""


class Flood:
    """Identities of *teams* ask *target* for streams, each PER_S times a second, in turn.

    With *tethers* they ask for tethers alone, as relays are asked.
    """

    def __init__(
        self, network: SimNetwork, target: SimNode, teams: list[str], *, tethers: bool = False
    ) -> None:
        self.network = network
        self.target = target
        self.tethers = tethers
        self.insiders = [network.add_insider(f"x{n}", teams=teams) for n in range(IDENTITIES)]
        self.sent = 0
        self.most_held = self.most_begun = 0
        self._next()

    def stop(self) -> None:
        self.insiders = []

    def _next(self) -> None:
        if not self.insiders:
            return
        insider = self.insiders[self.sent % IDENTITIES]
        if self.tethers:
            target = Target(TargetKind.NODE, self.target.node_id)
            tag = node_tag(self.network.guardian.plane_key, self.target.node_id)
            insider.publish(tag, insider.ask(target, purpose=Purpose.TETHER).message)
        else:
            insider.ask_address(self.target.address.packed)
        self.sent += 1
        answering = self.target.anchor.exchange.answering
        self.most_held = max(self.most_held, len(answering._places))
        self.most_begun = max(self.most_begun, len(answering._begun))
        self.network.clock.after(1 / (IDENTITIES * PER_S), self._next)


@pytest.fixture
def network(packet_auth) -> SimNetwork:
    network = SimNetwork(seed=21, packet_auth=packet_auth)
    network.channel.records = False
    return network


@pytest.fixture
def victim(network) -> SimNode:
    node = network.add_node("victim", teams=["ops"])
    node.workers = 2
    node.deferred_s = 0.0005
    return node


def gets_through(network: SimNetwork, peer: SimNode, target: SimNode) -> float:
    """How long the first packet of *peer* and its answer take, the handshake included."""
    ping = peer.ping(target)
    assert network.run_until(lambda: ping.answers == 1, 5)
    return ping.rtt_s


@pytest.mark.parametrize("teams", [["ops"], ["others"], []], ids=["team", "other team", "no team"])
@pytest.mark.parametrize("after_s", [0.3, 1.5])
def test_honest_peer_gets_through_a_flood_from_a_thousand_identities(
    network, victim, teams, after_s
):
    flood = Flood(network, victim, teams)
    network.run(after_s)
    peer = network.add_node("honest", teams=["ops"])
    assert gets_through(network, peer, victim) < 1
    assert peer.anchor.routing.get(victim.node_id).has_direct
    assert flood.sent > 900 * after_s * PER_S
    assert flood.most_held <= MAX_ANSWERED
    assert flood.most_begun <= MAX_OFFERS


def test_honest_peer_gets_through_a_flood_of_strangers_who_ask_for_tethers(network, victim):
    flood = Flood(network, victim, [], tethers=True)
    network.run(1.5)
    assert network.channel.count(Kind.ANSWER) > 500, "they are answered, as far as there is room"
    peer = network.add_node("honest", teams=["ops"])
    assert gets_through(network, peer, victim) < 1
    assert peer.anchor.routing.get(victim.node_id).has_direct
    assert flood.most_held <= MAX_ANSWERED
    assert flood.most_begun <= MAX_OFFERS / 2 + 1, "half of them are not for strangers"


def test_honest_peer_gets_through_when_a_flood_has_filled_the_memory_of_nonces(network, victim):
    victim.anchor.exchange.answering._nonces._limit = 1_000
    Flood(network, victim, ["ops"])
    network.run(1.5)
    assert len(victim.anchor.exchange.answering._nonces._seen) == 1_000
    peer = network.add_node("honest", teams=["ops"])
    assert gets_through(network, peer, victim) < 1


def test_streams_that_there_are_get_new_keys_during_a_flood(network, victim):
    peer = network.add_node("honest", teams=["ops"])
    gets_through(network, peer, victim)
    network.run(1)
    first = peer.anchor.sessions[victim.node_id].out.stream_id
    Flood(network, victim, ["ops"])
    network.run(1)
    peer.anchor.sessions.rekey(peer.anchor.sessions[victim.node_id], network.now())
    assert network.run_until(lambda: peer.anchor.sessions[victim.node_id].out.stream_id != first, 1)


def test_nothing_is_left_of_a_flood(network, victim):
    flood = Flood(network, victim, ["ops"])
    network.run(1)
    flood.stop()
    network.run(150)
    answering = victim.anchor.exchange.answering
    assert len(answering._places) == len(answering._begun) == answering._at_work == 0
    assert not answering._working
    assert not answering._answered
    assert not answering._answers
    assert not answering._nonces._seen
    assert network.underlay.tethers("victim") == []


def test_a_node_that_stops_during_a_flood_leaves_nothing(network, victim):
    Flood(network, victim, ["ops"])
    network.run(0.5)
    victim.anchor.close(now=network.now())
    answering = victim.anchor.exchange.answering
    assert len(answering._places) == 0
    assert not answering._working
    assert not answering._answered
