"""Whether a node that has nothing to do looks again for a moment instead of sleeping.

A processor that sleeps takes some 30 µs to wake up, and an echo between two nodes waits for four of
them. Who looks again instead spends CPU time, so it is done only while it pays. No clock is read
here: it is a function of how long each wait, and the work behind it, lasted.
"""

from __future__ import annotations

SHORT_WAITS = 4
"""So many waits in a row that ended within the budget, and the next one is spent awake."""

MAX_SHORT_WAITS = 1024
"""Each time that being awake was in vain twice as many are asked for, up to these."""


class Awake:
    """Decides for one loop. *budget_s*: how long one wait is spent awake at most, in seconds."""

    __slots__ = ("_asked", "_short", "budget_s")

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._asked = SHORT_WAITS
        self._short = 0

    @property
    def pays(self) -> bool:
        """Whether the next wait is to be spent awake."""
        return self._short >= self._asked

    def worked(self, seconds: float) -> None:
        """What there was to do between two waits took so long: more than lone packets take."""
        if seconds > self.budget_s:
            self._short = 0

    def waited(self, seconds: float) -> None:
        """A wait is over, after *seconds*, whether it was spent awake or asleep."""
        if seconds > self.budget_s:
            if self.pays:
                self._asked = min(self._asked * 2, MAX_SHORT_WAITS)
            self._short = 0
            return
        self._short += 1
        if self._short >= 2 * self._asked:  # it paid as often as it had been asked for
            self._asked = max(self._asked // 2, SHORT_WAITS)
            self._short = self._asked
