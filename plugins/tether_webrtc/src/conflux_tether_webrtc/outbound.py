"""The sending half of an SCTP association (RFC 9260 §6, §7; RFC 3758), without I/O and clock.

Times are seconds of any monotonic clock. TSNs are plain integers that never wrap; only the wire
knows their low 32 bits.

Why not aiortc's own: it walks everything in flight for every SACK, sends one chunk per packet and
shrinks its window for messages that nobody will send again, so that the first loss of a fast
transfer costs it nine tenths of its throughput (docs/decisions/0038 has the figures).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

PAYLOAD_BYTES = 1_176
"""Chunks of one packet: with 12 bytes of header, DTLS and UDP it fits IPv6's least MTU, 1,280."""

DATA_HEADER = struct.Struct("!BBHLHHL")
DATA = 0
END, BEGIN, UNORDERED = 0x01, 0x02, 0x04
FORWARD_TSN = struct.Struct("!BBHL")
FORWARD_TSN_TYPE = 192

MIN_FRAGMENT_BYTES = 256
"""A message is not cut for a rest of a packet smaller than this."""

SEGMENT_BYTES = PAYLOAD_BYTES - DATA_HEADER.size
INITIAL_WINDOW_BYTES = 10 * SEGMENT_BYTES  # RFC 6928's figure
LEAST_WINDOW_BYTES = 4 * SEGMENT_BYTES
MOST_WINDOW_BYTES = 4 << 20

FLOWS = 4
"""How many ordinary flows the window behaves like once slow start is over: it grows by that many
segments in a round trip and gives up one part in twice as many for a loss, as so many flows
together would. A tether carries all flows between two hosts, each with its own congestion control
inside, and must not be what slows a single one down."""

REORDERED = 8
"""A chunk is lost once one that was sent this many chunks later has arrived."""

RESENDS = 3
"""So often a chunk of a message that need not arrive is sent again: one that a path loses at random
would cost up to fifty others. A message of a single chunk costs no other, and is sent once."""
LIFETIME_S = 0.25
"""And no longer than this after its message was begun (timed reliability, RFC 3758 §4.1)."""

RTO_INITIAL_S = 1.0
RTO_MIN_S = 0.2
RTO_MAX_S = 8.0

DELAY_KNEE_S, DELAY_CEILING_S = 0.004, 0.010
"""See `_flows`: what the schedulers of two busy machines may add to a round trip."""

MIN_RTT_WINDOW_S = 10.0

_MASK = 0xFFFFFFFF


class Message:
    """One message on its way: its next fragment starts at `offset`, its TSNs are first to last."""

    __slots__ = (
        "begun_at", "data", "first", "last", "offset", "ppid", "reliable", "sequence", "stream",
    )  # fmt: skip

    def __init__(
        self, data: bytes, *, stream: int, ppid: int, reliable: bool = False, sequence: int = 0
    ) -> None:
        self.data = data
        self.stream = stream
        self.ppid = ppid
        self.reliable = reliable
        self.sequence = sequence
        self.offset = 0
        self.first = self.last = -1
        self.begun_at = 0.0


class _Sent:
    """A chunk in flight. `mark` is the newest TSN that had been sent when it was last sent."""

    __slots__ = (
        "abandoned",
        "end",
        "flags",
        "lost",
        "mark",
        "message",
        "resends",
        "sent_at",
        "start",
    )

    def __init__(
        self, message: Message, flags: int, start: int, end: int, *, mark: int, now: float
    ) -> None:
        self.message = message
        self.flags = flags
        self.start = start
        self.end = end
        self.mark = mark
        self.sent_at = now
        self.resends = 0
        self.lost = False
        self.abandoned = False


