"""What asking a router costs: `weigh` for one destination, and taking in one measurement.

The kernel asks once a second and destination, never per packet; the last column says how
many destinations in use would keep one core busy with nothing else. Rounds are interleaved.

    .venv/bin/python benches/bench_router_contract.py
"""

from __future__ import annotations

import itertools
import statistics
import timeit
from collections.abc import Callable

from conflux.api import LinkSample, NodeId, Path, PathSample, Router
from conflux.testing import EqualRouter
from conflux_router_static.router import StaticRouter

CALLS = 500
ROUNDS = 15
ASKED_PER_S = 1.0
PATHS = (1, 2, 4, 8, 16)
HERE, THERE = NodeId(bytes(32)), NodeId(b"\xff" * 32)


def main() -> None:
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, router in (("equal", EqualRouter({})), ("static", StaticRouter({}))):
        for count in PATHS:
            calls[name, f"weigh {count} paths"] = _weighing(router, count)
        calls[name, "link_measured"] = _link_measured(router)
        calls[name, "path_measured"] = _path_measured(router)
    print(f"{'router':<10}{'call':<18}{'us':>9}{'destinations a core':>22}")
    for (name, call), seconds in _interleaved(calls).items():
        capacity = f"{1 / seconds / ASKED_PER_S:>22,.0f}" if call.startswith("weigh") else ""
        print(f"{name:<10}{call:<18}{seconds * 1_000_000:>9.2f}{capacity}")


def _paths(count: int) -> list[Path]:
    """One direct path, the others through one or two relays of their own."""
    relays = [NodeId(n.to_bytes(32, "big")) for n in range(1, 2 * count + 1)]
    relayed: list[Path] = [
        (HERE, relays[2 * n], THERE) if n % 2 else (HERE, relays[2 * n], relays[2 * n + 1], THERE)
        for n in range(count - 1)
    ]
    return [(HERE, THERE), *relayed]


def _weighing(router: Router, count: int) -> Callable[[], object]:
    paths = _paths(count)
    for n, path in enumerate(paths):
        for link in itertools.pairwise(path):
            router.link_measured(link, LinkSample(rtt_s=0.01 + n / 1_000), now=0.0)
    return lambda: router.weigh(THERE, paths, now=1.0)


def _link_measured(router: Router) -> Callable[[], object]:
    sample = LinkSample(rtt_s=0.01, loss=0.001)
    return lambda: router.link_measured((HERE, THERE), sample, now=1.0)


def _path_measured(router: Router) -> Callable[[], object]:
    sample = PathSample(delay_s=0.01, delivered=100, lost=0)
    return lambda: router.path_measured((HERE, THERE), sample, now=1.0)


def _interleaved(
    calls: dict[tuple[str, str], Callable[[], object]],
) -> dict[tuple[str, str], float]:
    rounds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            rounds[key].append(timeit.timeit(call, number=CALLS) / CALLS)
    return {key: statistics.median(times) for key, times in rounds.items()}


if __name__ == "__main__":
    main()
