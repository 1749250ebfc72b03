"""What stands between the protocol and a router plugin: no fault in it may stop traffic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

from conflux.api import Link, LinkSample, NodeId, Path, PathSample, Router

T = TypeVar("T")


class Weigher:
    """Calls a router; what it raises or gives wrongly is counted, and all paths weigh alike."""

    def __init__(self, router: Router, counters: Counter[str]) -> None:
        self._router = router
        self._counters = counters

    def start(self, node: NodeId, seed: int) -> None:
        self._ask(lambda: self._router.start(node, seed), None)

    def link_measured(self, link: Link, sample: LinkSample, *, now: float) -> None:
        self._ask(lambda: self._router.link_measured(link, sample, now=now), None)

    def link_lost(self, link: Link, *, now: float) -> None:
        self._ask(lambda: self._router.link_lost(link, now=now), None)

    def path_measured(self, path: Path, sample: PathSample, *, now: float) -> None:
        self._ask(lambda: self._router.path_measured(path, sample, now=now), None)

    def propose(self, destination: NodeId, *, limit: int, now: float) -> Sequence[Path]:
        """At most *limit* paths; nothing about them is checked yet."""

        def propose() -> Sequence[Path]:
            avoid: frozenset[NodeId] = frozenset()
            paths = self._router.propose(destination, limit=limit, avoid=avoid, now=now)
            return [tuple(path) for path in paths][:limit]

        return self._ask(propose, ())

    def shares(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> list[float]:
        """The running sum of the weights of *paths*, the last of which is 1."""

        def weigh() -> list[float]:
            weights = [float(w) for w in self._router.weigh(destination, paths, now=now)]
            return weights if _is_usable(weights, len(paths)) else []

        nothing: list[float] = []
        weights = self._ask(weigh, nothing)
        if not weights:
            self._counters["router_gave_unusable_weights"] += 1
            weights = [1.0] * len(paths)
        total = math.fsum(weights)
        return [*accumulate(weight / total for weight in weights[:-1]), 1.0]

    def _ask(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception:  # noqa: BLE001 (a router is somebody else's code)
            self._counters["router_failed"] += 1
            return otherwise


def _is_usable(weights: Sequence[float], count: int) -> bool:
    return (
        len(weights) == count
        and all(math.isfinite(weight) and weight >= 0 for weight in weights)
        and 0 < sum(weights) < math.inf
    )
