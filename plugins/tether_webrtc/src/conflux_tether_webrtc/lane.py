"""The datagram lane's queue: what waits for the congestion window, bounded by time.

A bound in bytes alone is two seconds on a path of 1 Mbit/s. CoDel (RFC 8289) drops at the head, so
that TCP inside hears of it one round trip later, and only where the queue stands; what it cannot
slow down in time, a flood, goes once it has waited too long to be of use.
"""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import Protocol, TypeVar

TARGET_S = 0.010
"""What may always wait: two of RFC 8289's 5 ms, for the schedulers of two busy machines."""

INTERVAL_S = 0.100
"""How long a queue may stand above it before the first drop; a round trip where that is longer."""

MOST_WAIT_S = 0.250
"""The longest that anything waits; a round trip where that is longer."""


class Waits(Protocol):
    """What can wait here; `queued_at` is when it came."""

    data: bytes
    queued_at: float


_M = TypeVar("_M", bound=Waits)


class Lane(deque[_M]):
    """First in, first out. `take` is the only way out; `dropped` counts what left by no way."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.dropped_bytes = 0
        self._late_at: float | None = None  # a queue that still stands then is dropped from
        self._is_dropping = False
        self._next_drop_at = 0.0
        self._count = 0
        self._last_count = 0

    def take(self, now: float, round_trip_s: float) -> _M | None:
        """The next message, after those that are dropped in front of it; None if none waits."""
        interval = max(INTERVAL_S, round_trip_s)
        most_wait = max(MOST_WAIT_S, round_trip_s)
        while len(self) > 1 and now - self[0].queued_at > most_wait:
            self._drop()
        stands = self._stands(now, interval)
        if not stands:
            self._is_dropping = False
        elif not self._is_dropping:
            self._begin(now, interval)
        else:
            while self._is_dropping and now >= self._next_drop_at:
                self._drop()
                self._count += 1
                self._next_drop_at += interval / sqrt(self._count)
                self._is_dropping = self._stands(now, interval)
        return self.popleft() if self else None

    def _stands(self, now: float, interval: float) -> bool:
        """Whether the head has been late for an interval. A lone message is no queue (§5.3)."""
        if len(self) < 2 or now - self[0].queued_at < max(TARGET_S, interval / 10):
            self._late_at = None
            return False
        if self._late_at is None:
            self._late_at = now + interval
        return now >= self._late_at

    def _begin(self, now: float, interval: float) -> None:
        """Drop the first; go on as fast as the last time if that was not long ago (§4.3)."""
        self._drop()
        self._is_dropping = True
        recent = self._count - self._last_count
        is_soon = now - self._next_drop_at < 16 * interval
        self._count = self._last_count = recent if recent > 1 and is_soon else 1
        self._next_drop_at = now + interval / sqrt(self._count)

    def _drop(self) -> None:
        message = self.popleft()
        self.dropped += 1
        self.dropped_bytes += len(message.data)
