"""Ledger: the frames of one stream that were sent lately and not reported yet.

One slot for each counter, in four lists side by side: keeping a frame makes no object. A slot is
empty if its counter was not used for packets, or once its frame is reported, moved or forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conflux.anchor.reach import Route
    from conflux.wire.report import Report

_COMPACT = 512


@dataclass(slots=True, eq=False)
class Again:
    """A frame to be sent once more. `route` is the one that it was sent over, None before that.

    A report before `told_apart_until` is about the frame as `origin` took it at `sent_at`: the
    second one cannot have been reported so soon.
    """

    frame: bytearray
    origin: Route
    sent_at: float
    until: float
    route: Route | None = None
    told_apart_until: float = math.inf


@dataclass(slots=True)
class Heard:
    """Frames on one route that a report named: how many, when the first and last was sent."""

    count: int
    first_at: float
    last_at: float


class Ledger:
    """Counters from `_base` on; slots before `_head` are gone. `again` is by counter."""

    __slots__ = ("_base", "_frames", "_head", "_routes", "_times", "again", "is_listed", "node_id")

    def __init__(self) -> None:
        self._base = 1
        self._head = 0
        self._frames: list[bytearray | None] = []
        self._times: list[float] = []
        self._routes: list[Route | None] = []
        self.again: dict[int, Again] = {}
        self.is_listed = False
        """Whether the Resender finds it by its stream id."""
        self.node_id = b""

    @property
    def end(self) -> int:
        """The next counter to be kept."""
        return self._base + len(self._frames)

    @property
    def slots(self) -> int:
        return len(self._frames) - self._head

    @property
    def oldest_at(self) -> float:
        """When the first slot was filled; only if there is one."""
        return self._times[self._head]

    def keep(self, counter: int, frame: bytearray, route: Route, now: float) -> int:
        """Take a slot for *frame*, and one for each counter left out; return how many."""
        used = counter - self._base - len(self._frames) + 1
        if used > 1:
            self._skip(used - 1, now)
            used = 1 if not self.slots else used
        self._frames.append(frame)
        self._times.append(now)
        self._routes.append(route)
        return used

    def _skip(self, count: int, now: float) -> None:
        if not self.slots:
            self._base += len(self._frames) + count
            self._clear()
            return
        self._frames += [None] * count
        self._times += [now] * count
        self._routes += [None] * count

    def _clear(self) -> None:
        self._frames.clear()
        self._times.clear()
        self._routes.clear()
        self._head = 0

    def drop_oldest(self) -> tuple[bytearray | None, Route | None]:
        """Give up the first slot; return its frame and route."""
        head = self._head
        frame, route = self._frames[head], self._routes[head]
        self._frames[head] = self._routes[head] = None
        self._head = head = head + 1
        if head == len(self._frames):
            self._base += head
            self._clear()
        elif head > _COMPACT and 2 * head > len(self._frames):
            del self._frames[:head], self._times[:head], self._routes[:head]
            self._base += head
            self._head = 0
        return frame, route

    def sent_at(self, counter: int) -> float | None:
        """When the frame went out; None if it is not waiting for its first report."""
        index = counter - self._base
        if not self._head <= index < len(self._frames) or self._frames[index] is None:
            return None
        return self._times[index]

    def take_reported(self, report: Report, now: float) -> tuple[dict[Route, Heard], int]:
        """Empty the slots that *report* names.

        Return what is heard of each route, and the bytes set free. Frames that came by one of two
        routes tell nothing of either. *report* names no counter from `end` on.
        """
        heard: dict[Route, Heard] = {}
        freed = 0
        base, frames = self._base, self._frames
        bitmap, first = report.bitmap, report.first
        for index in range(max(first - base, self._head), report.highest - base + 1):
            frame = frames[index]
            if frame is None:
                continue
            counter = base + index
            if bitmap[(counter - first) >> 3] >> (counter & 7) & 1:
                frames[index] = None
                freed += len(frame)
                route = self._routes[index]
                if route is not None:
                    _hear(heard, route, self._times[index])
        if self.again:
            freed += self._take_again(report, heard, now)
        return heard, freed

    def _take_again(self, report: Report, heard: dict[Route, Heard], now: float) -> int:
        first, highest = report.first, report.highest
        freed = 0
        for counter in [c for c in self.again if first <= c <= highest and report.has(c)]:
            again = self.again.pop(counter)
            freed += len(again.frame)
            if now < again.told_apart_until:
                _hear(heard, again.origin, again.sent_at)
        return freed

    def unheard(self, route: Route, since: float) -> list[float]:
        """When each frame was sent that *route* took after *since*, in order."""
        times: list[float] = []
        # From the end: what is behind the latest report is never long ago.
        for index in range(len(self._frames) - 1, self._head - 1, -1):
            sent_at = self._times[index]
            if sent_at <= since:
                break
            if self._frames[index] is not None and self._routes[index] is route:
                times.append(sent_at)
        times.reverse()
        return times

    def send_again(self, route: Route, *, until: float) -> None:
        """Move what *route* took to `again`; what was sent again over it is to be once more."""
        for index in range(self._head, len(self._frames)):
            frame = self._frames[index]
            if frame is not None and self._routes[index] is route:
                self.again[self._base + index] = Again(frame, route, self._times[index], until)
                self._frames[index] = None
        for again in self.again.values():
            if again.route is route:
                again.route = None

    def expire_again(self, now: float) -> int:
        """Forget what is not worth sending any more; return its bytes."""
        over = [counter for counter, again in self.again.items() if again.until <= now]
        return sum(len(self.again.pop(counter).frame) for counter in over)

    def drop_again(self) -> int:
        """Forget the oldest frame of `again`; return its bytes, 0 if there is none."""
        counter = next(iter(self.again), None)
        return 0 if counter is None else len(self.again.pop(counter).frame)

    def forget(self) -> int:
        """Let go of every frame, keeping the slots; return the bytes."""
        freed = sum(len(again.frame) for again in self.again.values())
        self.again.clear()
        for index, frame in enumerate(self._frames):
            if frame is not None:
                freed += len(frame)
                self._frames[index] = None
        return freed


def _hear(heard: dict[Route, Heard], route: Route, sent_at: float) -> None:
    said = heard.get(route)
    if said is None:
        heard[route] = Heard(1, sent_at, sent_at)
    else:
        said.count += 1
        said.first_at = min(said.first_at, sent_at)
        said.last_at = max(said.last_at, sent_at)
