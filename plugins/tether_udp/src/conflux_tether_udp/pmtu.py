"""Packetization layer path MTU discovery (RFC 8899) by probes that the far end answers.

    BASE ──answered──► SEARCHING ──nothing left to try──► COMPLETE ──after RAISE_S──► SEARCHING
      └──unanswered──► FAILED      any ──the size in use unanswered──► BASE

No ICMP is needed. Sizes are those of UDP payloads. A probe is given up after three round trips, at
least PROBE_MIN_S (RFC 8899 §5.1.1 has a second where round trips are not known).
"""

from __future__ import annotations

import enum
import math

from conflux_tether_udp.datagram import BASE_BYTES

MAX_PROBES = 3
BASE_PROBES = 10
"""More than MAX_PROBES: failing here ends the tether, and a bad link may lose a few in a row."""
PROBE_MIN_S = 0.1
RAISE_S = 600.0
CONFIRM_S = 10.0
"""How often a size above the base is tried again while it is in use."""
STEP_BYTES = 16
"""The search ends when it cannot gain more than this."""

_MTUS = (1_280, 1_360, 1_380, 1_400, 1_420, 1_440, 1_460, 1_480, 1_492, 1_500, 4_352, 8_942, 9_000)
"""What links and tunnels have, of which one is probably right: tried before halves."""


class State(enum.Enum):
    BASE = enum.auto()
    SEARCHING = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()
    """The path does not even carry BASE_BYTES."""


class PathMtu:
    """The size of datagrams on one path. `probe` is to be asked at `due`."""

    __slots__ = (
        "_ceiling", "_confirmed_at", "_headers", "_raise_at", "_too_big", "_tries", "_trying",
        "due", "size", "state",
    )  # fmt: skip

    def __init__(self, ceiling: int, headers: int, now: float) -> None:
        """*ceiling* is what the interface takes; *headers* are those of IP and UDP."""
        self.size = BASE_BYTES
        """What datagrams may have right now."""
        self._ceiling = max(ceiling, BASE_BYTES)
        self._headers = headers
        self._confirmed_at = now
        self.state = State.BASE
        self._too_big = self._ceiling + 1
        """The smallest size that is known, or taken, not to get through."""
        self._raise_at = now + RAISE_S
        self._trying = BASE_BYTES
        self._tries = 0
        self.due = now

    def probe(self, rtt_s: float, now: float) -> int | None:
        """Return the size of the probe that is due now, if one is. The caller sends it."""
        if now < self.due:
            return None
        if self.state is State.COMPLETE:
            # The path may have changed for the better (PMTU_RAISE_TIMER).
            self._too_big = self._ceiling + 1
            self._raise_at = now + RAISE_S
            self._search(now)
        elif self._tries >= (BASE_PROBES if self.state is State.BASE else MAX_PROBES):
            self._unanswered(now)
        if now < self.due:
            return None
        self._tries += 1
        self.due = now + max(3 * rtt_s, PROBE_MIN_S)
        return self._trying

    def answered(self, size: int, now: float) -> None:
        """A probe of *size* bytes got through."""
        if self.state is State.FAILED or size > self._ceiling:
            return
        if size >= self.size:
            self.size = size
            self._confirmed_at = now
            self._too_big = max(self._too_big, size + 1)
        if size >= self._trying and self.state is not State.COMPLETE:
            self._search(now)

    def used(self, now: float) -> None:
        """Messages were sent at this size: see from time to time that it still gets through."""
        if now - self._confirmed_at >= CONFIRM_S:
            self.doubt(now)

    def doubt(self, now: float) -> None:
        """Large datagrams seem to vanish: try the size in use again, at once."""
        if self.size > BASE_BYTES and self._trying != self.size:
            self.state = State.SEARCHING
            self._try(self.size, now)

    def refused(self, size: int, now: float) -> None:
        """The system refused to send a datagram of *size* bytes."""
        if size <= BASE_BYTES or self.state is State.FAILED:
            return
        self._too_big = min(self._too_big, size)
        if self.size >= size:
            self._fall(now)
        elif self._trying >= size:
            self._search(now)

    def _unanswered(self, now: float) -> None:
        if self.state is State.BASE:
            self.state = State.FAILED
            self.due = math.inf
            return
        self._too_big = self._trying
        if self._trying <= self.size:
            self._fall(now)
        else:
            self._search(now)

    def _fall(self, now: float) -> None:
        """A black hole (RFC 8899 §4.3): back to what every path carries, then search below."""
        self.size = BASE_BYTES
        self.state = State.BASE
        self._try(BASE_BYTES, now)

    def _search(self, now: float) -> None:
        size = self._candidate()
        if size is not None:
            self.state = State.SEARCHING
            self._try(size, now)
        else:
            self.state = State.COMPLETE
            self._trying = 0
            self.due = self._raise_at

    def _candidate(self) -> int | None:
        low, high = self.size, self._too_big
        if low < self._ceiling < high:
            return self._ceiling
        usual = [mtu - self._headers for mtu in _MTUS if low < mtu - self._headers < high]
        if usual:
            return usual[len(usual) // 2]
        return (low + high) // 2 if high - low > STEP_BYTES else None

    def _try(self, size: int, now: float) -> None:
        self._trying = size
        self._tries = 0
        self.due = now
