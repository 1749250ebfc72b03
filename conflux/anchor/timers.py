"""Deadlines on a clock that is handed in: the same code runs live and on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Callback = Callable[[float], None]


class Timer:
    """A pending call. `cancel` makes it do nothing."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """Calls back in order of time; equal times in order of setting.

    *on_earliest(when)* is called when a new timer became the earliest: whoever owns the clock then
    sees to it that `run` is called in time.
    """

    __slots__ = ("_heap", "_order", "on_earliest")

    def __init__(self) -> None:
        self.on_earliest: Callback | None = None
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def at(self, when: float, callback: Callback) -> Timer:
        """Call *callback(now)* once `run` is called with a time of *when* or later."""
        timer = Timer(when, callback)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        if self.on_earliest is not None and self._heap[0][2] is timer:
            self.on_earliest(when)
        return timer

    def next_deadline(self) -> float | None:
        """Return the time of the next call, None if nothing waits."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Make every call that is due at *now*, each once."""
        while (when := self.next_deadline()) is not None and when <= now:
            _, _, timer = heapq.heappop(self._heap)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback(now)
