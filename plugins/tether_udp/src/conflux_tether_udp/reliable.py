"""The reliable lane: ordered messages in numbered segments, each sealed into a datagram of its own.

    send ─► waiting ─► in flight ─► acknowledged
                          └─ lost: three sent later have arrived (RFC 9002 §6.1.1), or RTO ─► again

Selective repeat with a cumulative acknowledgement and a bitmap, timeouts by RFC 6298, a window that
grows and halves as RFC 5681 has it. Sequences are plain integers that never wrap; only the wire
knows their low 32 bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from conflux.api import Buffer, WireError
from conflux_tether_udp.control import (
    FIRST,
    LAST,
    MAX_BITMAP_BYTES,
    MAX_SEGMENT_BYTES,
    Ack,
    Segment,
)

MAX_MESSAGE_BYTES = 16_384
QUEUE_BYTES = 256 * 1024
"""What was taken and is not acknowledged."""
_SEGMENT_COST = 32
"""What a segment counts besides its data: empty messages have an end, too."""
WINDOW = 8 * MAX_BITMAP_BYTES
"""Segments that may be under way: no more than a bitmap can name."""
INITIAL_WINDOW = 10.0  # RFC 6928
LEAST_WINDOW = 2.0
REORDERED = 3
RTO_INITIAL_S, RTO_MIN_S, RTO_MAX_S = 1.0, 0.2, 2.0
DEAD_S = 12.0
"""No progress for so long, though all was sent again and again: the tether is dead."""

_MASK = 0xFFFF_FFFF
_HALF = 1 << 31


class RoundTrip:
    """SRTT, RTTVAR and RTO (RFC 6298 §2), the latest and the least."""

    __slots__ = ("latest_s", "least_s", "srtt_s", "var_s")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: another path."""
        self.srtt_s: float | None = None
        self.var_s = 0.0
        self.least_s = self.latest_s = 0.0

    def sample(self, rtt_s: float) -> None:
        self.latest_s = rtt_s
        if self.srtt_s is None:
            self.srtt_s, self.var_s, self.least_s = rtt_s, rtt_s / 2, rtt_s
        else:
            self.var_s += (abs(self.srtt_s - rtt_s) - self.var_s) / 4
            self.srtt_s += (rtt_s - self.srtt_s) / 8
            self.least_s = min(self.least_s, rtt_s)

    def doubt(self) -> None:
        """An answer came that may be to either of two questions: the next may take longer.

        It says no more than that (Karn's algorithm), as RFC 6298 §5.5 doubles the RTO.
        """
        self.var_s = min(max(2 * self.var_s, (self.srtt_s or 0.0) / 4), RTO_MAX_S)

    @property
    def rto_s(self) -> float:
        if self.srtt_s is None:
            return RTO_INITIAL_S
        return min(max(self.srtt_s + 4 * self.var_s, RTO_MIN_S), RTO_MAX_S)


class _Flight:
    """A segment that was sent. `order` counts transmissions, not segments."""

    __slots__ = ("order", "segment", "sent_at", "tries")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.order = -1
        self.sent_at = 0.0
        self.tries = 0