class Outbound:
    """Cuts messages into packets as congestion control allows.

    Lost chunks are sent again: those of an unreliable message a few times and not for long, then it
    is given up whole. `deadline` says when `on_timeout` is due.
    """

    def __init__(self, first_tsn: int, *, peer_window: int) -> None:
        self.queued_bytes = 0
        """Of messages that wait for their first fragment, or in parts for the rest."""
        self.reliable_bytes = 0
        """Reliable messages not yet acknowledged in full, counted in the same way or in flight."""
        self.deadline: float | None = None
        self.srtt: float | None = None
        self.loss = 0.0

        self._datagrams: deque[Message] = deque()
        self._reliable: deque[Message] = deque()
        self._current: Message | None = None
        self._next_sequence = 0

        self._tsn = first_tsn - 1  # the last that was given out
        self._acked = self._tsn  # all up to here have arrived
        self._highest = self._tsn  # the highest that has arrived
        self._point = self._tsn  # all up to here have arrived or are given up (RFC 3758 §3.5)
        self._told = self._tsn  # the last FORWARD TSN
        self._told_at = 0.0
        self._flight: dict[int, _Sent] = {}
        self._holes: list[int] = []  # in flight and below the highest, ascending
        self._again: deque[int] = deque()

        self._flight_bytes = 0
        self._window = INITIAL_WINDOW_BYTES
        self._threshold = MOST_WINDOW_BYTES
        self.peer_window = peer_window
        self._recovery = self._tsn  # a loss up to here belongs to the last event
        self._limited = False
        self._last_sent_at = 0.0

        self._rttvar = 0.0
        self._rto = RTO_INITIAL_S
        self._rtt = 0.0
        self._least_rtt = _LeastRtt()

    # Messages

    def send(self, data: bytes, stream: int, ppid: int) -> None:
        """Queue an unordered message that may get lost."""
        self._datagrams.append(Message(data, stream=stream, ppid=ppid))
        self.queued_bytes += len(data)

    def send_reliable(self, data: bytes, stream: int, ppid: int) -> None:
        """Queue an ordered message that is sent until it arrives. All share one stream."""
        self._reliable.append(
            Message(data, stream=stream, ppid=ppid, reliable=True, sequence=self._next_sequence)
        )
        self._next_sequence = (self._next_sequence + 1) & 0xFFFF
        self.reliable_bytes += len(data)

    # Packets

    def packet(self, now: float, head: bytes = b"") -> bytes:
        """The chunks of the next packet, after *head*; just *head* if nothing may be sent now."""
        if not (self._again or self._current or self._reliable or self._datagrams):
            self._limited = False
            return head
        parts = [head]
        room = PAYLOAD_BYTES - len(head)
        self._slow_down_after_idling(now)
        window = min(self._window, self.peer_window)
        while room > DATA_HEADER.size:
            # With nothing in flight one chunk always goes: it probes a closed window (§6.1 A).
            self._limited = self._flight_bytes >= window and self._flight_bytes > 0
            if self._limited:
                break
            chunk = self._resend(room, now) if self._again else self._fragment(room, now)
            if chunk is None:
                break
            parts.append(chunk)
            room -= len(chunk)
        return b"".join(parts)

    def _fragment(self, room: int, now: float) -> bytes | None:
        message = self._current
        if message is None:
            if self._reliable:
                message = self._reliable.popleft()
            elif self._datagrams:
                message = self._datagrams.popleft()
            else:
                return None
            self._current = message
        start = message.offset
        left = len(message.data) - start
        size = room - DATA_HEADER.size
        if left > size:
            if size < MIN_FRAGMENT_BYTES:
                return None
            size &= ~3
        else:
            size = left
        self._tsn = tsn = self._tsn + 1
        flags = 0 if message.reliable else UNORDERED
        if not start:
            flags |= BEGIN
            message.first = tsn
            message.begun_at = now
        message.last = tsn
        message.offset = end = start + size
        if size == left:
            flags |= END
            self._current = None
        if not message.reliable:
            self.queued_bytes -= size
        self._flight[tsn] = _Sent(message, flags, start, end, mark=tsn, now=now)
        self._flight_bytes += size
        self._sent(now)
        return _data_chunk(tsn, flags, message, start, end)

    def _resend(self, room: int, now: float) -> bytes | None:
        tsn = self._again[0]
        sent = self._flight.get(tsn)
        if sent is None or not sent.lost:  # it has arrived after all
            self._again.popleft()
            return b""
        size = sent.end - sent.start
        if size > room - DATA_HEADER.size:
            return None
        self._again.popleft()
        sent.lost = False
        sent.resends += 1
        sent.mark = self._tsn
        sent.sent_at = now
        self._flight_bytes += size
        self._sent(now)
        return _data_chunk(tsn, sent.flags, sent.message, sent.start, sent.end)

    def _sent(self, now: float) -> None:
        self._last_sent_at = now
        if self.deadline is None:
            self.deadline = now + self._rto

    def forward_tsn(self, now: float) -> bytes:
        """The FORWARD TSN chunk that is due, else nothing (RFC 3758 §3.2).

        One that has not been heeded for two round trips was lost, and is due again.
        """
        if self._point <= self._acked:
            return b""
        if self._point <= self._told and now - self._told_at < 2 * (self.srtt or self._rto):
            return b""
        self._told = self._point
        self._told_at = now
        return FORWARD_TSN.pack(FORWARD_TSN_TYPE, 0, FORWARD_TSN.size, self._point & _MASK)

    # Acknowledgements

    def on_sack(
        self, now: float, cumulative: int, peer_window: int, gaps: Sequence[tuple[int, int]]
    ) -> None:
        """Take a SACK as it stands on the wire: *gaps* are offsets from *cumulative*.

        What was never sent is never acknowledged: such TSNs, and stale SACKs, change nothing.
        """
        advance = (cumulative - self._acked) & _MASK
        if advance > self._tsn - self._acked:
            return
        before = self._flight_bytes
        limited = self._limited
        acked = self._acked + advance
        starts = [acked + first for first, _ in gaps]
        ends = [acked + last for _, last in gaps]

        def arrived(tsn: int) -> bool:
            at = bisect_right(starts, tsn) - 1
            return at >= 0 and tsn <= ends[at]

        newest = self._acknowledge(range(self._acked + 1, acked + 1))
        self._acked = acked
        highest = max(acked, self._highest, min(ends[-1], self._tsn) if ends else acked)
        fresh = range(max(acked, self._highest) + 1, highest + 1)
        in_gaps = [tsn for tsn in fresh if arrived(tsn)]
        candidates = [tsn for tsn in self._holes if tsn > acked]
        newest = max(newest, self._acknowledge([tsn for tsn in candidates if arrived(tsn)]))
        newest = max(newest, self._acknowledge(in_gaps))
        if newest:
            self._measure(now, now - newest)
        self._highest = highest
        self._holes = [tsn for tsn in candidates if tsn in self._flight]
        if len(in_gaps) < len(fresh):
            self._holes += [tsn for tsn in fresh if tsn in self._flight]
        self.peer_window = peer_window

        delivered = before - self._flight_bytes
        lost = self._find_lost(now)
        self._adapt(now, delivered, lost, limited=limited)
        self._advance_point()
        if advance or delivered > 0:
            self._rearm(now)

    def _acknowledge(self, tsns: Sequence[int]) -> float:
        """Take *tsns* out of flight; return when the newest sent once was sent, or 0."""
        newest = 0.0
        pop = self._flight.pop
        for tsn in tsns:
            sent = pop(tsn, None)
            if sent is None:
                continue
            size = sent.end - sent.start
            if not sent.lost:
                self._flight_bytes -= size
            if sent.message.reliable:
                self.reliable_bytes -= size
            if not sent.resends:
                newest = sent.sent_at
        return newest

    def _find_lost(self, now: float) -> int:
        """Give up or mark for resending what later chunks have overtaken; return their bytes."""
        lost = 0
        limit = self._highest - REORDERED
        for tsn in self._holes:
            if tsn > limit:
                break
            sent = self._flight.get(tsn)
            if sent is not None and not sent.lost and sent.mark <= limit:
                lost += sent.end - sent.start
                self._lose(tsn, sent, again=_is_worth_it(sent, now))
        return lost

    def _lose(self, tsn: int, sent: _Sent, *, again: bool) -> None:
        self._flight_bytes -= sent.end - sent.start
        if sent.message.reliable or (again and not sent.abandoned):
            sent.lost = True
            self._again.append(tsn)
            return
        del self._flight[tsn]
        if not sent.abandoned:
            self._abandon(sent.message)

    def _abandon(self, message: Message) -> None:
        """Give the whole message up (RFC 3758 §3.5 A3).

        Its other chunks are still on their way and count as in flight until later ones have
        arrived: what replaced them at once would meet them in the bottleneck's queue.
        """
        for tsn in range(message.first, message.last + 1):
            sent = self._flight.get(tsn)
            if sent is not None:
                sent.abandoned = True
                if sent.lost:
                    del self._flight[tsn]  # it was to be sent again
        if message is self._current:
            # One TSN, never sent, stands for the rest; the receiver must not join what comes next.
            self.queued_bytes -= len(message.data) - message.offset
            self._tsn += 1
            self._current = None

    def _advance_point(self) -> None:
        point = max(self._point, self._acked)
        while point < self._tsn:
            sent = self._flight.get(point + 1)
            if sent is not None and not sent.abandoned:
                break
            point += 1
        self._point = point

    # Timers

    def on_timeout(self, now: float) -> None:
        """Nothing was heard for an RTO: all in flight is lost, or the FORWARD TSN was."""
        for tsn, sent in list(self._flight.items()):
            if not sent.lost and tsn in self._flight:
                self._lose(tsn, sent, again=False)
        self._flight_bytes = 0
        self._threshold = max(self._window // 2, LEAST_WINDOW_BYTES)
        self._window = LEAST_WINDOW_BYTES
        self._recovery = self._tsn
        self._rto = min(2 * self._rto, RTO_MAX_S)
        self._advance_point()
        self._told = self._acked
        self._rearm(now)

    def _rearm(self, now: float) -> None:
        idle = not self._flight and self._point <= self._acked
        self.deadline = None if idle else now + self._rto

    # Congestion control (RFC 9260 §7.2, with bytes counted and growth bound by delay)

    def _measure(self, now: float, rtt: float) -> None:
        self._rtt = rtt
        self._least_rtt.add(now, rtt)
        if self.srtt is None:
            self.srtt = rtt
            self._rttvar = rtt / 2
        else:
            self._rttvar += (abs(self.srtt - rtt) - self._rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
        self._rto = min(max(self.srtt + 4 * self._rttvar, RTO_MIN_S), RTO_MAX_S)

    def _adapt(self, now: float, delivered: int, lost: int, *, limited: bool) -> None:
        total = delivered + lost
        if total > 0:
            self.loss += (lost / total - self.loss) * min(1.0, total / (64 * SEGMENT_BYTES))
        if lost:
            if self._highest > self._recovery:
                # Slow start overshoots by half; afterwards one flow of several yields.
                share = 2 if self._window < self._threshold else 2 * FLOWS
                self._window = max(self._window - self._window // share, LEAST_WINDOW_BYTES)
                self._threshold = self._window
                self._recovery = self._tsn
            return
        if delivered <= 0 or not limited:
            return
        flows = self._flows()
        if flows < FLOWS:
            self._threshold = min(self._threshold, self._window)
        if self._window < self._threshold:
            growth = delivered
        else:
            growth = flows * SEGMENT_BYTES * delivered // self._window
        self._window = min(self._window + growth, MOST_WINDOW_BYTES)

    def _flows(self) -> int:
        """As how many flows the window may grow, by how long the last round trip took.

        A longer one than the least means that a queue builds: the bottleneck's, or the far end's
        socket buffer where both ends are near. A lost chunk costs its whole message here, so the
        last share of a queue is worth no loss: claim it like one flow, and leave what only delays.
        """
        least = self._least_rtt.value
        if self._rtt <= 1.25 * least + DELAY_KNEE_S:
            return FLOWS
        return 1 if self._rtt <= 2 * least + DELAY_CEILING_S else 0

    def _slow_down_after_idling(self, now: float) -> None:
        if not self._flight and now - self._last_sent_at > self._rto:
            self._window = max(self._window // 2, min(self._window, INITIAL_WINDOW_BYTES))


def _is_worth_it(sent: _Sent, now: float) -> bool:
    """Whether a lost chunk of an unreliable message should be sent again."""
    message = sent.message
    is_alone = sent.end - sent.start == len(message.data)
    return not is_alone and sent.resends < RESENDS and now < message.begun_at + LIFETIME_S


class _LeastRtt:
    """The least of the last one or two MIN_RTT_WINDOW_S: a path may change for the worse."""

    __slots__ = ("_before", "_since", "value")

    def __init__(self) -> None:
        self.value = self._before = float("inf")
        self._since = float("-inf")

    def add(self, now: float, rtt: float) -> None:
        if now - self._since > MIN_RTT_WINDOW_S:
            self._since = now
            self.value, self._before = min(self._before, rtt), rtt
        self._before = min(self._before, rtt)
        self.value = min(self.value, rtt)


def _data_chunk(tsn: int, flags: int, message: Message, start: int, end: int) -> bytes:
    """A DATA chunk, padded to four bytes (RFC 9260 §3.3.1)."""
    header = DATA_HEADER.pack(
        DATA,
        flags,
        DATA_HEADER.size + end - start,
        tsn & _MASK,
        message.stream,
        message.sequence,
        message.ppid,
    )
    return header + message.data[start:end] + b"\0" * (start - end & 3)
