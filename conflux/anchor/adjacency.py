"""Adjacency: what happens to neighbours, and which stages hear of it.

up, silent, back, down ─► Relay, Routing, Seeking
in-band message        ─► whose route, seek, flood or session it is about; else Relay
housekeeping           ─► its certificate is asked for anew, or it is dropped
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from conflux.anchor.asker import Asker
from conflux.anchor.identity import due_again_s
from conflux.anchor.idle import IdleTimes
from conflux.anchor.post import Flooding
from conflux.anchor.relay import Relay
from conflux.anchor.route import Routing
from conflux.anchor.seek import Seeking
from conflux.anchor.sessions import Sessions
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.api import LinkSample
from conflux.wire import inband
from conflux.wire.frame import LABEL_HERE


class Adjacency:
    """What Neighbours tells, packets aside (tether.Listener)."""

    def __init__(
        self,
        neighbours: Neighbours,
        counters: Counter[str],
        wall: Callable[[float], float],
        *,
        asker: Asker,
        flooding: Flooding,
        relay: Relay,
        routing: Routing,
        seeking: Seeking,
        sessions: Sessions,
        idle: IdleTimes,
    ) -> None:
        self._neighbours = neighbours
        self._counters = counters
        self._wall = wall
        self._asker = asker
        self._flooding = flooding
        self._relay = relay
        self._routing = routing
        self._seeking = seeking
        self._sessions = sessions
        self._idle = idle

    def up(self, neighbour: Neighbour, now: float) -> None:
        self._relay.neighbour_up(neighbour, now)
        self._routing.neighbour_up(neighbour, now)
        self._seeking.neighbour_up(neighbour, now)

    def silent(self, neighbour: Neighbour, now: float) -> None:
        self._counters["neighbour_suspect"] += 1
        self._routing.neighbour_silent(neighbour, now)

    def back(self, neighbour: Neighbour, now: float) -> None:
        self._routing.neighbour_back(neighbour, now)

    def down(self, neighbour: Neighbour, reason: str, now: float) -> None:
        self._counters[f"neighbour_down: {reason}"] += 1
        self._relay.neighbour_down(neighbour, now)
        self._routing.neighbour_down(neighbour, now)
        self._seeking.neighbour_down(neighbour)

    def measured(self, neighbour: Neighbour, sample: LinkSample, now: float) -> None:
        self._routing.measured(neighbour, sample, now)

    def received(self, neighbour: Neighbour, message: inband.Message, now: float) -> None:
        """Hand *message* to the stage that it is for."""
        if isinstance(message, inband.SetupOk):
            ours = self._routing.set_up(neighbour, message, now)
        elif isinstance(message, inband.SetupFailed):
            ours = self._routing.set_up_failed(neighbour, message, now)
        elif isinstance(message, inband.Teardown):
            ours = self._routing.torn_down(neighbour, message.route_id, now)
        elif isinstance(message, inband.LabelUnknown) and message.label == LABEL_HERE:
            self._sessions.forgotten_by(neighbour.node_id, now)
            ours = True
        elif isinstance(message, inband.Flood):
            self._flooding.received(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.Seek):
            self._seeking.received(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.Found):
            self._seeking.found(neighbour, message, now)
            ours = True
        elif isinstance(message, inband.LabelUnknown):
            ours = self._routing.label_unknown(neighbour, message.label, now)
        else:
            ours = False
        if not ours:
            self._relay.received(neighbour, message, now)

    def keep_house(self, now: float) -> None:
        """Drop neighbours that are not needed or not certified any more."""
        used = self._routing.neighbours_in_use() | self._relay.neighbours_in_use()
        for neighbour in self._neighbours.all():
            self._check(neighbour, neighbour.node_id in used, now)

    def _check(self, neighbour: Neighbour, in_use: bool, now: float) -> None:
        if self._wall(now) >= neighbour.peer.certificate.not_after:
            self._neighbours.drop(neighbour, "certificate ended", now=now)
        elif not in_use and now - neighbour.last_data > self._idle.tether_s:
            self._neighbours.drop(neighbour, "idle", now=now)
        elif in_use and self._wall(now) >= neighbour.certify_at:
            # It has a new one by now.
            neighbour.certify_at = self._wall(now) + due_again_s(neighbour.peer.certificate)
            self._asker.certificate(neighbour.node_id, now)
