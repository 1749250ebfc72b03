"""Reporter: tells each peer, inside our stream to it, which of its frames have arrived.

A report goes out 25 ms after the first frame that it is about; frames that hold only control
messages, reports among them, are about nothing. It goes back the way by which the latest frame
came, if there is a route that is its reverse: of all ways that one has just been seen to work.
docs/protocol/report.md §3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from conflux.anchor.reach import Reach, Route
from conflux.anchor.stream import InStream, Session
from conflux.anchor.timers import Timers
from conflux.api import NodeId, Path
from conflux.wire.control import Kind, envelope

REPORT_S = 0.025
NO_WAY_S = 0.1
"""Before a report that found no route is tried again."""

Tell = Callable[[Session, Reach, Route, bytes, float], bool]


class Reporter:
    """Sends the reports that inbound streams owe."""

    def __init__(
        self,
        timers: Timers,
        counters: Counter[str],
        *,
        session_of: Callable[[NodeId], Session | None],
        want: Callable[[Session, float], Reach],
        path_of: Callable[[bytes], Path | None],
        tell: Tell,
    ) -> None:
        self._timers = timers
        self._counters = counters
        self._session_of = session_of
        self._want = want
        self._path_of = path_of
        self._tell = tell

    def owed(self, stream: InStream, now: float) -> None:
        """A frame of *stream* is the first since the last report."""
        self._timers.at(now + REPORT_S, lambda now: self._report(stream, now))

    def answer(self, session: Session, message: bytes, now: float) -> None:
        """Send *message*, which answers frames of the peer, if there is a way."""
        # Whoever only receives keeps a way back: without answers its peer would give up.
        session.last_sent = now
        reach = self._want(session, now)
        route = self.way_back(reach, session.inbound) if session.inbound is not None else None
        if route is not None:
            self._tell(session, reach, route, message, now)

    def _report(self, stream: InStream, now: float) -> None:
        session = self._session_of(stream.session.node_id)
        if session is None:
            return
        reach = self._want(session, now)
        route = self.way_back(reach, stream)
        if route is None:
            self._timers.at(now + NO_WAY_S, lambda now: self._report(stream, now))
            return
        report = stream.tally.report(stream.stream_id, stream.replay, now=now)
        if report.bitmap and self._tell(
            session, reach, route, envelope(Kind.REPORT, report.encode()), now
        ):
            # The way back is in use as long as frames come in.
            session.last_sent = now

    def way_back(self, reach: Reach, stream: InStream) -> Route | None:
        tally = stream.tally
        came = self._path_of(tally.came_by) if tally.came_by else None
        for route in reach.routes:
            if route.is_direct if not tally.came_by else route.path == (came and came[::-1]):
                return route
        # Any other: not always the same one, which might be the one that does not work.
        return reach.choose(tally.reports)
