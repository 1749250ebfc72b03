"""Ingress of a hop: from runs of pieces to opened messages, handed over in order.

    run ─► (Reassembly) ─► Opener ─► message ─► handed over, or held for an earlier one
                 └─ Nack ─► the far end sends pieces again

A message that lacks few pieces is worth waiting for: what came after it is held meanwhile, since
TCP inside would take its packets for lost. Nothing is held for a message that vanished as a whole,
nor for long, nor where a queue is what loses: congestion control inside has to hear of that.
"""

from __future__ import annotations

from conflux.api import Buffer
from conflux_tether_udp.control import Nack, Report
from conflux_tether_udp.datagram import TAILS
from conflux_tether_udp.keys import Opener
from conflux_tether_udp.reassembly import Reassembly
from conflux_tether_udp.reliable import RoundTrip
from conflux_tether_udp.tally import Tally
from conflux_tether_udp.world import Lanes

MAX_ORDERED_BYTES = 4 << 20
"""What one tether holds for earlier messages; then nothing waits any longer."""
MAX_ORDERED = 256
LONGEST_RTT_S = 0.12
"""Beyond, what is asked for comes too late to be waited for."""
QUEUE_S = 0.03
"""So much more than the path's least round trip: a queue is filling."""
PAUSE_S = 1.0
"""After that nothing is asked for, so long."""
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
        self._held: dict[int, memoryview] = {}
        self._held_bytes = 0
        self._pause_until = 0.0

    @property
    def due(self) -> float:
        """When `poll` has something to do."""
        return self._reassembly.due

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
                self._reassembly.overtaken(counter, now)
        return size

    def message(self, counter: int, size: int) -> None:
        """Hand over the message that lies opened, once its turn has come."""
        if not self._held and not self._reassembly.keeps_waiting(counter):
            self._lanes.datagram(self._plain[:size])
            return
        self._held[counter] = memoryview(bytearray(self._plain[:size]))
        self._held_bytes += size
        if self._held_bytes > MAX_ORDERED_BYTES or len(self._held) > MAX_ORDERED:
            self._reassembly.stop_waiting()
        self._release()

    def poll(self, now: float) -> list[Nack]:
        """Give up what has waited too long; return what to ask for."""
        self._judge(now)
        nacks = self._reassembly.poll(now)
        self._release()
        return nacks

    @property
    def has_lost(self) -> bool:
        """Whether messages were given up that no report has told of."""
        return self._tally.broken != self._tally.told

    def report(self, overflows: int) -> Report:
        return self._tally.report(self._reassembly.unfinished(), overflows)

    def clear(self) -> None:
        """The tether is closed: nothing is handed over any more."""
        self._held.clear()
        self._held_bytes = 0

    def _release(self) -> None:
        for counter in sorted(self._held):
            if self._reassembly.keeps_waiting(counter):
                return
            message = self._held.pop(counter, None)
            if message is None:
                return  # closed by what the message before has caused
            self._held_bytes -= len(message)
            self._lanes.datagram(message)

    def _judge(self, now: float) -> None:
        """Decide whether to ask at all, and how patiently."""
        reassembly, path, turn = self._reassembly, self._rtt, self._reassembly.turn
        reassembly.quiet_s = None
        if path.srtt_s is None or path.srtt_s > LONGEST_RTT_S or now < self._pause_until:
            return
        # One late answer may be a busy machine: several questions say it better.
        lately_s = path.latest_s if turn.srtt_s is None else turn.srtt_s
        if lately_s > path.least_s + QUEUE_S:
            self._pause_until = now + PAUSE_S
            turn.forget()
            return
        reassembly.quiet_s = 2 * path.srtt_s + LEAST_QUIET_S
        if turn.srtt_s is None:
            reassembly.turn_s = reassembly.quiet_s
        else:
            turn_s = turn.srtt_s + 4 * turn.var_s
            reassembly.turn_s = min(max(turn_s, LEAST_TURN_S), LONGEST_RTT_S)