class ReliableOut:
    """The sending half. `due` is when `timed_out` is to be called."""

    __slots__ = (
        "_again", "_backoff", "_flight", "_held_bytes", "_in_flight", "_newest", "_next", "_order",
        "_progress_at", "_recovery", "_rtt", "_threshold", "_waiting", "_window", "due",
    )  # fmt: skip

    def __init__(self, rtt: RoundTrip) -> None:
        self.due: float | None = None
        self._rtt = rtt
        self._waiting: deque[Segment] = deque()
        self._flight: dict[int, _Flight] = {}
        """By sequence, ascending: sent and not acknowledged."""
        self._again: deque[int] = deque()
        """Of these, lost and to be sent again."""
        self._in_flight = 0
        self._held_bytes = 0
        self._next = 0
        self._order = 0
        self._newest = -1
        """The latest transmission that has arrived."""
        self._window = INITIAL_WINDOW
        self._threshold = float(WINDOW)
        self._recovery = -1
        self._backoff = 1
        self._progress_at = 0.0

    @property
    def held_bytes(self) -> int:
        """What was taken and has not been acknowledged."""
        return self._held_bytes

    def send(self, message: Buffer, now: float) -> bool:
        """Take *message*; False if it does not fit. Raises ValueError beyond MAX_MESSAGE_BYTES."""
        size = len(message)
        if size > MAX_MESSAGE_BYTES:
            msg = f"reliable message of {size} bytes, {MAX_MESSAGE_BYTES} are allowed"
            raise ValueError(msg)
        if self._held_bytes + size > QUEUE_BYTES:
            return False
        data = bytes(message)
        for start in range(0, size or 1, MAX_SEGMENT_BYTES):
            piece = data[start : start + MAX_SEGMENT_BYTES]
            flags = (FIRST if not start else 0) | (LAST if start + len(piece) == size else 0)
            self._waiting.append(Segment(self._next, flags, piece))
            self._next += 1
            self._held_bytes += len(piece) + _SEGMENT_COST
        return True

    def segment(self, room: int, now: float) -> Segment | None:
        """The next segment to send that fits into *room* bytes of data, if the window has room."""
        if self._in_flight >= int(self._window):
            return None
        while self._again and self._again[0] not in self._flight:
            self._again.popleft()
        if self._again:
            flight = self._flight[self._again[0]]
            if len(flight.segment.data) > room:
                return None
            self._again.popleft()
        elif self._waiting and len(self._waiting[0].data) <= room:
            oldest = next(iter(self._flight), self._waiting[0].sequence)
            if self._waiting[0].sequence - oldest >= WINDOW:
                return None
            segment = self._waiting.popleft()
            flight = self._flight[segment.sequence] = _Flight(segment)
        else:
            return None
        if not flight.tries and len(self._flight) == 1:
            self._progress_at = now  # nothing was under way
        flight.order, self._order = self._order, self._order + 1
        flight.sent_at = now
        flight.tries += 1
        self._in_flight += 1
        if self.due is None:
            self.due = now + self._rtt.rto_s * self._backoff
        return flight.segment

    def acknowledged(self, ack: Ack, now: float) -> None:
        """Take an acknowledgement in. Raises WireError for one of what was never sent."""
        base = next(iter(self._flight), self._sent_up_to())
        following = base + _signed(ack.next - base)
        if following > self._sent_up_to():
            raise WireError("acknowledgement of what was never sent")
        bits = int.from_bytes(ack.bitmap, "little")
        arrived = [
            sequence
            for sequence in self._flight
            if sequence < following
            or (sequence > following and bits >> (sequence - following - 1) & 1)
        ]
        if not arrived:
            return
        for sequence in arrived:
            self._arrived(sequence, now)
        self._backoff = 1
        self._progress_at = now
        self._find_lost()
        self.due = now + self._rtt.rto_s if self._flight else None

    def timed_out(self, now: float) -> bool:
        """What is in flight is lost (RFC 6298 §5); False if there was no progress for DEAD_S."""
        if now - self._progress_at >= DEAD_S:
            return False
        self._again = deque(self._flight)
        for flight in self._flight.values():
            flight.order = -1
        self._in_flight = 0
        self._threshold = max(self._window / 2, LEAST_WINDOW)
        self._window = LEAST_WINDOW
        self._recovery = self._order
        self._backoff = min(2 * self._backoff, 16)
        self.due = now + min(self._rtt.rto_s * self._backoff, RTO_MAX_S) if self._flight else None
        return True

    def _sent_up_to(self) -> int:
        return self._waiting[0].sequence if self._waiting else self._next

    def _arrived(self, sequence: int, now: float) -> None:
        flight = self._flight.pop(sequence)
        self._held_bytes -= len(flight.segment.data) + _SEGMENT_COST
        if flight.order < 0:
            return  # it had been given up
        self._in_flight -= 1
        self._newest = max(self._newest, flight.order)
        if flight.tries == 1:  # Karn's algorithm (RFC 6298 §3)
            self._rtt.sample(now - flight.sent_at)
        growth = 1.0 if self._window < self._threshold else 1.0 / self._window
        self._window = min(self._window + growth, float(WINDOW))

    def _find_lost(self) -> None:
        for sequence, flight in self._flight.items():
            if 0 <= flight.order <= self._newest - REORDERED:
                if flight.order >= self._recovery:  # once per window
                    self._recovery = self._order
                    self._threshold = max(self._window / 2, LEAST_WINDOW)
                    self._window = self._threshold
                flight.order = -1
                self._in_flight -= 1
                self._again.append(sequence)


class ReliableIn:
    """The receiving half: hands messages over in order, and says what has arrived."""

    __slots__ = ("_deliver", "_early", "_next", "_parts", "_size", "ack_due")

    def __init__(self, deliver: Callable[[memoryview], None]) -> None:
        self.ack_due = False
        self._deliver = deliver
        self._next = 0
        self._early: dict[int, Segment] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def segment(self, segment: Segment) -> None:
        """Take a segment in. Raises WireError for messages that do not begin, or never end."""
        self.ack_due = True
        ahead = _signed(segment.sequence - self._next)
        if not 0 <= ahead < WINDOW:
            return
        self._early.setdefault(self._next + ahead, segment)
        while (ready := self._early.pop(self._next, None)) is not None:
            self._next += 1
            self._take(ready)

    def ack(self) -> Ack:
        """What has arrived so far."""
        self.ack_due = False
        bits = 0
        for sequence in self._early:
            bits |= 1 << (sequence - self._next - 1)
        return Ack(self._next & _MASK, bits.to_bytes((bits.bit_length() + 7) // 8, "little"))

    def _take(self, segment: Segment) -> None:
        if bool(segment.flags & FIRST) == bool(self._parts):
            raise WireError("segment that neither begins nor continues a message")
        if not segment.data and segment.flags != FIRST | LAST:
            raise WireError("empty segment")  # else a message could have any number of parts
        self._parts.append(segment.data)
        self._size += len(segment.data)
        if self._size > MAX_MESSAGE_BYTES:
            raise WireError("reliable message longer than allowed")
        if segment.flags & LAST:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._deliver(memoryview(whole))


def _signed(difference: int) -> int:
    """The difference of two sequences modulo 2^32, nearest to zero."""
    return (difference + _HALF & _MASK) - _HALF
