"""Failures: paths to one destination that failed, and when they may be tried again.

    could not be set up     after the pause that its reason calls for
    broke                   the same, but each time in a row after twice as long

So a relay that sets routes up and breaks them at once is left for those that carry.
"""

from __future__ import annotations

from dataclasses import dataclass

from conflux.api import Path

FIRST_S = 0.3
LONGEST_S = 60.0
FORGIVEN_S = 30.0
"""A path that did not fail for so long after its pause breaks as for the first time."""


@dataclass(slots=True)
class _Failure:
    until: float
    broke_s: float
    """The pause after it broke the last time in a row; 0 before the first."""

    def is_recent(self, now: float) -> bool:
        return now < self.until + FORGIVEN_S


class Failures:
    """Of paths that a node knows or was told of; forgotten with their destination."""

    __slots__ = ("_by_path",)

    def __init__(self) -> None:
        self._by_path: dict[Path, _Failure] = {}

    def failed(self, path: Path, pause_s: float, *, now: float) -> None:
        """*path* could not be set up."""
        former = self._recent(path, now)
        self._by_path[path] = _Failure(now + pause_s, former.broke_s if former is not None else 0.0)

    def broke(self, path: Path, pause_s: float, *, longest_s: float, now: float) -> None:
        """*path* stood and broke: the first time it pauses for *pause_s*, never for longer than
        *longest_s*."""
        former = self._recent(path, now)
        if former is not None:
            pause_s = max(pause_s, 2 * former.broke_s, FIRST_S)
        pause_s = min(pause_s, longest_s)
        self._by_path[path] = _Failure(now + pause_s, pause_s)

    def is_over(self, path: Path, *, now: float) -> bool:
        """Tell whether *path* may be tried."""
        failure = self._by_path.get(path)
        return failure is None or now >= failure.until

    def drop_old(self, now: float) -> None:
        """Forget what counts no more."""
        self._by_path = {
            path: failure for path, failure in self._by_path.items() if failure.is_recent(now)
        }

    def _recent(self, path: Path, now: float) -> _Failure | None:
        former = self._by_path.get(path)
        return former if former is not None and former.is_recent(now) else None
