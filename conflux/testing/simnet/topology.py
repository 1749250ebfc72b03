"""Networks of hosts that reach few others, as behind firewalls: rows of relays between two ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conflux.testing.simnet.network import SimNetwork
from conflux.testing.simnet.node import SimNode


@dataclass(frozen=True, slots=True)
class Ladder:
    """Two ends of one team and stages of relays between them; only next stages reach each other."""

    network: SimNetwork
    left: SimNode
    right: SimNode
    stages: Sequence[Sequence[SimNode]]

    @property
    def relays(self) -> list[SimNode]:
        return [relay for stage in self.stages for relay in stage]

    def paths(self, source: SimNode, target: SimNode) -> list[list[str]]:
        """The relays of each route of *source* to *target*, by name; empty without a session."""
        reach = source.anchor.routing.get(target.node_id)
        routes = reach.routes if reach is not None else []
        return [[self.network.name_of(node) for node in route.path[1:-1]] for route in routes]


def ladder(network: SimNetwork, stages: int, *, width: int = 2) -> Ladder:
    """Add left, right, and *stages* of *width* relays: a1, a2, b1, b2 and so on."""
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    letters = "abcdefghijklmnop"[:stages]
    made = [[network.add_node(f"{c}{n + 1}") for n in range(width)] for c in letters]
    rows = [[left], *made, [right]]
    for at, row in enumerate(rows):
        far = [node for row in rows[at + 2 :] for node in row]
        for number, node in enumerate(row):
            network.block(node, *row[number + 1 :], *far)
    return Ladder(network, left, right, made)


def chain(network: SimNetwork, relays: int) -> Ladder:
    """Add left, right, and one relay a stage: a1, b1 and so on."""
    return ladder(network, relays, width=1)
