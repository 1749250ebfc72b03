"""Messages from pieces, for those that did not arrive in one batch; which pieces to ask for again.

    piece ─► partial ─► whole
                └─ a later message came, or nothing more ─► asked for, up to MAX_ASKS ─► given up

Pieces are not authenticated one by one: whoever knows a tether's id and can inject on its path may
spoil a message, as he could drop it. Memory is bounded, and what is incomplete is given up early.
"""

from __future__ import annotations

import math

from conflux.api import MAX_MESSAGE_BYTES
from conflux_tether_udp.control import MAX_NACKED, Nack
from conflux_tether_udp.keys import COUNTER_BYTES, TAG_BYTES
from conflux_tether_udp.reliable import RoundTrip
from conflux_tether_udp.tally import Tally

MAX_PARTIAL = 128
"""Unfinished messages of one tether; the oldest counter goes first."""
MAX_HELD_BYTES = 4 << 20
MOST_SEALED_BYTES = MAX_MESSAGE_BYTES + TAG_BYTES
GIVE_UP_S = 0.25
"""After the first piece: reordering takes milliseconds, and who resends wants to know."""
ASK_S = 0.001
"""After a later message came: pieces overtake each other by less, and one item asks for several."""
MAX_ASKS = 6
UNSURE_ASKS = 2
"""As long as none was ever answered: the far end may have nothing to answer with."""


class _Partial:
    """A message of which some pieces are here."""

    __slots__ = (
        "ask_at", "asked_at", "asks", "is_overtaken", "is_waited_for", "lacks", "latest_at",
        "pieces", "repaired", "since", "size",
    )  # fmt: skip

    def __init__(self, count: int, now: float, quiet_s: float | None) -> None:
        self.pieces = [b""] * count  # no piece is empty
        self.lacks = count
        self.size = 0
        self.since = self.latest_at = now
        self.ask_at = math.inf if quiet_s is None else now + quiet_s
        self.asked_at = 0.0
        self.asks = self.repaired = 0
        self.is_overtaken = False
        self.is_waited_for = quiet_s is not None
        """Whether later messages wait for it."""

    def missing(self) -> int:
        """Bit i stands for piece i."""
        return sum(1 << index for index, piece in enumerate(self.pieces) if not piece)


