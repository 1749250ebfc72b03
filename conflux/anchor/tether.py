"""Tethers, grouped by the certified node at their far end: probes, round trips, death, labels.

    join ──connected──► Neighbour: UP ──(nothing heard, probes unanswered, closed)──► DOWN, for good

A tether that dies leaves its neighbour up while another one lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Protocol

from conflux.anchor.identity import Peer, due_from
from conflux.anchor.quota import Quota
from conflux.anchor.seal import Entropy
from conflux.anchor.timers import Timer, Timers
from conflux.api import MAX_MESSAGE_BYTES, LinkSample, NodeId, Tether, TetherStats, WireError
from conflux.wire import inband
from conflux.wire.frame import LABEL_HERE, MessageType, probe, read_probe

PROBE_BUSY_S = 0.25
"""Between probes of a tether that carries frames, and of one that owes an answer."""
PROBE_IDLE_S = 2.0
"""Between probes of any other: they are most of what an idle peer costs."""
FIRST_ECHO_S = 1.0
"""How long the first echo may take."""
PROBE_AGAIN_S = 0.1
"""Between the probes that follow an unanswered one."""
SUSPECT_PROBES = 3
"""So many probes unanswered: nothing is sent over the neighbour that has another way."""
PATIENCE_S = 0.05
"""A probe is unanswered after SRTT + 4 RTTVAR and this."""
STALL_S = 0.02
"""A timer that is later than this: we were asleep ourselves."""
DEAD_PROBES = 4
DEAD_S = 1.5
DEAD_ASKED_S = 1.0
"""Silence of DEAD_S, with DEAD_PROBES probes unanswered and the first of them so long ago, is
death. Generous on purpose: a loaded host that stalls for a second is suspect, but not dead."""
BUSY_S = 2.0
_LOSS_GAIN = 1 / 16
MAX_LABELS = 4_096
MAX_TETHERS = 4
"""To one neighbour: of more than these the oldest is closed."""
EARLY_BYTES = 65_536
"""What may come in over one tether before this end knows that it is connected."""


@dataclass(slots=True, eq=False)
class Hop:
    """Where frames with a label go. Without `next_hop` they end here."""

    route_id: bytes
    label: int
    idle_s: float
    last_used: float
    quota: Quota | None
    """Of the neighbour from which the frames come; None for no limit."""
    next_hop: Neighbour | None = None
    next_label: int = LABEL_HERE


@dataclass(slots=True, eq=False)
class Neighbour:
    """A certified node with at least one live tether. The newest tether carries."""

    peer: Peer
    tethers: list[Tether]
    kinds: dict[Tether, str]
    """Of what kind each of the tethers is."""
    last_heard: float
    last_data: float
    labels: dict[int, Hop] = field(default_factory=dict)
    """Labels that this node gave out for frames from the neighbour."""
    srtt_s: float | None = None
    rttvar_s: float = 0.0
    loss: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    up: bool = True
    sequence: int = 0
    """Of the last probe sent; `unanswered` counts those since the last echo."""
    unanswered: int = 0
    asked_at: float = 0.0
    """When the first of the unanswered probes was sent."""
    is_suspect: bool = False
    """Whether too many probes went unanswered, and nothing was heard since."""
    probe_timer: Timer | None = None
    certify_at: float = 0.0
    """When to ask for its next certificate, Unix seconds."""

    @property
    def node_id(self) -> NodeId:
        return self.peer.node_id

    @property
    def kind(self) -> str:
        """The kind of the tether that carries."""
        return self.kinds[self.tethers[-1]] if self.tethers else ""

    @property
    def unit_bytes(self) -> int:
        """How long a message should be at most."""
        return self.tethers[-1].unit_bytes if self.tethers else MAX_MESSAGE_BYTES

    def send(self, message: bytes | bytearray | memoryview) -> bool:
        """Send on the datagram lane; False if it did not fit."""
        if not self.tethers or not self.tethers[-1].send((message,)):
            return False
        self.sent_bytes += len(message)
        return True

    def send_inband(self, message: inband.Message) -> bool:
        """Send on the reliable lane; False if it did not fit."""
        return bool(self.tethers) and self.tethers[-1].send_reliable(message.encode())

    def remove(self, tether: Tether) -> Tether:
        self.tethers.remove(tether)
        del self.kinds[tether]
        return tether

    def stats(self) -> TetherStats:
        return self.tethers[-1].stats() if self.tethers else TetherStats()

    def new_label(self, entropy: Entropy) -> int | None:
        """A random label that is free; None if the neighbour has too many."""
        if len(self.labels) >= MAX_LABELS:
            return None
        while True:
            label = int.from_bytes(entropy(4), "big")
            if label != LABEL_HERE and label not in self.labels:
                return label

    def patience_s(self, floor_s: float) -> float:
        """How long an echo may take."""
        if self.srtt_s is None:
            return FIRST_ECHO_S
        return max(self.srtt_s + 4 * self.rttvar_s + PATIENCE_S, PROBE_AGAIN_S, floor_s)

    def measured(self, rtt_s: float) -> None:
        """Smooth a round trip (RFC 6298 §2)."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
        else:
            self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
            self.srtt_s += (rtt_s - self.srtt_s) / 8
        self.loss -= self.loss * _LOSS_GAIN


