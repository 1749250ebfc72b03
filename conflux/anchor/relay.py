"""Relaying: labels are switched, frames are never opened (docs/protocol/route.md).

    Setup from the previous node ──► (tether to the next) ──► Setup on ──► SETUP_OK back
    WAITING: no tether yet       PASSED_ON: no answer yet    CARRIED: it has a label
        └──── 6 s, refused, a tether lost, torn down: forgotten, both sides told ────┘

A relay learns the nodes, sizes and times of a route; the end that it leads to accepts it only from
an origin with which it has streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from conflux.anchor.limits import RateLimit
from conflux.anchor.quota import Quotas, Relaying
from conflux.anchor.seal import Entropy
from conflux.anchor.tether import Hop, Neighbour, Neighbours
from conflux.anchor.timers import Timer, Timers
from conflux.api import NodeId, Path
from conflux.wire.frame import DATA_BYTE, LABEL_HERE, OUTER
from conflux.wire.inband import (
    LabelUnknown,
    Message,
    Reason,
    Setup,
    SetupFailed,
    SetupOk,
    Teardown,
)

MAX_ROUTES_PER_NEIGHBOUR = 256
MAX_WAITING_PER_NEIGHBOUR = 4
MAX_WAITING = 32
MAX_IDLE_S = 3600
SETUP_S = 6.0
"""From Setup to SETUP_OK, a new tether to the next node included; less than the origin waits."""


@dataclass(slots=True, eq=False)
class _Relayed:
    """A route that this node carries or ends. Without `after` it ends here or waits for a tether.

    `deadline` runs until the route has a label.
    """

    setup: Setup
    before: Neighbour
    after: Neighbour | None = None
    label: int = LABEL_HERE
    deadline: Timer | None = None


class Relay:
    """Every route that others lead through or to this node."""

    def __init__(
        self,
        me: NodeId,
        timers: Timers,
        neighbours: Neighbours,
        entropy: Entropy,
        counters: Counter[str],
        *,
        relaying: Relaying,
        ask_node: Callable[[NodeId, float], None],
        accepts_from: Callable[[NodeId], bool],
        on_accepted: Callable[[NodeId, Path, float], None],
    ) -> None:
        self._me = me
        self._timers = timers
        self._neighbours = neighbours
        self._entropy = entropy
        self._counters = counters
        self._ask_node = ask_node
        self._accepts_from = accepts_from
        self._on_accepted = on_accepted
        self._is_relay = relaying.enabled
        self._quotas = Quotas(relaying)
        self._routes: dict[bytes, _Relayed] = {}
        self._held: Counter[NodeId] = Counter()
        """How many of them come from each neighbour."""
        self._waiting: dict[bytes, _Relayed] = {}
        """Those that wait for a tether to the next node."""
        self._complaints = RateLimit(per_s=4, burst=8)

    @property
    def carried(self) -> int:
        """How many routes lead through this node."""
        return sum(1 for relayed in self._routes.values() if relayed.after is not None)

    def path_of(self, route_id: bytes) -> Path | None:
        """The nodes of a route that leads through or to this node; None if it is unknown."""
        relayed = self._routes.get(route_id)
        return None if relayed is None else tuple(relayed.setup.path)

    def neighbours_in_use(self) -> set[NodeId]:
        """The nodes that routes of others come from or go to."""
        routes = self._routes.values()
        return {r.before.node_id for r in routes} | {r.after.node_id for r in routes if r.after}

    # The packet path

    def forward(self, message: memoryview, hop_limit: int, hop: Hop, *, now: float) -> None:
        """Switch the label and send on; the frame itself stays as it is."""
        if hop_limit <= 1 or hop.next_hop is None:
            self._counters["relay_hop_limit"] += 1
            return
        quota = hop.quota
        if quota is not None and not quota.allows(len(message), now):
            self._counters["relay_over_quota"] += 1
            return
        hop.last_used = hop.next_hop.last_data = now
        header = OUTER.pack(DATA_BYTE, hop_limit - 1, 0, hop.next_label)
        if not hop.next_hop.send(b"".join((header, message[OUTER.size :]))):
            self._counters["relay_full"] += 1

    def complain(self, neighbour: Neighbour, label: int, *, now: float) -> None:
        """Tell *neighbour*, not too often, that *label* means nothing here."""
        self._counters["label_unknown"] += 1
        if self._complaints.allows(neighbour.node_id, now=now):
            neighbour.send_inband(LabelUnknown(label))

    # In-band messages

    def received(self, neighbour: Neighbour, message: Message, now: float) -> None:
        if isinstance(message, Setup):
            self._setup(neighbour, message, now)
        elif isinstance(message, SetupOk):
            self._confirm(neighbour, message, now)
        elif isinstance(message, SetupFailed):
            self._end_from_after(neighbour, message.route_id, message.reason)
        elif isinstance(message, Teardown):
            self._torn_down(neighbour, message)
        elif isinstance(message, LabelUnknown):
            self._label_unknown(neighbour, message.label)

    def _setup(self, before: Neighbour, setup: Setup, now: float) -> None:
        reason = self._objection(before, setup)
        if reason is not None:
            self._counters["setup_refused"] += 1
            before.send_inband(SetupFailed(setup.route_id, reason))
            return
        relayed = self._routes[setup.route_id] = _Relayed(setup, before)
        self._held[before.node_id] += 1
        if setup.path[-1] == self._me:
            self._end_here(relayed, now)
            return
        relayed.deadline = self._timers.at(
            now + SETUP_S, lambda _: self._fail(relayed, Reason.NO_TETHER)
        )
        after = self._neighbours.get(self._next(setup))
        if after is not None:
            self._pass_on(relayed, after)
        else:
            self._waiting[setup.route_id] = relayed
            self._ask_node(self._next(setup), now)

    def _objection(self, before: Neighbour, setup: Setup) -> Reason | None:
        path = setup.path
        at = path.index(self._me) if self._me in path else 0
        if at == 0 or path[at - 1] != before.node_id or setup.route_id in self._routes:
            return Reason.REFUSED
        if path[-1] != self._me and not self._is_relay:
            return Reason.REFUSED
        is_full = self._held[before.node_id] >= MAX_ROUTES_PER_NEIGHBOUR
        if is_full or not 0 < setup.idle_s <= MAX_IDLE_S:
            return Reason.BUSY
        if path[-1] != self._me and self._neighbours.get(self._next(setup)) is None:
            # Each of these makes us ask for a tether: others' needs must not use up our own Asks.
            theirs = sum(1 for relayed in self._waiting.values() if relayed.before is before)
            if theirs >= MAX_WAITING_PER_NEIGHBOUR or len(self._waiting) >= MAX_WAITING:
                return Reason.BUSY
        if path[-1] == self._me and not self._accepts_from(path[0]):
            return Reason.NO_HANDSHAKE
        return None

    def _next(self, setup: Setup) -> NodeId:
        return setup.path[setup.path.index(self._me) + 1]

    def _end_here(self, relayed: _Relayed, now: float) -> None:
        if self._label(relayed, SetupOk(relayed.setup.route_id, LABEL_HERE), None, now):
            path = tuple(relayed.setup.path)
            self._on_accepted(path[0], path, now)

    def _pass_on(self, relayed: _Relayed, after: Neighbour) -> None:
        relayed.after = after
        self._waiting.pop(relayed.setup.route_id, None)
        if not after.send_inband(relayed.setup):
            self._fail(relayed, Reason.BUSY)

    def _confirm(self, after: Neighbour, message: SetupOk, now: float) -> None:
        relayed = self._routes.get(message.route_id)
        if relayed is None or relayed.after is not after or relayed.label != LABEL_HERE:
            self._counters["inband_unexpected"] += 1
            return
        self._label(relayed, message, after, now)

    def _label(
        self, relayed: _Relayed, answer: SetupOk, after: Neighbour | None, now: float
    ) -> bool:
        """Give out a label for frames from the previous node and tell it; False if it failed."""
        before, setup = relayed.before, relayed.setup
        if relayed.deadline is not None:
            relayed.deadline.cancel()
            relayed.deadline = None
        label = before.new_label(self._entropy)
        if label is None:
            self._fail(relayed, Reason.BUSY)
            return False
        relayed.label = label
        before.labels[label] = Hop(
            setup.route_id,
            label,
            setup.idle_s,
            now,
            self._quotas.of(before.node_id),
            next_hop=after,
            next_label=answer.label,
        )
        rtts_us = list(answer.rtts_us)
        if after is not None:
            rtts_us.insert(0, min(int((after.srtt_s or 0) * 1e6), 0xFFFFFFFF))
        return before.send_inband(SetupOk(setup.route_id, label, rtts_us[:4]))

    def _torn_down(self, neighbour: Neighbour, message: Teardown) -> None:
        relayed = self._routes.get(message.route_id)
        if relayed is None:
            return
        if neighbour is relayed.before:
            self._remove(relayed)
            if relayed.after is not None:
                relayed.after.send_inband(message)
        else:
            self._end_from_after(neighbour, message.route_id, message.reason)

    def _end_from_after(self, after: Neighbour, route_id: bytes, reason: Reason) -> None:
        relayed = self._routes.get(route_id)
        if relayed is not None and relayed.after is after:
            relayed.after = None
            self._fail(relayed, reason)

    def _label_unknown(self, after: Neighbour, label: int) -> None:
        for relayed in list(self._routes.values()):
            hop = relayed.before.labels.get(relayed.label)
            if relayed.after is after and hop is not None and hop.next_label == label:
                self._fail(relayed, Reason.BROKEN)

    def _fail(self, relayed: _Relayed, reason: Reason) -> None:
        """Remove a route; tell the node before in the word that its state calls for, and after."""
        route_id = relayed.setup.route_id
        known = relayed.label != LABEL_HERE
        self._remove(relayed)
        relayed.before.send_inband(
            Teardown(route_id, reason) if known else SetupFailed(route_id, reason)
        )
        if relayed.after is not None:
            relayed.after.send_inband(Teardown(route_id, reason))

    def _remove(self, relayed: _Relayed) -> None:
        if relayed.deadline is not None:
            relayed.deadline.cancel()
        relayed.before.labels.pop(relayed.label, None)
        self._waiting.pop(relayed.setup.route_id, None)
        if self._routes.pop(relayed.setup.route_id, None) is not None:
            self._held[relayed.before.node_id] -= 1
            if not self._held[relayed.before.node_id]:
                del self._held[relayed.before.node_id]

    # Neighbours and time

    def neighbour_up(self, neighbour: Neighbour, now: float) -> None:
        for relayed in list(self._waiting.values()):
            if self._next(relayed.setup) == neighbour.node_id:
                self._pass_on(relayed, neighbour)

    def neighbour_down(self, neighbour: Neighbour, now: float) -> None:
        for relayed in list(self._routes.values()):
            if relayed.before is neighbour:
                self._remove(relayed)
                if relayed.after is not None:
                    relayed.after.send_inband(Teardown(relayed.setup.route_id, Reason.BROKEN))
            elif relayed.after is neighbour:
                relayed.after = None
                self._fail(relayed, Reason.BROKEN)

    def drop_idle(self, now: float) -> None:
        self._complaints.drop_idle(now)
        self._quotas.drop_idle(lambda node: self._neighbours.get(node) is None, now)
        for relayed in list(self._routes.values()):
            hop = relayed.before.labels.get(relayed.label)
            if hop is not None and now - hop.last_used > hop.idle_s:
                self._remove(relayed)
