"""The virtual clock: a queue of calls, and a time that jumps from one to the next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

_Call = Callable[[], None]


class Clock:
    """Calls due at one time are made in the order in which they were asked for."""

    def __init__(self) -> None:
        self._now = 0.0
        self._queue: list[tuple[float, int, _Call]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Virtual seconds since the network was made."""
        return self._now

    def at(self, when: float, call: _Call) -> None:
        """Make *call* at *when*, or at the next step if that has passed."""
        heapq.heappush(self._queue, (max(when, self._now), next(self._order), call))

    def after(self, wait_s: float, call: _Call) -> None:
        self.at(self._now + wait_s, call)

    def run_until(self, predicate: Callable[[], bool], until: float) -> bool:
        """Make calls until *predicate* holds; False if it does not by *until*.

        The time is then *until* exactly. Whatever a call raises ends the run and comes out here.
        """
        if predicate():
            return True
        while self._queue and self._queue[0][0] <= until:
            self._now, _, call = heapq.heappop(self._queue)
            call()
            if predicate():
                return True
        self._now = max(self._now, until)
        return False
