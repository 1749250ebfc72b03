"""How much may be in flight (RFC 9260 §7.2), with bytes counted and growth bound by delay.

Times are seconds of any monotonic clock.

A window that grows until something is lost fills whatever queue the path has, and every flow inside
the tether waits in it. So the window heeds how much longer than the least a round trip takes. But a
queue that we hold up ourselves hides what the least is: from time to time the sender lets it run
empty, for about one round trip, and looks.
"""

from __future__ import annotations

SEGMENT_BYTES = 1_160
INITIAL_WINDOW_BYTES = 10 * SEGMENT_BYTES  # RFC 6928's figure
LEAST_WINDOW_BYTES = 4 * SEGMENT_BYTES
MOST_WINDOW_BYTES = 4 << 20

FLOWS = 4
"""How many ordinary flows the window behaves like once slow start is over: it grows by that many
segments in a round trip and gives up one part in twice as many for a loss, as so many flows
together would. A tether carries all flows between two hosts, each with its own congestion control
inside, and must not be what slows a single one down."""

RTO_INITIAL_S = 1.0
RTO_MIN_S = 0.2
RTO_MAX_S = 8.0

DELAY_KNEE_S, DELAY_CEILING_S = 0.004, 0.010
"""See `_flows`: what the schedulers of two busy machines may add to a round trip."""

LEAST_RTT_AGE_S = 10.0
"""The path is looked at if no round trip was as short as the least for so long."""

LULL_INTERVAL_S = 1.0
"""And if they are above the ceiling, but not more often than this."""


class Congestion:
    """The window, the round trips and the retransmission timeout of one direction."""

    def __init__(self) -> None:
        self.window = INITIAL_WINDOW_BYTES
        self.loss = 0.0
        self.srtt: float | None = None
        self.rto = RTO_INITIAL_S
        self._threshold = MOST_WINDOW_BYTES
        self._rtt = 0.0
        self._rttvar = 0.0
        self.least_rtt = float("inf")
        self._least_at = 0.0
        self._lull_bytes: int | None = None  # the window for as long as one lasts
        self._lull_empty_at: float | None = None

    @property
    def patience_s(self) -> float:
        """How old a chunk is at least that is lost, if a later one has arrived (RFC 8985 §6.2)."""
        return self.rto if self.srtt is None else 1.25 * max(self._rtt, self.srtt)

    @property
    def probe_s(self) -> float:
        """How long nothing may be heard until there is a probe (RFC 8985 §7.2)."""
        return self.rto if self.srtt is None else 2 * self.srtt + 4 * self._rttvar

    def limit(self, now: float, flight_bytes: int) -> int:
        """How many bytes may be in flight, of which there are *flight_bytes*."""
        if self._lull_bytes is None:
            return self.window
        if self._lull_empty_at is None and flight_bytes <= self._lull_bytes:
            self._lull_empty_at = now
        return self._lull_bytes

    def on_round_trip(self, now: float, sent_at: float) -> None:
        """Take what one sent at *sent_at*, and only then, has told by arriving."""
        self._rtt = rtt = now - sent_at
        if self.srtt is None:
            self.srtt = rtt
            self._rttvar = rtt / 2
        else:
            self._rttvar += (abs(self.srtt - rtt) - self._rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.rto = min(max(self.srtt + 4 * self._rttvar, RTO_MIN_S), RTO_MAX_S)
        if self._lull_empty_at is not None and sent_at >= self._lull_empty_at:
            self._end_lull(now, rtt)
        if rtt <= self.least_rtt:
            self.least_rtt = rtt
            self._least_at = now
        elif self._lull_bytes is None:
            self._consider_lull(now, self.srtt)

    def _consider_lull(self, now: float, srtt: float) -> None:
        age = now - self._least_at
        ceiling = self._ceiling_s()
        if age > LEAST_RTT_AGE_S or (srtt > ceiling and age > LULL_INTERVAL_S):
            # Half of what the path holds without a queue.
            half = int(self.window * self.least_rtt / srtt / 2)
            self._lull_bytes = max(half, LEAST_WINDOW_BYTES)
            self._lull_empty_at = None

    def _end_lull(self, now: float, rtt: float) -> None:
        """*rtt* is of a packet that met no queue of ours: the least anew, and what follows."""
        before = self.srtt or rtt
        self._lull_bytes = self._lull_empty_at = None
        self.least_rtt = rtt
        self._least_at = now
        share = max(self._ceiling_s() / before, 0.75)
        if share < 1:
            self.window = max(int(self.window * share), LEAST_WINDOW_BYTES)
            self._threshold = min(self._threshold, self.window)

    def on_sack(self, delivered: int, lost: int, *, limited: bool, is_new_loss: bool) -> None:
        """Bytes came out of flight; *limited* says whether the window had been what held back."""
        total = delivered + lost
        if total > 0:
            self.loss += (lost / total - self.loss) * min(1.0, total / (64 * SEGMENT_BYTES))
        if lost:
            if is_new_loss:
                # Slow start overshoots by half; afterwards one flow of several yields.
                share = 2 if self.window < self._threshold else 2 * FLOWS
                self.window = max(self.window - self.window // share, LEAST_WINDOW_BYTES)
                self._threshold = self.window
            return
        if delivered <= 0 or not limited or self._lull_bytes is not None:
            return
        flows = self._flows()
        if flows < FLOWS:
            self._threshold = min(self._threshold, self.window)
        if self.window < self._threshold:
            growth = delivered
        else:
            growth = flows * SEGMENT_BYTES * delivered // self.window
        self.window = min(self.window + growth, MOST_WINDOW_BYTES)

    def _flows(self) -> int:
        """As how many flows the window may grow, by how long the last round trip took.

        A longer one than the least means that a queue builds: the bottleneck's, or the far end's
        socket buffer where both ends are near. A lost chunk costs its whole message here, so the
        last share of a queue is worth no loss: claim it like one flow, and leave what only delays.
        """
        if self._rtt <= 1.25 * self.least_rtt + DELAY_KNEE_S:
            return FLOWS
        return 1 if self._rtt <= self._ceiling_s() else 0

    def _ceiling_s(self) -> float:
        return 2 * self.least_rtt + DELAY_CEILING_S

    def on_timeout(self) -> None:
        self._threshold = max(self.window // 2, LEAST_WINDOW_BYTES)
        self.window = LEAST_WINDOW_BYTES
        self.rto = min(2 * self.rto, RTO_MAX_S)
        self._lull_bytes = self._lull_empty_at = None

    def on_idle(self) -> None:
        """Nothing was sent for an RTO: what the window knew of the path has aged."""
        self.window = max(self.window // 2, min(self.window, INITIAL_WINDOW_BYTES))