class Listener(Protocol):
    """Hears what happens to neighbours, and what they say in band."""

    def up(self, neighbour: Neighbour, now: float) -> None: ...
    def silent(self, neighbour: Neighbour, now: float) -> None: ...
    def back(self, neighbour: Neighbour, now: float) -> None: ...
    def down(self, neighbour: Neighbour, reason: str, now: float) -> None: ...
    def measured(self, neighbour: Neighbour, sample: LinkSample, now: float) -> None: ...
    def received(self, neighbour: Neighbour, message: inband.Message, now: float) -> None: ...


class Neighbours:
    """All neighbours of a node, by NodeId. `listen` comes before the first of them joins."""

    _listener: Listener

    def __init__(
        self,
        timers: Timers,
        now: Callable[[], float],
        counters: Counter[str],
        *,
        on_datagram: Callable[[Neighbour, memoryview], None],
        floor_s: float,
    ) -> None:
        self._timers = timers
        self._now = now
        self._counters = counters
        self._on_datagram = on_datagram
        self._floor_s = floor_s
        self._by_id: dict[NodeId, Neighbour] = {}

    def listen(self, listener: Listener) -> None:
        """Tell *listener* all that happens from now on."""
        self._listener = listener

    def get(self, node: NodeId) -> Neighbour | None:
        return self._by_id.get(node)

    def all(self) -> list[Neighbour]:
        return list(self._by_id.values())

    def join(self, peer: Peer, tether: Tether, kind: str) -> Callable[[float], None]:
        """Take in *tether*'s messages; return what to call, with the time, once it is connected.

        The far end may know of the connection first: what it sends at once is kept until then.
        """
        lane = _Lane(self, tether, kind)
        tether.attach(lane.datagram, lane.reliable, lane.closed)
        return lambda now: self._joined(lane, peer, now)

    def _joined(self, lane: _Lane, peer: Peer, now: float) -> None:
        neighbour = self._by_id.get(peer.node_id)
        is_new = neighbour is None
        if neighbour is None:
            neighbour = Neighbour(
                peer, [lane.tether], {lane.tether: lane.kind}, last_heard=now, last_data=now
            )
            self._by_id[peer.node_id] = neighbour
        else:
            neighbour.tethers.append(lane.tether)
            neighbour.kinds[lane.tether] = lane.kind
            neighbour.last_heard = now
            if len(neighbour.tethers) > MAX_TETHERS:
                neighbour.remove(neighbour.tethers[0]).close()
        lane.neighbour = neighbour
        self.certified(peer)
        if is_new:
            self._probe(neighbour, now)
            self._listener.up(neighbour, now)
        lane.hand_over()

    def certified(self, peer: Peer) -> None:
        """A handshake showed a certificate of *peer*: its tethers live as long as the newest."""
        neighbour = self._by_id.get(peer.node_id)
        if neighbour is not None:
            if peer.certificate.not_after > neighbour.peer.certificate.not_after:
                neighbour.peer = peer
            neighbour.certify_at = due_from(neighbour.peer.certificate)

    def drop(self, neighbour: Neighbour, reason: str, *, now: float) -> None:
        """Close every tether of *neighbour* and tell the listener, once."""
        if not neighbour.up:
            return
        neighbour.up = False
        del self._by_id[neighbour.node_id]
        if neighbour.probe_timer is not None:
            neighbour.probe_timer.cancel()
        for tether in neighbour.tethers:
            tether.close()
        neighbour.tethers.clear()
        neighbour.kinds.clear()
        self._listener.down(neighbour, reason, now)

    def abandon_tethers(self) -> None:
        """Let nothing out any more, whatever is sent to neighbours until they are dropped."""
        for neighbour in self.all():
            for tether in neighbour.tethers:
                tether.abandon()

    def drop_revoked(self, serials: Container[int], *, now: float) -> None:
        """Drop whose certificate is among *serials*."""
        for neighbour in self.all():
            if neighbour.peer.certificate.serial in serials:
                self.drop(neighbour, "revoked", now=now)

    def answer_probe(self, neighbour: Neighbour, message: memoryview) -> None:
        """Echo a probe. Raises WireError."""
        sequence, stamp_us = read_probe(message)
        neighbour.send(probe(MessageType.PROBE_REPLY, sequence, stamp_us))

    def probe_answered(self, neighbour: Neighbour, message: memoryview, now: float) -> None:
        """Take in an echo. Raises WireError for one that nobody asked for."""
        sequence, stamp_us = read_probe(message)
        rtt_s = now - stamp_us / 1e6
        latest = neighbour.sequence
        # The stamp was rounded: on a link without delay the difference may be just below zero.
        if not 0 <= latest - sequence < 64 or not -1e-3 < rtt_s < 60:
            raise WireError("echo of no probe")
        rtt_s = max(rtt_s, 0.0)
        neighbour.unanswered = 0
        neighbour.measured(rtt_s)
        sample = LinkSample(
            rtt_s=rtt_s, loss=neighbour.loss, queued_bytes=neighbour.stats().queued_bytes
        )
        self._listener.measured(neighbour, sample, now)

    def heard(self, neighbour: Neighbour, now: float) -> None:
        """Something came from *neighbour*: it lives."""
        neighbour.last_heard = now
        if neighbour.is_suspect:
            neighbour.is_suspect = False
            self._listener.back(neighbour, now)

    def hurry(self, neighbour: Neighbour, now: float) -> None:
        """Find out at once whether *neighbour* is there."""
        if neighbour.up and not neighbour.unanswered:
            if neighbour.probe_timer is not None:
                neighbour.probe_timer.cancel()
            self._probe(neighbour, now)

    def take_datagram(self, neighbour: Neighbour, message: memoryview) -> None:
        if neighbour.up:
            self._on_datagram(neighbour, message)

    def take_reliable(self, neighbour: Neighbour, message: memoryview) -> None:
        if not neighbour.up:
            return
        now = self._now()
        self.heard(neighbour, now)
        try:
            decoded = inband.decode(message)
        except WireError:
            self._counters["inband_malformed"] += 1
            return
        self._listener.received(neighbour, decoded, now)

    def tether_closed(self, neighbour: Neighbour, tether: Tether, reason: str) -> None:
        if tether not in neighbour.tethers:
            return
        neighbour.remove(tether)
        if not neighbour.tethers:
            self.drop(neighbour, reason, now=self._now())

    def _probe(self, neighbour: Neighbour, now: float) -> None:
        if neighbour.unanswered:
            neighbour.loss += (1 - neighbour.loss) * _LOSS_GAIN
            self._judge(neighbour, now)
            if not neighbour.up:
                return
        unanswered = neighbour.unanswered
        if not unanswered:
            neighbour.asked_at = now
        neighbour.sequence = neighbour.sequence + 1 & 0xFFFFFFFF
        neighbour.unanswered += 1
        stamp_us = int(now * 1e6)
        neighbour.send(probe(MessageType.PROBE, neighbour.sequence, stamp_us))
        is_busy = now - neighbour.last_data < BUSY_S
        next_at = now + (PROBE_BUSY_S if is_busy else PROBE_IDLE_S)
        wait_s = PROBE_AGAIN_S if unanswered else neighbour.patience_s(self._floor_s)
        self._probe_at(neighbour, min(now + wait_s, next_at), next_at)

    def _probe_at(self, neighbour: Neighbour, when: float, next_at: float) -> None:
        """Probe again at *when* if nothing has answered by then, else at *next_at*."""
        neighbour.probe_timer = self._timers.at(
            when, lambda now: self._probe_due(neighbour, when, next_at, now)
        )

    def _probe_due(self, neighbour: Neighbour, when: float, next_at: float, now: float) -> None:
        if neighbour.unanswered and now - when > STALL_S:
            # We were asleep ourselves: the answer may lie unread.
            self._probe_at(neighbour, now + STALL_S, max(next_at, now + STALL_S))
        elif neighbour.unanswered or now >= next_at:
            self._probe(neighbour, now)
        else:
            self._probe_at(neighbour, next_at, next_at)

    def _judge(self, neighbour: Neighbour, now: float) -> None:
        """Probes of *neighbour* are unanswered: tell whether it is suspect, or dead."""
        if neighbour.last_heard >= neighbour.asked_at:
            # Something else came since the first of them: echoes were lost, no more.
            neighbour.unanswered = 0
            return
        silent_s, asked_s = now - neighbour.last_heard, now - neighbour.asked_at
        if neighbour.unanswered >= SUSPECT_PROBES and not neighbour.is_suspect:
            neighbour.is_suspect = True
            self._listener.silent(neighbour, now)
        if neighbour.unanswered >= DEAD_PROBES and silent_s >= DEAD_S and asked_s >= DEAD_ASKED_S:
            self._silent(neighbour, now)

    def _silent(self, neighbour: Neighbour, now: float) -> None:
        if len(neighbour.tethers) < 2:
            self.drop(neighbour, "no answer", now=now)
            return
        neighbour.remove(neighbour.tethers[-1]).close()
        neighbour.unanswered = 0
        self.heard(neighbour, now)


