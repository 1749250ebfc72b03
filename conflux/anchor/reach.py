"""Reach: one destination in use, and the routes that lead there."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from conflux.anchor.failures import Failures
from conflux.anchor.health import Health
from conflux.anchor.identity import Peer
from conflux.anchor.tether import Neighbour
from conflux.anchor.timers import Timer
from conflux.api import NodeId, Path
from conflux.wire.frame import DATA_BYTE, HEADER_BYTES, MAX_HOPS, OUTER, TAG_BYTES
from conflux.wire.inband import MAX_RELAYS

DIRECT_RETRY_S = 30.0
_FLOW_SPACE = 2**32


@dataclass(slots=True, eq=False)
class Route:
    """One way to a destination: frames go to `neighbour` under `label`."""

    route_id: bytes
    path: Path
    neighbour: Neighbour
    label: int
    last_used: float
    beyond_s: float = 0.0
    """Round trip from the neighbour to the destination, as the relays said at set-up."""
    health: Health = field(default_factory=Health)
    is_untried: bool = False
    """Whether it is new beside others, and takes packets only once an empty frame has arrived."""
    is_leaving: bool = False
    """Whether it takes no new frames and is torn down once those on it have arrived."""

    @property
    def is_suspect(self) -> bool:
        """Whether frames on it went unreported, or its neighbour is silent."""
        return self.health.is_suspect or self.neighbour.is_suspect

    @property
    def is_doubtful(self) -> bool:
        """Whether it is suspect or may be so soon."""
        return bool(self.health.doubts) or self.is_suspect

    @property
    def is_direct(self) -> bool:
        return len(self.path) == 2

    @property
    def relays(self) -> Sequence[NodeId]:
        return self.path[1:-1]

    @property
    def rtt_s(self) -> float | None:
        """Round trip to the destination; None until the neighbour has answered a probe."""
        near_s = self.neighbour.srtt_s
        return None if near_s is None else near_s + self.beyond_s

    @property
    def superframe_bytes(self) -> int:
        """How long a superframe on it should be at most."""
        return self.neighbour.unit_bytes - HEADER_BYTES - TAG_BYTES

    def send(self, frame: bytearray, *, now: float) -> bool:
        """Write the outer header into *frame* and send it; False if it did not fit."""
        OUTER.pack_into(frame, 0, DATA_BYTE, MAX_HOPS, 0, self.label)
        self.last_used = self.neighbour.last_data = now
        return self.neighbour.send(frame)


@dataclass(slots=True, eq=False)
class Pending:
    """A set-up that is under way."""

    route_id: bytes
    reach: Reach
    path: Path
    neighbour: Neighbour
    since: float
    deadline: Timer
    is_told: bool
    """Whether somebody told of the path; else it is a guess."""


@dataclass(slots=True, eq=False)
class Reach:
    """All that is known about reaching one destination."""

    peer: Peer
    is_ready: bool = False
    """Whether it has shown that it has the keys: else a frame could overtake our Open."""
    routes: list[Route] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    usable: list[Route] = field(default_factory=list)
    """Those that are not suspect, tried, and to stay; all if there are none. None until the
    destination is ready."""
    reports: bool = False
    """Whether the destination has ever reported what arrived."""
    shares: list[float] = field(default_factory=list)
    """Running sum of the usable routes' weights."""
    round: int = 0
    search: Timer | None = None
    weighing: Timer | None = None
    failures: Failures = field(default_factory=Failures)
    found: dict[Path, float] = field(default_factory=dict)
    """Paths that others told of, and when: nobody vouches for them."""
    relays: int = 0
    """How many the latest route has; 0 before the first, and for a direct one."""
    ring: int = 0
    """How many relays the next seek may find, once it is no less than MIN_RING."""
    is_widening: bool = False
    """Whether that seek belongs to the same round as the one before."""
    seek_delay_s: float = 0.0
    """How long one relay is given, before paths over several are sought."""
    seek_at: float = 0.0
    """When they are, in the rounds that have begun."""
    direct_retry_s: float = DIRECT_RETRY_S
    direct_retry_at: float = 0.0
    without_route_since: float | None = None

    @property
    def node_id(self) -> NodeId:
        return self.peer.node_id

    @property
    def sound(self) -> list[Route]:
        """Routes that are not in doubt and are to stay."""
        return [route for route in self.routes if not route.is_doubtful and not route.is_leaving]

    @property
    def has_direct(self) -> bool:
        return any(route.is_direct for route in self.routes)

    @property
    def has_sound_direct(self) -> bool:
        return any(route.is_direct and not route.is_doubtful for route in self.routes)

    def choose(self, flow: int) -> Route | None:
        """Return the route for a flow's 32-bit hash; None if none may take a frame now."""
        routes = self.usable
        if len(routes) < 2:
            return routes[0] if routes else None
        point = (flow * 0x9E3779B1 % _FLOW_SPACE) / _FLOW_SPACE * self.shares[-1]
        return routes[min(bisect.bisect_right(self.shares, point), len(routes) - 1)]

    def begin_rounds(self) -> None:
        """Search from the start: a wider seek that was to follow is not due any more."""
        self.round = 0
        self.ring = self.relays
        self.is_widening = False

    def stop(self) -> None:
        for timer in (self.search, self.weighing):
            if timer is not None:
                timer.cancel()


def overlap(ways: Sequence[Collection[NodeId]]) -> int:
    """How many relays those two of *ways* have in common that share the fewest.

    More than any two can if there are not two.
    """
    pairs = itertools.combinations(ways, 2)
    return min((len(set(one).intersection(two)) for one, two in pairs), default=MAX_RELAYS + 1)
