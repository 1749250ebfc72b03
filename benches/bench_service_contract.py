"""What the contract of service installers costs: a running node never calls one.

First how often two whole nodes, with a service driver installed, call it while they start, carry
packets and end. Then microseconds of one verb through a driver that the registry chose and made,
beside the same object made by hand: what a verb of a real driver costs is all the system's. Medians
of interleaved rounds.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

from benches.whole_nodes import carry, registry
from conflux.api import Kind, ServiceDriver, ServiceUnit
from conflux.testing import MemoryService

PACKETS = 20_000
CALLS = 5_000
ROUNDS = 15
UNIT = ServiceUnit(command=["/usr/bin/veilnet-conflux", "run"], description="VeilNet Conflux")


def main() -> None:
    carry(PACKETS).print("service")
    print(f"\n{'one verb':<12}{'driver µs':>11}{'bare µs':>9}{'ratio':>7}")
    chosen: ServiceDriver = registry(counting=False).create(Kind.SERVICE, {})[1]
    ours, theirs = verbs(chosen), verbs(MemoryService())
    for name in ours:
        rounds = [(timed(ours[name]), timed(theirs[name])) for _ in range(ROUNDS)]
        driver, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:<12}{driver * 1e6:>11.3f}{bare * 1e6:>9.3f}{driver / bare:>7.2f}")


def verbs(driver: ServiceDriver) -> dict[str, Callable[[], object]]:
    """Each verb of the contract, in an order in which each is allowed."""
    driver.install(UNIT)
    return {
        "install": lambda: driver.install(UNIT),
        "start": driver.start,
        "restart": driver.restart,
        "state": driver.state,
        "stop": driver.stop,
    }


def timed(verb: Callable[[], object]) -> float:
    return timeit.timeit(verb, number=CALLS) / CALLS


if __name__ == "__main__":
    main()
