"""The sending half of an SCTP association (RFC 9260 §6, §7; RFC 3758), without I/O and clock.

What is lost is found as RACK-TLP does it (RFC 8985): by what was sent later and has arrived, by
time, and by a probe where nothing was sent later.

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

from conflux_tether_webrtc.congestion import Congestion
from conflux_tether_webrtc.lane import Lane

PAYLOAD_BYTES = 1_176
"""Chunks of one packet: with 12 bytes of header, DTLS and UDP it fits IPv6's least MTU, 1,280."""

DATA_HEADER = struct.Struct("!BBHLHHL")
DATA = 0
END, BEGIN, UNORDERED, IMMEDIATE = 0x01, 0x02, 0x04, 0x08
"""IMMEDIATE asks for a SACK without delay (RFC 7053): nothing follows that would cause one."""
FORWARD_TSN = struct.Struct("!BBHL")
FORWARD_TSN_TYPE = 192

MIN_FRAGMENT_BYTES = 256
"""A message is not cut for a rest of a packet smaller than this."""

REORDERED = 8
"""A chunk is lost once one that was sent this many packets later has arrived. Packets, because what
a path reorders is packets: of small messages, one holds more than ten chunks. Or once any that was
sent later has arrived, and a round trip and a quarter have passed."""

PROBES = 2
"""At most, until something arrives."""
PROBE_LEAST_S = 0.01
"""Nothing is probed for sooner than this: two busy machines may take that long to answer."""

RESENDS = 3
"""So often a chunk of a message that need not arrive is sent again: one that a path loses at random
would cost up to fifty others. A message of a single chunk costs no other, and is sent again only by
a probe."""
LIFETIME_S = 0.25
"""And no longer than this after its message was begun (timed reliability, RFC 3758 §4.1)."""

_MASK = 0xFFFFFFFF


class Message:
    """One message on its way: its next fragment starts at `offset`, its TSNs are first to last."""

    __slots__ = (
        "begun_at", "data", "first", "last", "offset", "ppid", "queued_at", "reliable", "sequence",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes,
        *,
        stream: int,
        ppid: int,
        reliable: bool = False,
        sequence: int = 0,
        queued_at: float = 0.0,
    ) -> None:
        self.data = data
        self.stream = stream
        self.ppid = ppid
        self.reliable = reliable
        self.sequence = sequence
        self.offset = 0
        self.first = self.last = -1
        self.queued_at = queued_at
        self.begun_at = 0.0


class _Sent:
    """A chunk in flight. `packet` is the number of the packet in which it was last sent."""

    __slots__ = (
        "abandoned",
        "end",
        "flags",
        "lost",
        "message",
        "packet",
        "resends",
        "sent_at",
        "start",
    )

    def __init__(
        self, message: Message, flags: int, start: int, end: int, *, packet: int, now: float
    ) -> None:
        self.message = message
        self.flags = flags
        self.start = start
        self.end = end
        self.packet = packet
        self.sent_at = now
        self.resends = 0
        self.lost = False
        self.abandoned = False


