"""Networks of the simulator, ready made, at each level of packet authentication.

Hours of virtual time are long at three levels: what a file's tests do for that long runs at the
default level, and test_packet_auth.py repeats what the levels could change.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import AuthLevel

LONG = ("test_time", "test_rekey", "test_renewals", "test_handshakes", "test_ask_floods")
"""Files whose tests run at the default level only."""


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    said_itself = any("packet_auth" in mark.args[0] for mark in marks)
    if "packet_auth" in metafunc.fixturenames and not said_itself:
        name = metafunc.module.__name__.rpartition(".")[2]
        levels = [AuthLevel.CHECKPOINT] if name in LONG else list(AuthLevel)
        metafunc.parametrize("packet_auth", levels, ids=lambda level: level.name.lower())


@pytest.fixture
def pair(packet_auth: AuthLevel) -> Pair:
    network = SimNetwork(seed=1, packet_auth=packet_auth)
    return Pair(
        network, network.add_node("left", teams=["ops"]), network.add_node("right", teams=["ops"])
    )


@pytest.fixture
def relayed(packet_auth: AuthLevel) -> Relayed:
    network = SimNetwork(seed=2, packet_auth=packet_auth)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    return Relayed(network, left, right, [network.add_node(name) for name in ("one", "two")])
