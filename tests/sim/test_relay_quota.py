"""Relays with limits: what one neighbour may push, and what is left to the others."""

from __future__ import annotations

from conflux.anchor.quota import BURST_BYTES, BYTES_PER_MBIT, Relaying
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import AuthLevel

SIZE = 1_400
SECONDS = 5


class Relayed:
    """*pairs* of nodes with one relay between all of them, and a route each way."""

    def __init__(self, relaying: Relaying, *, pairs: int) -> None:
        self.network = SimNetwork(seed=1, packet_auth=AuthLevel.HANDSHAKE)
        self.pairs: list[tuple[SimNode, SimNode]] = []
        for n in range(pairs):
            ends = [self.network.add_node(f"{side} {n}", teams=["ops"]) for side in ("from", "to")]
            self.pairs.append((ends[0], ends[1]))
        nodes = list(self.network.nodes.values())
        for at, node in enumerate(nodes):
            self.network.block(node, *nodes[at + 1 :])
        self.relay = self.network.add_node("relay", relaying=relaying)
        pings = [source.ping(target) for source, target in self.pairs]
        assert self.network.run_until(lambda: all(ping.answers for ping in pings), 10)
        self.network.run(1)

    def push(self, *mbits: float) -> list[float]:
        """Let each pair's first node send so many Mbit/s of packets; return what arrived."""
        before = [len(target.received) for _, target in self.pairs]
        owed = [0.0] * len(mbits)
        for _ in range(SECONDS * 1_000):
            for n, mbit in enumerate(mbits):
                owed[n] += mbit * BYTES_PER_MBIT / 1_000
                while owed[n] >= SIZE:
                    owed[n] -= SIZE
                    source, target = self.pairs[n]
                    source.send_packet(target, bytes(SIZE - 28))
            self.network.run(0.001)
        self.network.run(1)
        arrived = [
            len(target.received) - count
            for (_, target), count in zip(self.pairs, before, strict=True)
        ]
        return [count * SIZE / BYTES_PER_MBIT / SECONDS for count in arrived]

    @property
    def dropped(self) -> int:
        return self.relay.anchor.counters["relay_over_quota"]


BURST = BURST_BYTES / BYTES_PER_MBIT / SECONDS


def test_without_limits_everything_is_carried():
    relayed = Relayed(Relaying(), pairs=1)
    [arrived] = relayed.push(8)
    assert arrived > 7.9
    assert relayed.dropped == 0


def test_what_a_neighbour_pushes_over_its_limit_is_dropped_and_counted():
    relayed = Relayed(Relaying(neighbour_mbit=2), pairs=1)
    [arrived] = relayed.push(8)
    assert 1.8 < arrived < 2 + 2 * BURST
    assert relayed.dropped > 0.6 * 8 * BYTES_PER_MBIT * SECONDS / SIZE


def test_a_greedy_neighbour_costs_one_within_its_share_nothing():
    relayed = Relayed(Relaying(mbit=4), pairs=2)
    greedy, modest = relayed.push(12, 1)
    assert modest > 0.99
    assert 2.5 < greedy < 3 + 2 * BURST


def test_neighbours_that_all_want_more_get_alike():
    relayed = Relayed(Relaying(mbit=3), pairs=3)
    arrived = relayed.push(6, 3, 2)
    assert max(arrived) < 1.3 * min(arrived)
    assert sum(arrived) < 3 + 4 * BURST
