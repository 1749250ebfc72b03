"""Networks of the simulator, ready made."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from conflux.testing.simnet import SimNetwork, SimNode


@dataclass
class Pair:
    """Two nodes of one team."""

    network: SimNetwork
    left: SimNode
    right: SimNode


@dataclass
class Relayed(Pair):
    """Two nodes of one team that only reach each other over relays."""

    relays: list[SimNode]


@pytest.fixture
def pair() -> Pair:
    network = SimNetwork(seed=1)
    return Pair(
        network, network.add_node("left", teams=["ops"]), network.add_node("right", teams=["ops"])
    )


@pytest.fixture
def relayed() -> Relayed:
    network = SimNetwork(seed=2)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    return Relayed(network, left, right, [network.add_node(name) for name in ("one", "two")])
