"""A thousand identities ask one node all the time; an honest peer still gets through.

The node has two worker threads that take a millisecond for each signature or verification.
"""

from __future__ import annotations

import pytest

from conflux.anchor.answering import MAX_ANSWERED
from conflux.testing.simnet import SimNetwork, SimNode

IDENTITIES = 1_000
PER_S = 4
"""Asks a second of each identity: more than the node could answer."""


class Flood:
    """Identities of *teams* ask *target* for streams, each PER_S times a second, in turn."""

    def __init__(self, network: SimNetwork, target: SimNode, teams: list[str]) -> None:
        self.network = network
        self.target = target
        self.insiders = [network.add_insider(f"x{n}", teams=teams) for n in range(IDENTITIES)]
        self.sent = 0
        self.running = True
        self._next()

    def _next(self) -> None:
        if self.running:
            insider = self.insiders[self.sent % IDENTITIES]
            insider.ask_address(self.target.address.packed)
            self.sent += 1
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
    return node


@pytest.mark.parametrize("teams", [["ops"], ["others"], []], ids=["team", "other team", "no team"])
def test_honest_peer_gets_through_a_flood_from_a_thousand_identities(network, victim, teams):
    flood = Flood(network, victim, teams)
    network.run(2)
    honest = [network.add_node(f"honest {n}", teams=["ops"]) for n in range(3)]
    for peer in honest:
        ping = peer.ping(victim)
        assert network.run_until(lambda: ping.answers == 1, 5)
        print(ping.rtt_s)
        assert ping.rtt_s < 1
    assert flood.sent > 6_000