class _Lane:
    """Where one tether's messages go: kept while it connects, to its neighbour afterwards."""

    __slots__ = ("_early", "_early_bytes", "_neighbours", "kind", "neighbour", "tether")

    def __init__(self, neighbours: Neighbours, tether: Tether, kind: str) -> None:
        self.tether = tether
        self.kind = kind
        self.neighbour: Neighbour | None = None
        self._neighbours = neighbours
        self._early: list[tuple[Callable[[memoryview], None], bytes]] = []
        self._early_bytes = 0

    def datagram(self, message: memoryview) -> None:
        if self.neighbour is not None:
            self._neighbours.take_datagram(self.neighbour, message)
        else:
            self._keep(self.datagram, message)

    def reliable(self, message: memoryview) -> None:
        if self.neighbour is not None:
            self._neighbours.take_reliable(self.neighbour, message)
        else:
            self._keep(self.reliable, message)

    def closed(self, reason: str) -> None:
        if self.neighbour is not None:
            self._neighbours.tether_closed(self.neighbour, self.tether, reason)

    def hand_over(self) -> None:
        early, self._early = self._early, []
        for take, message in early:
            take(memoryview(message))

    def _keep(self, take: Callable[[memoryview], None], message: memoryview) -> None:
        self._early_bytes += len(message)
        if self._early_bytes <= EARLY_BYTES:
            self._early.append((take, bytes(message)))
