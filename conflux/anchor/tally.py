"""Tally: what a receiver still has to report of one stream."""

from __future__ import annotations

from collections import deque

from conflux.wire.replay import ReplayWindow
from conflux.wire.report import MAX_BITMAP_BYTES, MAX_HELD_US, Report

REPEATS = 4
"""In how many reports in a row a frame is named: that many must be lost to leave it unreported."""


class Tally:
    """The receiving side of one stream. `came_by` is the route id of the latest frame's way."""

    __slots__ = ("_ends", "_late", "came_by", "highest", "highest_at", "is_due", "reports")

    def __init__(self) -> None:
        self.highest = 0
        self.highest_at = 0.0
        self.came_by = b""
        self.is_due = False
        """Whether a frame has come in since the last report."""
        self.reports = 0
        self._late = 0
        """The lowest counter since the last report that came in below `highest`; 0 for none."""
        self._ends: deque[int] = deque((0,), REPEATS)
        """Where the last reports ended, oldest first."""

    def note(self, counter: int, came_by: bytes, now: float) -> bool:
        """A frame with packets came in; return whether it is the first since the last report."""
        if counter > self.highest:
            self.highest = counter
            self.highest_at = now
        elif counter < self._late or not self._late:
            self._late = counter
        self.came_by = came_by
        if self.is_due:
            return False
        self.is_due = True
        return True

    def report(self, stream_id: int, window: ReplayWindow, *, now: float) -> Report:
        """Make the report that is due. Raises nothing; *window* has marked every counter noted."""
        first = min(self._ends[0] + 1, self._late or self.highest)
        held_us = min(int((now - self.highest_at) * 1e6), MAX_HELD_US)
        bitmap = window.slice(first, self.highest, limit=MAX_BITMAP_BYTES)
        self._ends.append(self.highest)
        self._late = 0
        self.is_due = False
        self.reports += 1
        return Report(stream_id, self.highest, held_us, bitmap)
