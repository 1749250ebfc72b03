"""The simplest router that is one."""

from __future__ import annotations

from collections.abc import Sequence

from conflux.api import NodeId, Path, Router, Settings


class EqualRouter(Router):
    """Spreads over every path alike, whatever is measured."""

    def __init__(self, settings: Settings | None = None) -> None:
        """There is nothing to set."""

    def weigh(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> Sequence[float]:
        return [1.0] * len(paths)
