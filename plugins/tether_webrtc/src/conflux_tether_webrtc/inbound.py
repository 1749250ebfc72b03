"""The receiving half of an SCTP association (RFC 9260 §6, RFC 3758 §3.6), without I/O and clock.

TSNs are plain integers that never wrap; only the wire knows their low 32 bits.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable

from conflux.api import MAX_MESSAGE_BYTES, WireError
from conflux_tether_webrtc.outbound import BEGIN, END, UNORDERED

SACK_HEADER = struct.Struct("!BBHLLHH")
SACK = 3
_GAP = struct.Struct("!HH")

MAX_GAPS = 128
"""Gap blocks in one SACK. It travels in front of data, so it leaves room for some."""

WINDOW_BYTES = 2 << 20
"""How much may lie here unfinished (a_rwnd)."""

MOST_HELD_BYTES = WINDOW_BYTES + 2 * MAX_MESSAGE_BYTES
"""The window, and the message of each lane that had begun when it closed: no peer that heeds the
window leaves more unfinished."""

MOST_RUNS = 16_384
"""Of unfinished messages. A window full of those that lost one of two fragments is an eighth."""

_REACH = 0xFFFF
"""How far above the cumulative TSN a gap block can point."""

_MASK = 0xFFFFFFFF


class _Run:
    """Neighbouring fragments of one message, `first` to `next - 1`."""

    __slots__ = ("begins", "ends", "first", "next", "parts", "ppid", "sequence", "size", "stream")

    def __init__(
        self, tsn: int, flags: int, stream: int, sequence: int, ppid: int, data: bytes
    ) -> None:
        self.first = tsn
        self.next = tsn + 1
        self.begins = bool(flags & BEGIN)
        self.ends = bool(flags & END)
        self.stream = stream
        self.sequence = sequence
        self.ppid = ppid
        self.parts = [data]
        self.size = len(data)


class Inbound:
    """Puts fragments together and says what has arrived.

    *deliver* is called with (stream, ppid, message): at once for unordered messages, in the order
    of sending for those of *ordered_stream*. Messages of other ordered streams are dropped. A peer
    that breaks the rules causes WireError.
    """

    def __init__(
        self, last_tsn: int, *, ordered_stream: int, deliver: Callable[[int, int, bytes], None]
    ) -> None:
        self.sack_due = False
        self._deliver = deliver
        self._ordered_stream = ordered_stream
        self._cumulative = last_tsn
        self._gaps: list[list[int]] = []  # [first, last] above the cumulative TSN, ascending
        self._held_bytes = 0
        self._by_first: dict[int, _Run] = {}
        self._by_next: dict[int, _Run] = {}
        self._next_sequence = 0
        self._early: dict[int, tuple[int, bytes]] = {}  # complete, but not yet in order

    def data(
        self, wire_tsn: int, flags: int, stream: int, sequence: int, ppid: int, data: bytes
    ) -> None:
        """Take one DATA chunk. Doubles and what lies out of reach are dropped."""
        self.sack_due = True
        tsn = self._cumulative + ((wire_tsn - self._cumulative) & _MASK)
        ahead = tsn - self._cumulative
        if not 0 < ahead <= _REACH:
            return
        # The very next chunk is always taken: without it nothing here could ever be finished.
        if ahead > 1 and self._held_bytes + len(data) > WINDOW_BYTES:
            return
        if not self._mark(tsn):
            return
        if flags & BEGIN and flags & END:
            self._complete(flags, stream, sequence, ppid, data)
        else:
            self._join(_Run(tsn, flags, stream, sequence, ppid, data), flags)
        # Chunks in order pass the check above, also those of messages that never end.
        if self._held_bytes > MOST_HELD_BYTES or len(self._by_first) > MOST_RUNS:
            raise WireError("more unfinished messages than the window allows")

    def forward(self, wire_tsn: int) -> None:
        """Take a FORWARD TSN: the sender has given up what is missing up to there."""
        self.sack_due = True
        tsn = self._cumulative + ((wire_tsn - self._cumulative) & _MASK)
        if not 0 < tsn - self._cumulative <= _REACH:
            return
        self._cumulative = tsn
        while self._gaps and self._gaps[0][0] <= self._cumulative + 1:
            self._cumulative = max(self._cumulative, self._gaps.pop(0)[1])
        for run in [run for run in self._by_first.values() if run.first <= tsn]:
            # One that has its beginning and reaches that far lacks nothing yet.
            if not (run.begins and run.next > tsn):
                self._drop(run)

    def sack(self) -> bytes:
        """The SACK chunk that is due, and no longer is after this; else nothing (§3.3.4)."""
        if not self.sack_due:
            return b""
        self.sack_due = False
        base = self._cumulative
        gaps = self._gaps[:MAX_GAPS]
        size = SACK_HEADER.size + _GAP.size * len(gaps)
        window = max(0, WINDOW_BYTES - self._held_bytes)
        parts = [SACK_HEADER.pack(SACK, 0, size, base & _MASK, window, len(gaps), 0)]
        parts += [_GAP.pack(first - base, last - base) for first, last in gaps]
        return b"".join(parts)

    def _mark(self, tsn: int) -> bool:
        """Note that *tsn* has arrived; False if it had before."""
        gaps = self._gaps
        if tsn == self._cumulative + 1:
            self._cumulative = tsn
            if gaps and gaps[0][0] == tsn + 1:
                self._cumulative = gaps.pop(0)[1]
            return True
        if not gaps or tsn > gaps[-1][1] + 1:
            gaps.append([tsn, tsn])
            return True
        if tsn == gaps[-1][1] + 1:
            gaps[-1][1] = tsn
            return True
        return self._mark_between(tsn)

    def _mark_between(self, tsn: int) -> bool:
        gaps = self._gaps
        at = bisect_left(gaps, tsn, key=lambda gap: gap[1])  # the first that does not end before
        if gaps[at][0] <= tsn:
            return False
        joins_next = gaps[at][0] == tsn + 1
        joins_last = at > 0 and gaps[at - 1][1] == tsn - 1
        if joins_next and joins_last:
            gaps[at - 1][1] = gaps.pop(at)[1]
        elif joins_next:
            gaps[at][0] = tsn
        elif joins_last:
            gaps[at - 1][1] = tsn
        else:
            gaps.insert(at, [tsn, tsn])
        return True

    def _join(self, run: _Run, flags: int) -> None:
        self._held_bytes += run.size
        before = None if run.begins else self._by_next.get(run.first)
        if before is not None and not before.ends:
            run = self._merge(before, run)
        after = None if run.ends else self._by_first.get(run.next)
        if after is not None and not after.begins:
            run = self._merge(run, after)
        if run.begins and run.ends:
            self._drop(run)
            self._complete(flags, run.stream, run.sequence, run.ppid, b"".join(run.parts))
        else:
            self._by_first[run.first] = run
            self._by_next[run.next] = run

    def _merge(self, left: _Run, right: _Run) -> _Run:
        """Append *right* to *left*, which stays where it is found by its first TSN."""
        if (left.stream, left.sequence) != (right.stream, right.sequence):
            raise WireError("fragments of one message on two streams")
        if left.size + right.size > MAX_MESSAGE_BYTES:
            raise WireError("message longer than allowed")
        self._by_next.pop(left.next, None)
        self._by_next.pop(right.next, None)
        self._by_first.pop(right.first, None)
        left.parts += right.parts
        left.size += right.size
        left.next = right.next
        left.ends = right.ends
        return left

    def _drop(self, run: _Run) -> None:
        self._by_first.pop(run.first, None)
        self._by_next.pop(run.next, None)
        self._held_bytes -= run.size

    def _complete(self, flags: int, stream: int, sequence: int, ppid: int, data: bytes) -> None:
        if flags & UNORDERED:
            self._deliver(stream, ppid, data)
            return
        if stream != self._ordered_stream:
            return
        if sequence != self._next_sequence:
            self._early[sequence] = ppid, data
            self._held_bytes += len(data)
            return
        self._deliver(stream, ppid, data)
        self._next_sequence = (sequence + 1) & 0xFFFF
        while (early := self._early.pop(self._next_sequence, None)) is not None:
            self._held_bytes -= len(early[1])
            self._deliver(stream, *early)
            self._next_sequence = (self._next_sequence + 1) & 0xFFFF
