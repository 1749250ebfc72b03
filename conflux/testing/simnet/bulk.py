"""A sender that does not wait, to see what arrives, what is lost and how long the gaps are."""

from __future__ import annotations

from itertools import pairwise

from conflux.testing.simnet.network import SimNetwork
from conflux.testing.simnet.node import SimNode

EVERY_S = 0.002
"""1,200-byte packets at this pace are 5 Mbit/s."""


class Bulk:
    """Sends numbered packets at a steady rate, whatever happens."""

    def __init__(self, network: SimNetwork, source: SimNode, target: SimNode) -> None:
        self.network, self.source, self.target = network, source, target
        self.sent_at: list[float] = []
        self.already = len(target.received)

    def run(self, seconds: float, *, every_s: float = EVERY_S, size: int = 1_200) -> None:
        for _ in range(round(seconds / every_s)):
            number = b"bulk %d " % len(self.sent_at)
            self.sent_at.append(self.network.now())
            self.source.send_packet(self.target, number.ljust(size, b"."), port=4_000)
            self.network.run(every_s)

    def arrivals(self) -> list[tuple[int, float]]:
        """(number, time) of everything that arrived, in order of arrival."""
        found = []
        for arrival in self.target.received[self.already :]:
            _, mark, rest = arrival.packet.partition(b"bulk ")
            if mark:
                found.append((int(rest.split(b" ")[0]), arrival.time))
        return found

    def missing(self) -> list[int]:
        return sorted(set(range(len(self.sent_at))) - {number for number, _ in self.arrivals()})

    def doubled(self) -> int:
        numbers = [number for number, _ in self.arrivals()]
        return len(numbers) - len(set(numbers))

    def gap_s(self) -> float:
        """The longest time in which nothing new arrived."""
        times = [time for _, time in self.arrivals()]
        return max(after - before for before, after in pairwise(times))
