"""How long what is not used stays: streams, routes, tethers (docs/protocol/route.md §7)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleTimes:
    """Seconds without a frame. What is derived lets the end that uses a thing forget it first, so
    that nobody sends into the void: at equal settings of both ends, and with time to spare for
    housekeeping and the way."""

    stream_s: float = 60.0
    """After so long our stream to a peer is over. Below the age at which keys are renewed, since
    what is idle is not rekeyed."""
    route_s: float = 60.0
    """After so long a relayed route is torn down while there is another one."""
    tether_s: float = 75.0
    """After so long a tether is closed that no route leads over."""

    @property
    def inbound_s(self) -> float:
        """After so long the peer's stream to us is over."""
        return _outlasting(self.stream_s)

    @property
    def relay_s(self) -> int:
        """What relays are asked for, in whole seconds."""
        return math.ceil(_outlasting(self.route_s))

    @property
    def housekeeping_s(self) -> float:
        """Between two looks at what is idle: the more exact the shorter the times."""
        return min(5.0, min(self.stream_s, self.route_s, self.tether_s) / 4)


def _outlasting(seconds: float) -> float:
    return max(1.5 * seconds, seconds + 2)