class Reassembly:
    """Puts pieces together. Losses go to *tally*."""

    __slots__ = (
        "_fresh_from", "_given_up", "_held_bytes", "_partial", "_slow_since", "_tally",
        "_waited_from", "due", "in_vain", "quiet_s", "slow_for_s", "slow_s", "turn", "turn_s",
    )  # fmt: skip

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._partial: dict[int, _Partial] = {}
        self._held_bytes = 0
        self._given_up = 0
        """Pieces up to this counter come too late."""
        self._fresh_from = self._waited_from = math.inf
        """The lowest counters of what nothing has overtaken, and of what is waited for."""
        self.due = math.inf
        """When `poll` has something to do."""
        self.quiet_s: float | None = None
        """No piece for so long: the rest of a message that nothing overtook is missing, too. None
        while nothing is asked for at all."""
        self.slow_s = math.inf
        """Answers that take longer stood in a queue, or the machine was busy."""
        self.slow_for_s = 0.0
        """For how long all of them did."""
        self._slow_since: float | None = None
        self.turn_s = 0.0
        """How long what was asked for may take."""
        self.turn = RoundTrip()
        """How long it took."""
        self.in_vain = 0
        """How many messages were asked for and yet given up."""

    def __bool__(self) -> bool:
        return bool(self._partial)

    def unfinished(self) -> int:
        """How many messages that the tally expects still wait for pieces."""
        highest = self._tally.highest
        return sum(1 for counter in self._partial if counter <= highest)

    def add(
        self, counter: int, index: int, last: int, run: memoryview, piece_bytes: int, now: float
    ) -> bytes | None:
        """Take neighbouring pieces from *index* on; return the sealed message once it is whole."""
        partial = self._partial.get(counter)
        if partial is None:
            if counter <= self._given_up:
                return None
            partial = self._begin(counter, last + 1, now)
        elif len(partial.pieces) != last + 1:
            return None
        self._fill(partial, index, run, piece_bytes, now)
        partial.latest_at = now
        if partial.size > MOST_SEALED_BYTES:
            self._give_up(counter)
        elif not partial.lacks:
            self._forget(counter)
            self._tally.repaired += partial.repaired
            return b"".join(partial.pieces)
        while len(self._partial) > MAX_PARTIAL or self._held_bytes > MAX_HELD_BYTES:
            self._give_up(min(self._partial))
        return None

    def _begin(self, counter: int, count: int, now: float) -> _Partial:
        self.overtaken(counter, now)
        partial = self._partial[counter] = _Partial(count, now, self.quiet_s)
        self._fresh_from = min(self._fresh_from, counter)
        if partial.is_waited_for:
            self._waited_from = min(self._waited_from, counter)
        self.due = min(self.due, partial.ask_at, now + GIVE_UP_S)
        return partial

    def _fill(
        self, partial: _Partial, index: int, run: memoryview, piece_bytes: int, now: float
    ) -> None:
        for at in range(0, len(run), piece_bytes):
            if not partial.pieces[index]:
                piece = partial.pieces[index] = bytes(run[at : at + piece_bytes])
                partial.size += len(piece)
                partial.lacks -= 1
                self._held_bytes += len(piece)
                if partial.asks:
                    if not partial.repaired:
                        self._answered(partial, now)
                    partial.repaired += 1
            index += 1

    # What is missing

    def _answered(self, partial: _Partial, now: float) -> None:
        if partial.asks > 1:
            self.turn.doubt()
            return
        took_s = now - partial.asked_at
        self.turn.sample(took_s)
        if took_s <= self.slow_s:
            self._slow_since, self.slow_for_s = None, 0.0
        elif self._slow_since is None:
            self._slow_since = now
        else:
            self.slow_for_s = now - self._slow_since

    def forget_turn(self) -> None:
        """How long answers took says nothing any more."""
        self.turn.forget()
        self._slow_since, self.slow_for_s = None, 0.0

    def arrived(self, counter: int, now: float) -> None:
        """Message *counter* was genuine: what else claims to be of it was not, or came doubled."""
        if counter in self._partial:
            self._forget(counter)
        self.overtaken(counter, now)

    def overtaken(self, counter: int, now: float) -> None:
        """Something of message *counter* came: what is missing of earlier ones is late."""
        if counter <= self._fresh_from:
            return
        for earlier, partial in self._partial.items():
            if earlier < counter and not partial.is_overtaken:
                partial.is_overtaken = True
                if partial.is_waited_for:
                    partial.ask_at = min(partial.ask_at, now + ASK_S)
                    self.due = min(self.due, partial.ask_at)
        self._look()

    def keeps_waiting(self, counter: int) -> bool:
        """Whether an earlier message than *counter* is waited for."""
        return counter > self._waited_from

    def stop_waiting(self) -> None:
        """Let later messages wait no longer; what comes in yet still counts."""
        for partial in self._partial.values():
            partial.is_waited_for = False
            partial.ask_at = math.inf
        self._look()

    def _look(self) -> None:
        """Find the lowest counters anew: seldom, and not for each message that comes."""
        partials = self._partial.items()
        self._fresh_from = min((c for c, p in partials if not p.is_overtaken), default=math.inf)
        self._waited_from = min((c for c, p in partials if p.is_waited_for), default=math.inf)

    def poll(self, now: float) -> list[Nack]:
        """Give up what has waited too long; return what to ask for."""
        nacks = []
        due = math.inf
        for counter, partial in list(self._partial.items()):
            if now >= partial.since + GIVE_UP_S:
                self._give_up(counter)
                continue
            if now >= partial.ask_at and self._is_to_ask(partial, now):
                nacks.append(Nack(counter.to_bytes(COUNTER_BYTES, "big"), partial.missing()))
            due = min(due, partial.ask_at, partial.since + GIVE_UP_S)
        self.due = due
        self._look()
        return nacks

    def _is_to_ask(self, partial: _Partial, now: float) -> bool:
        """Whether to ask for what *partial* lacks, and when to look at it again."""
        quiet_s = self.quiet_s
        if quiet_s is not None and not partial.is_overtaken:
            is_coming = now < partial.latest_at + quiet_s or partial.lacks > MAX_NACKED
            if is_coming:
                partial.ask_at = max(partial.latest_at, now) + quiet_s
                return False
        most = UNSURE_ASKS if self.turn.srtt_s is None else MAX_ASKS
        if quiet_s is None or partial.lacks > MAX_NACKED or partial.asks >= most:
            partial.is_waited_for = False
            partial.ask_at = math.inf
            return False
        partial.asks += 1
        partial.asked_at = now
        partial.ask_at = now + self.turn_s
        return True

    def _give_up(self, counter: int) -> None:
        partial = self._forget(counter)
        self.in_vain += partial.asks > 0
        self._tally.repaired += partial.repaired
        self._tally.lost(len(partial.pieces) - partial.lacks, partial.lacks)
        # Never beyond what is genuine: an injected piece must not keep later messages out.
        self._given_up = max(self._given_up, min(counter, self._tally.highest))

    def _forget(self, counter: int) -> _Partial:
        partial = self._partial.pop(counter)
        self._held_bytes -= partial.size
        if counter in (self._fresh_from, self._waited_from):
            self._look()
        return partial
