"""Health: what the far end's reports tell of one route.

WELL ──a frame is unreported for the bound──► DOUBTED: what it took is sent again elsewhere
DOUBTED ──four of them, over 75 ms──► SUSPECT: nothing takes it that has another way
DOUBTED, SUSPECT ──a later frame of its own is reported──► WELL
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conflux.anchor.timers import Timer

SLACK_S = 0.05
INITIAL_RTT_S = 1.0
"""Before anything is measured (RFC 6298 §2.1)."""
MIN_OVERDUE = 4
MIN_OVERDUE_S = 0.075
"""Fewer frames, or closer together, could have been lost with a report or two."""
DELAY_GAIN = 1 / 8


@dataclass(slots=True, eq=False)
class Health:
    """`srtt_s` is the time from a frame to the report that names it, what the receiver waits and
    what a lost report costs included; `delay_s` is without what the receiver waited."""

    srtt_s: float | None = None
    rttvar_s: float = 0.0
    delay_s: float | None = None
    heard_until: float = -1.0
    """When the latest of the reported frames was sent."""
    doubts: list[float] = field(default_factory=list)
    """When the frames were sent that make the route doubted: the first is overdue."""
    is_suspect: bool = False
    timer: Timer | None = None
    """Runs while something is unreported."""
    trial: Timer | None = None
    """When it is tried next, if it is suspect."""
    delivered: int = 0
    lost: int = 0
    told_at: float = 0.0
    """When the router last got `delivered` and `lost`."""

    def measured(self, rtt_s: float) -> None:
        """Smooth a round trip (RFC 6298 §2)."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
        else:
            self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
            self.srtt_s += (rtt_s - self.srtt_s) / 8

    def delayed(self, delay_s: float) -> None:
        """Smooth a round trip without the receiver's wait, for comparing routes."""
        if self.delay_s is None:
            self.delay_s = delay_s
        else:
            self.delay_s += (delay_s - self.delay_s) * DELAY_GAIN

    def heard(self, count: int, sent_at: float) -> None:
        """*count* frames of the route are reported, the latest of which was sent at *sent_at*."""
        self.delivered += count
        if sent_at > self.heard_until:
            self.heard_until = sent_at
            self.doubts.clear()

    def bound_s(self, expected_rtt_s: float | None, floor_s: float) -> float:
        """How long a frame may go unreported: SRTT + 4 RTTVAR + 50 ms, not less than *floor_s*."""
        if self.srtt_s is not None:
            rtt_s, var_s = self.srtt_s, self.rttvar_s
        else:
            rtt_s = INITIAL_RTT_S if expected_rtt_s is None else expected_rtt_s
            var_s = rtt_s / 2
        return max(rtt_s + 4 * var_s + SLACK_S, floor_s)

    def overdue_at(self) -> float | None:
        """The frame in `doubts` that makes the route suspect once it is overdue, by its time."""
        first_at = self.doubts[0]
        for sent_at in self.doubts[MIN_OVERDUE - 1 :]:
            if sent_at - first_at >= MIN_OVERDUE_S:
                return sent_at
        return None
