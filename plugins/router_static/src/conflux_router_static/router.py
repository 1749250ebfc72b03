"""Lowest measured round-trip time, load spread over the paths that are equally good.

    cost of a link  =  smoothed RTT + what its losses cost
    cost of a path  =  sum of its links' costs + what the path's own losses cost
    equally good    =  within `tolerance` or `tolerance_ms` of the best, whichever reaches further;
                       where that is `tolerance_ms`, those of them with the fewest links

Equally good paths get the same weight, all others none. A path that carries flows is given up at
twice the tolerance only, so that noise in the measurements does not move flows to and fro.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from conflux.api import (
    Link,
    LinkSample,
    NodeId,
    Path,
    PathSample,
    Router,
    Settings,
    UsageError,
)

NEUTRAL_RTT_S = 0.05
"""What an unmeasured link counts while no other link of the paths on offer is measured either."""

SMOOTHING = 1 / 8
"""Weight of a new measurement in the smoothed RTT and loss (RFC 6298 §2, alpha)."""

ENOUGH_FRAMES = 32
"""Of a path's frames fewer than these say less about its losses: one lost of one is no 100 %."""

RETRANSMISSION_S = 0.2
"""What the loss of a packet costs the flow that lost it: a TCP retransmission timeout at least."""

WORST_LOSS = 0.95
"""Loss above this costs no more: such a path is as good as dead, and dividing by 0 is not."""

FORGET_LOSS_S = 30.0
"""Half-life of what is known of a path's own losses: a path without flows gets no reports."""

REMEMBERED = 4_096
"""Links, paths and destinations of which something is known at most; the oldest go first."""


@dataclass(slots=True)
class LinkEstimate:
    """What is known of one link. `rtt_s` is None until it was measured."""

    rtt_s: float | None = None
    loss: float = 0.0
    is_lost: bool = False


@dataclass(slots=True)
class PathLoss:
    """The share of frames that a path lost, as its far end reported, at the time `at`."""

    loss: float
    at: float


class StaticRouter(Router):
    """Learns nothing beyond averages, so it is easy to foresee; the baseline for other routers."""

    def __init__(self, settings: Settings) -> None:
        """Raise UsageError for a setting that is unknown or out of range."""
        self._tolerance = _number(settings, "tolerance", default=0.25, most=10.0)
        self._tolerance_s = _number(settings, "tolerance_ms", default=5.0, most=10_000.0) / 1_000
        if unknown := sorted(settings.keys() - {"tolerance", "tolerance_ms"}):
            raise UsageError(
                f"[plugin.router.static] has no setting {unknown[0]}: "
                "there are tolerance and tolerance_ms"
            )
        self._links: _Remembered[Link, LinkEstimate] = _Remembered()
        self._losses: _Remembered[Path, PathLoss] = _Remembered()
        self._in_use: _Remembered[NodeId, frozenset[Path]] = _Remembered()

    def weigh(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> Sequence[float]:
        alive = [path for path in paths if not self._is_lost(path)]
        # The kernel offers no lost path. Should it ever, trying all of them beats giving up.
        chosen = self._equally_good(destination, alive or list(paths), now=now)
        self._in_use.put(destination, chosen)
        return [1.0 if path in chosen else 0.0 for path in paths]

    def link_measured(self, link: Link, sample: LinkSample, *, now: float) -> None:
        known = self._links.get(_undirected(link))
        if known is None or known.is_lost:
            # What was true before a loss says nothing about the link that came back.
            fresh = LinkEstimate(rtt_s=sample.rtt_s, loss=sample.loss)
            self._links.put(_undirected(link), fresh)
            return
        known.loss += SMOOTHING * (sample.loss - known.loss)
        if sample.rtt_s is not None:
            before = sample.rtt_s if known.rtt_s is None else known.rtt_s
            known.rtt_s = before + SMOOTHING * (sample.rtt_s - before)
        self._links.put(_undirected(link), known)

    def link_lost(self, link: Link, *, now: float) -> None:
        self._links.put(_undirected(link), LinkEstimate(is_lost=True))

    def path_measured(self, path: Path, sample: PathSample, *, now: float) -> None:
        frames = sample.delivered + sample.lost
        if frames:
            before = self._loss_of(path, now=now)
            gain = SMOOTHING * min(frames / ENOUGH_FRAMES, 1.0)
            loss = before + gain * (sample.lost / frames - before)
            self._losses.put(path, PathLoss(loss, now))

    def _equally_good(
        self, destination: NodeId, paths: Sequence[Path], *, now: float
    ) -> frozenset[Path]:
        neutral_s = self._neutral_rtt_s(paths)
        costs = {path: self._cost_s(path, neutral_s, now=now) for path in paths}
        best = min(costs.values())
        reach = max(best * self._tolerance, self._tolerance_s)
        used = self._in_use.get(destination) or frozenset()
        good = [
            path
            for path, cost in costs.items()
            if cost <= best + (2 * reach if path in used else reach)
        ]
        if reach > best * self._tolerance:
            # So short a time tells of busy hosts, not of ways: a relay less is what counts.
            fewest = min(map(len, good))
            good = [path for path in good if len(path) == fewest]
        return frozenset(good)

    def _cost_s(self, path: Path, neutral_s: float, *, now: float) -> float:
        cost = _cost_of_loss_s(self._loss_of(path, now=now))
        for link in itertools.pairwise(path):
            known = self._links.get(_undirected(link)) or LinkEstimate()
            cost += neutral_s if known.rtt_s is None else known.rtt_s
            cost += _cost_of_loss_s(known.loss)
        return cost

    def _neutral_rtt_s(self, paths: Sequence[Path]) -> float:
        """Return what an unmeasured link counts: as much as a measured one of those on offer.

        Neither better, which would draw every flow to what nobody knows, nor worse, which would
        keep it unknown.
        """
        links = {_undirected(link) for path in paths for link in itertools.pairwise(path)}
        known = [self._links.get(link) for link in links]
        measured = [estimate.rtt_s for estimate in known if estimate and estimate.rtt_s is not None]
        # Sorted: the sum of floats depends on their order, and that of a set on its history.
        return sum(sorted(measured)) / len(measured) if measured else NEUTRAL_RTT_S

    def _loss_of(self, path: Path, *, now: float) -> float:
        known = self._losses.get(path)
        return known.loss * 0.5 ** ((now - known.at) / FORGET_LOSS_S) if known else 0.0

    def _is_lost(self, path: Path) -> bool:
        estimates = (self._links.get(_undirected(link)) for link in itertools.pairwise(path))
        return any(estimate is not None and estimate.is_lost for estimate in estimates)


_K = TypeVar("_K")
_V = TypeVar("_V")


class _Remembered(Generic[_K, _V]):
    """A dictionary of at most REMEMBERED entries; what was put longest ago is forgotten first."""

    def __init__(self) -> None:
        self._entries: dict[_K, _V] = {}

    def get(self, key: _K) -> _V | None:
        return self._entries.get(key)

    def put(self, key: _K, value: _V) -> None:
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > REMEMBERED:
            del self._entries[next(iter(self._entries))]


def _undirected(link: Link) -> Link:
    """A round trip goes both ways: the two directions of a link share one estimate."""
    a, b = link
    return link if a <= b else (b, a)


def _cost_of_loss_s(loss: float) -> float:
    """Expected retransmissions, each at RETRANSMISSION_S."""
    loss = min(loss, WORST_LOSS)
    return RETRANSMISSION_S * loss / (1 - loss)


def _number(settings: Settings, name: str, *, default: float, most: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise UsageError(f"[plugin.router.static] {name} must be a number from 0 to {most:g}")
    return float(value)
