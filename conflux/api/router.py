"""Contract of router drivers: they weigh paths. They read no clock and no global random source.

The kernel measures and moves frames; a router turns measurements into weights. The same router
object runs in a live node and on the simulator's virtual clock.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from conflux.api.types import Link, NodeId, Path, Settings


@dataclass(slots=True, kw_only=True)
class LinkSample:
    """One measurement of one of this node's own tethers. None: not measured this time."""

    rtt_s: float | None
    loss: float = 0.0
    """Share of probes and messages lost lately, 0 to 1."""
    queued_bytes: int = 0
    rate_bytes_s: float = 0.0
    """What the tether carried lately."""


@dataclass(slots=True, kw_only=True)
class PathSample:
    """What the far end of a path reported about frames that took it."""

    delay_s: float | None
    """One way, relative: comparable between paths of one destination, not absolute."""
    delivered: int
    lost: int


class Router(abc.ABC):
    """Weighs paths from this node. Not thread safe; called from the event loop, never per packet.

    Only `weigh` must be written; a router that learns takes what it needs of the rest. `now` is
    in seconds on a clock that only goes forward. `gossip` and `hear` are part of the contract, but
    the kernel carries no gossip yet (docs/roadmap.md).
    """

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    def start(self, node: NodeId, seed: int) -> None:
        """Learn who this node is; *seed* feeds the router's own random source. Called once."""

    @abc.abstractmethod
    def weigh(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> Sequence[float]:
        """Return one weight for each of *paths*, which are all alive and never none.

        Weights are finite, not negative, at least one above zero; the kernel sends that share of
        flows down each path. Same history, same weights.
        """

    def link_measured(self, link: Link, sample: LinkSample, *, now: float) -> None:
        """Take in a measurement of this node's tether *link*, or of one on a known path."""

    def link_lost(self, link: Link, *, now: float) -> None:
        """*link* is dead: no offered path uses it until it is measured again."""

    def path_measured(self, path: Path, sample: PathSample, *, now: float) -> None:
        """Take in what the destination of *path* reported."""

    def propose(
        self, destination: NodeId, *, limit: int, avoid: frozenset[NodeId], now: float
    ) -> Sequence[Path]:
        """Name at most *limit* simple paths worth setting up, best first, through no *avoid* node.

        Paths start at this node, end at *destination*, have at most 4 relays. None by default:
        the kernel then looks for relays by itself.
        """
        return ()

    def gossip(self, *, now: float) -> bytes:
        """Return what the neighbours should hear, at most 8 KiB; empty for nothing."""
        return b""

    def hear(self, origin: NodeId, gossip: bytes, *, now: float) -> None:
        """Take in what `gossip` of the certified node *origin* said. Raises WireError if it is
        malformed; the bytes are as foreign as any."""