class Outbound:
    """Cuts messages into packets as congestion control allows.

    Lost chunks are sent again: those of an unreliable message a few times and not for long, then it
    is given up whole. `deadline` says when `on_timer` is due.
    """

    def __init__(self, first_tsn: int, *, peer_window: int) -> None:
        self.queued_bytes = 0
        """Of messages that wait for their first fragment, or in parts for the rest."""
        self.reliable_bytes = 0
        """Reliable messages not yet acknowledged in full, counted in the same way or in flight."""

        self._datagrams: Lane[Message] = Lane()
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

        self._packet = 0  # how many were sent
        self._highest_packet = 0  # the last of which something arrived

        self._give_up_at: float | None = None
        self._heard_at = 0.0  # or probed for
        self._overdue_at: float | None = None  # what was overtaken is lost then
        self._probes = 0  # since something arrived
        self._probe_due = False  # the next packet goes whatever the window says

        self._flight_bytes = 0
        self._congestion = Congestion()
        self.peer_window = peer_window
        self._recovery = self._tsn  # a loss up to here belongs to the last event
        self._limited = False
        self._last_sent_at = 0.0

    @property
    def deadline(self) -> float | None:
        """When something is due, None as long as nothing is in flight."""
        dues = (self._give_up_at, self._probe_at(), self._overdue_at)
        return min((due for due in dues if due is not None), default=None)

    @property
    def srtt(self) -> float | None:
        """The smoothed round trip in seconds, None before the first."""
        return self._congestion.srtt

    @property
    def loss(self) -> float:
        """The share of bytes lost on the path lately, 0 to 1, without what probes mended."""
        return self._congestion.loss

    @property
    def dropped(self) -> int:
        """Messages that waited too long for the window."""
        return self._datagrams.dropped

    # Messages

    def send(self, now: float, data: bytes, stream: int, ppid: int) -> None:
        """Queue an unordered message that may get lost."""
        self._datagrams.append(Message(data, stream=stream, ppid=ppid, queued_at=now))
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
        window = min(self._congestion.limit(now, self._flight_bytes), self.peer_window)
        # With nothing in flight one packet always goes: it probes a closed window (§6.1 A). None
        # is left half empty for the window's sake: it may be overrun by less than one (§6.1 B).
        is_full = self._flight_bytes >= window and self._flight_bytes > 0
        self._limited = is_full and not self._probe_due
        self._probe_due = False
        while room > DATA_HEADER.size and not self._limited:
            chunk = self._resend(room, now) if self._again else self._fragment(room, now)
            if chunk is None:
                break
            parts.append(chunk)
            room -= len(chunk)
        if len(parts) > 1:
            self._packet += 1
        return b"".join(parts)

    def _fragment(self, room: int, now: float) -> bytes | None:
        message = self._current
        if message is None:
            message = self._reliable.popleft() if self._reliable else self._next_datagram(now)
            if message is None:
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
            if not (self._datagrams or self._reliable):
                flags |= IMMEDIATE
            self._current = None
        if not message.reliable:
            self.queued_bytes -= size
        self._flight[tsn] = _Sent(message, flags, start, end, packet=self._packet + 1, now=now)
        self._flight_bytes += size
        self._sent(now)
        return _data_chunk(tsn, flags, message, start, end)

    def _next_datagram(self, now: float) -> Message | None:
        lane = self._datagrams
        before = lane.dropped_bytes
        message = lane.take(now, self.srtt or 0.0)
        self.queued_bytes -= lane.dropped_bytes - before
        return message

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
        sent.packet = self._packet + 1
        sent.sent_at = now
        self._flight_bytes += size
        self._sent(now)
        return _data_chunk(tsn, sent.flags | IMMEDIATE, sent.message, sent.start, sent.end)

    def _sent(self, now: float) -> None:
        self._last_sent_at = now
        if self._give_up_at is None:
            self._give_up_at = now + self._congestion.rto

    def forward_tsn(self, now: float) -> bytes:
        """The FORWARD TSN chunk that is due, else nothing (RFC 3758 §3.2).

        One that has not been heeded for two round trips was lost, and is due again.
        """
        if self._point <= self._acked:
            return b""
        again_s = 2 * (self.srtt or self._congestion.rto)
        if self._point <= self._told and now - self._told_at < again_s:
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

        newest = self._acknowledge(range(self._acked + 1, acked + 1), now)
        self._acked = acked
        highest = max(acked, self._highest, min(ends[-1], self._tsn) if ends else acked)
        fresh = range(max(acked, self._highest) + 1, highest + 1)
        in_gaps = [tsn for tsn in fresh if arrived(tsn)]
        candidates = [tsn for tsn in self._holes if tsn > acked]
        filled = [tsn for tsn in candidates if arrived(tsn)]
        newest = max(newest, self._acknowledge(filled, now))
        newest = max(newest, self._acknowledge(in_gaps, now))
        if newest:
            self._congestion.on_round_trip(now, newest)
        self._highest = highest
        self._holes = [tsn for tsn in candidates if tsn in self._flight]
        if len(in_gaps) < len(fresh):
            self._holes += [tsn for tsn in fresh if tsn in self._flight]
        self.peer_window = peer_window

        delivered = before - self._flight_bytes
        self._settle(now, delivered, limited=limited)
        if advance or delivered > 0:
            self._probes = 0
            self._rearm(now)

    def _settle(self, now: float, delivered: int, *, limited: bool) -> None:
        """*delivered* bytes came out of flight: find what is lost, and tell congestion control."""
        lost = self._find_lost(now)
        is_new_loss = lost > 0 and self._highest > self._recovery
        self._congestion.on_sack(delivered, lost, limited=limited, is_new_loss=is_new_loss)
        if is_new_loss:
            self._recovery = self._tsn
        self._advance_point()

    def _acknowledge(self, tsns: Sequence[int], now: float) -> float:
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
            elif now - sent.sent_at < self._congestion.least_rtt:
                continue  # what arrived was sent earlier than that
            self._highest_packet = max(self._highest_packet, sent.packet)
        return newest

    def _find_lost(self, now: float) -> int:
        """Give up or mark for resending what later chunks have overtaken; return their bytes."""
        lost = 0
        limit = self._highest_packet - REORDERED
        patience_s = self._congestion.patience_s
        self._overdue_at = None
        for tsn in self._holes:
            sent = self._flight.get(tsn)
            if sent is None or sent.lost:
                continue
            overdue_at = sent.sent_at + patience_s
            is_overtaken = sent.packet < self._highest_packet
            if sent.packet <= limit or (is_overtaken and now >= overdue_at):
                lost += sent.end - sent.start
                self._lose(tsn, sent, again=_is_worth_it(sent, now))
                continue
            if is_overtaken and (self._overdue_at is None or overdue_at < self._overdue_at):
                self._overdue_at = overdue_at
            if not sent.resends:
                break  # what follows left no earlier
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

    def on_timer(self, now: float) -> None:
        """Do what is due by `deadline`."""
        if self._overdue_at is not None and now >= self._overdue_at:
            self._settle(now, 0, limited=False)
        probe_at = self._probe_at()
        if probe_at is not None and now >= probe_at:
            self._probe(now)
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        """Nothing was heard for an RTO: all in flight is lost, or the FORWARD TSN was."""
        for tsn, sent in list(self._flight.items()):
            if not sent.lost and tsn in self._flight:
                self._lose(tsn, sent, again=False)
        self._flight_bytes = 0
        self._congestion.on_timeout()
        self._recovery = self._tsn
        self._overdue_at = None
        self._advance_point()
        self._told = self._acked
        self._rearm(now)

    def _probe(self, now: float) -> None:
        """Nothing was heard for a while: send the newest chunk in flight again (RFC 8985 §7.3).

        It is not taken for lost, and not counted if it was. But its acknowledgement shows what else
        is, and that within a round trip or two instead of an RTO, which begins anew (§7.3).
        """
        self._probes += 1
        self._heard_at = now
        self._give_up_at = now + self._congestion.rto
        self._told = self._acked
        tsn = next(reversed(self._flight), None)
        if tsn is None:
            return
        sent = self._flight[tsn]
        if not (sent.lost or sent.abandoned) and sent.resends < RESENDS:
            self._flight_bytes -= sent.end - sent.start
            sent.lost = self._probe_due = True
            self._again.appendleft(tsn)

    def _probe_at(self) -> float | None:
        """At twice the round trip from the last sent or heard, doubled by each probe; never after
        what is in flight would be given up (§7.2)."""
        if self._give_up_at is None or self._probes >= PROBES:
            return None
        wait_s = max(self._congestion.probe_s, PROBE_LEAST_S) * (1 << self._probes)
        return min(max(self._last_sent_at, self._heard_at) + wait_s, self._give_up_at)

    def _rearm(self, now: float) -> None:
        if not self._flight and self._point <= self._acked:
            self._give_up_at = self._overdue_at = None
            return
        self._give_up_at = now + self._congestion.rto
        self._heard_at = now

    def _slow_down_after_idling(self, now: float) -> None:
        if not self._flight and now - self._last_sent_at > self._congestion.rto:
            self._congestion.on_idle()


def _is_worth_it(sent: _Sent, now: float) -> bool:
    """Whether a lost chunk of an unreliable message should be sent again."""
    message = sent.message
    is_alone = sent.end - sent.start == len(message.data)
    return not is_alone and sent.resends < RESENDS and now < message.begun_at + LIFETIME_S


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
