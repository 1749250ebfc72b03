"""Ingress of a hop: from runs of pieces to opened messages, handed over in order.

    run ─► (Reassembly) ─► Opener ─► message ─► handed over, or held for an earlier one
                 └─ Nack ─► the far end sends pieces again

A message that lacks few pieces is worth waiting for: what came after it is held meanwhile, since
TCP inside would take its packets for lost. Nothing is held for a message that vanished as a whole,
nor for long, nor where a queue is what loses: congestion control inside has to hear of that.
"""

from __future__ import annotations

import math

from conflux.api import Buffer
from conflux_tether_udp.control import Nack, Report
from conflux_tether_udp.datagram import TAILS
from conflux_tether_udp.keys import Opener
from conflux_tether_udp.reassembly import GIVE_UP_S, Reassembly
from conflux_tether_udp.reliable import RoundTrip
from conflux_tether_udp.tally import Tally
from conflux_tether_udp.world import Lanes

MAX_ORDERED_BYTES = 4 << 20
"""What one tether holds for earlier messages; then nothing waits any longer."""
MAX_ORDERED = 256
LONGEST_RTT_S = 0.12
"""Beyond, what is asked for comes too late to be waited for."""
QUEUE_S = 0.03
"""So much more than the path's least round trip: a queue has filled."""
STANDING_S = 0.1
"""If it is one, all answers take that long (RFC 8289 §3). On a busy machine some do."""
PAUSE_S = 1.0
"""After that, or what was asked for in vain or turned out to be forged: nothing is asked for."""
MOST_IN_VAIN = 8
"""Messages since one was repaired: the sender keeps none of them, or they are none of his."""
HOLD_S = GIVE_UP_S
"""The longest that a message is held: pieces may be injected again and again, and name any counter
that never came."""
LEAST_QUIET_S = 0.01
LEAST_TURN_S = 0.004


class Arrivals:
    """What comes in by one tether's datagrams."""

    __slots__ = (
        "_held", "_held_bytes", "_lanes", "_opener", "_pause_until", "_plain", "_reassembly",
        "_rtt", "_tally",
    )  # fmt: skip

    def __init__(
        self,
        opener: Opener,
        plain: memoryview,
        rtt: RoundTrip,
        lanes: Lanes,
    ) -> None:
        """*plain* is where an opened message lies; *rtt* that of the path."""
        self._opener = opener
        self._plain = plain
        self._rtt = rtt
        self._lanes = lanes
        self._tally = Tally()
        self._reassembly = Reassembly(self._tally)
        self._held: dict[int, tuple[float, memoryview]] = {}
        """By counter: since when, and what; oldest first."""
        self._held_bytes = 0
        self._pause_until = 0.0

    @property
    def due(self) -> float:
        """When `poll` has something to do."""
        return min(self._reassembly.due, self._held_until)

    @property
    def _held_until(self) -> float:
        return next((since + HOLD_S for since, _ in self._held.values()), math.inf)

    def open(
        self,
        header: Buffer,
        counter: int,
        index: int,
        last: int,
        count: int,
        body: memoryview,
        piece_bytes: int,
        now: float,
    ) -> int:
        """Take *count* neighbouring pieces; return the size of the message that lies opened now.

        -1 if none does: it is unfinished, a replay or a forgery.
        """
        sealed: Buffer = body
        repaired = self._tally.repaired
        if count <= last:
            if self._opener.seen(counter):
                self._opener.replayed += 1
                return -1
            whole = self._reassembly.add(counter, index, last, body, piece_bytes, now)
            if whole is None:
                return -1
            sealed = whole
            header = bytes(header[:-2]) + TAILS[last][0]
        size = self._opener.open_into(counter, header, sealed, self._plain, now)
        if size >= 0:
            self._tally.arrived(counter, last + 1)
            if self._reassembly:
                self._reassembly.arrived(counter, now)
            if self._tally.repaired != repaired:
                self._reassembly.in_vain = 0
        elif count <= last:
            self._pause(now)  # somebody injects pieces: nothing is to wait for more of them
            self._reassembly.stop_waiting()
            self._release()
        return size

    def message(self, counter: int, size: int, now: float) -> None:
        """Hand over the message that lies opened, once its turn has come."""
        if not self._held and not self._reassembly.keeps_waiting(counter):
            self._lanes.datagram(self._plain[:size])
            return
        self._held[counter] = now, memoryview(bytearray(self._plain[:size]))
        self._held_bytes += size
        if self._held_bytes > MAX_ORDERED_BYTES or len(self._held) > MAX_ORDERED:
            self._reassembly.stop_waiting()
        self._release()

    def poll(self, now: float) -> list[Nack]:
        """Give up what has waited too long; return what to ask for."""
        self._judge(now)
        nacks = self._reassembly.poll(now)
        if self._reassembly.in_vain >= MOST_IN_VAIN:
            self._pause(now)
        if now >= self._held_until:
            self._reassembly.stop_waiting()
        self._release()
        return nacks

    @property
    def has_lost(self) -> bool:
        """Whether messages were given up that no report has told of."""
        return self._tally.broken != self._tally.told

    def report(self, overflows: int) -> Report:
        return self._tally.report(self._reassembly.unfinished(), overflows)

    def path_changed(self) -> None:
        """How long answers took says nothing any more."""
        self._reassembly.forget_turn()

    def clear(self) -> None:
        """The tether is closed: nothing is handed over any more."""
        self._held.clear()
        self._held_bytes = 0

    def _release(self) -> None:
        for counter in sorted(self._held):
            if self._reassembly.keeps_waiting(counter):
                return
            if counter not in self._held:
                return  # closed by what the message before has caused
            _, message = self._held.pop(counter)
            self._held_bytes -= len(message)
            self._lanes.datagram(message)

    def _pause(self, now: float) -> None:
        self._pause_until = now + PAUSE_S
        self._reassembly.quiet_s = None
        self._reassembly.in_vain = 0

    def _judge(self, now: float) -> None:
        """Decide whether to ask at all, and how patiently."""
        reassembly, path, turn = self._reassembly, self._rtt, self._reassembly.turn
        reassembly.quiet_s = None
        if path.srtt_s is None or path.srtt_s > LONGEST_RTT_S or now < self._pause_until:
            return
        reassembly.slow_s = path.least_s + QUEUE_S
        is_first = turn.srtt_s is None
        if path.latest_s > reassembly.slow_s if is_first else reassembly.slow_for_s >= STANDING_S:
            self._pause(now)
            reassembly.forget_turn()
            return
        reassembly.quiet_s = 2 * path.srtt_s + LEAST_QUIET_S
        if turn.srtt_s is None:
            reassembly.turn_s = reassembly.quiet_s
        else:
            turn_s = turn.srtt_s + 4 * turn.var_s
            reassembly.turn_s = min(max(turn_s, LEAST_TURN_S), LONGEST_RTT_S)
