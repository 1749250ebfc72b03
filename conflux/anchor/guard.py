"""Checking what was received against what its sender signed.

    frame of a counter:   UNCOVERED ──leaf, same digest──► covered
                             ├──leaf, other digest, or none for it──► on_forged
                             └──5 s──► on_lapsed
    leaf:  verified ──every digest known, hash right──► COVERED is sent; frames that are not there
              └──frames lost──► WANTED ──DIGESTS──► (the same)   yet must match when they come

With `strict` a frame that is uncovered is kept, and delivered once it is covered.
docs/protocol/packet-auth.md has the bytes and the limits.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from conflux.anchor.notary import ANSWER_S, COVER_S, REPEAT_S, digest_of, digests_hash
from conflux.anchor.timers import Timer, Timers
from conflux.api import WireError
from conflux.wire.checkpoint import Checkpoint, Covered, Digests, Leaf, Wanted

STALL_S = 0.5
"""A check that comes so much too late tells of a host that stalled, not of a silent peer."""

MAX_UNCOVERED = 32_768
"""Frames of one stream that wait for their leaf: what comes beyond is dropped."""

MAX_LEAVES = 64
"""Leaves of one stream that are being verified or lack digests."""

MAX_LATE = 16_384
"""Signed digests of one stream whose frames have not come: older ones are too late."""

MAX_DONE = 256
"""Leaves of one stream that are acknowledged again when they come again."""

MAX_HELD_BYTES = 4 * 2**20
"""What one strict stream keeps back."""

MAX_HELD_TOTAL_BYTES = 64 * 2**20


@dataclass(slots=True)
class Room:
    """What all strict streams of a node keep back together, in bytes."""

    held: int = 0


_Uncovered = tuple[bytes, float, bytes]
"""Of a frame its digest, when it came, and the superframe that is kept back: empty if it was
delivered. A plain tuple, since there is one for each frame."""


@dataclass(slots=True)
class _Open:
    """A leaf whose signature is good; `given` holds the digests that the sender named."""

    leaf: Leaf
    given: dict[int, bytes] = field(default_factory=dict)
    asked_at: float = float("-inf")


class Guard:
    """Watches over one InStream.

    *send(message, now)* answers the sender, best effort; *deliver(superframe)* hands on what was
    kept back; *verify(checkpoint, then, failed)* checks a signature aside. *on_forged(now)* and
    *on_lapsed(now)* are called at most once, and nothing is accepted after it.
    """

    def __init__(
        self,
        timers: Timers,
        counters: Counter[str],
        room: Room,
        *,
        transcript: bytes,
        stream_id: int,
        is_strict: bool,
        send: Callable[[bytes, float], None],
        deliver: Callable[[memoryview], None],
        verify: Callable[[Checkpoint, Callable[[float], None], Callable[[WireError], None]], None],
        on_forged: Callable[[float], None],
        on_lapsed: Callable[[float], None],
    ) -> None:
        self._timers = timers
        self._counters = counters
        self._room = room
        self._transcript = transcript
        self._stream_id = stream_id
        self._is_strict = is_strict
        self._send = send
        self._deliver = deliver
        self._verify = verify
        self._on_forged = on_forged
        self._on_lapsed = on_lapsed
        self._uncovered: dict[int, _Uncovered] = {}
        self._held = 0
        self._late: OrderedDict[int, bytes] = OrderedDict()
        self._too_late = 0
        """No frame up to this counter is taken any more, unless its digest is known."""
        self._verifying: set[int] = set()
        self._open: dict[int, _Open] = {}
        self._done: OrderedDict[int, None] = OrderedDict()
        self._lapse: Timer | None = None
        self._ask_again: Timer | None = None
        self._is_stopped = False

    @property
    def uncovered(self) -> int:
        """How many frames wait for their leaf."""
        return len(self._uncovered)

    # Frames

    def opened(self, frame: memoryview, counter: int, superframe: memoryview, now: float) -> bool:
        """Take note of a genuine frame with packets; tell whether it may be delivered now."""
        if self._is_stopped:
            return False
        digest = digest_of(frame)
        if counter in self._late:
            return self._came_late(counter, digest, now)
        if counter <= self._too_late:
            self._counters["frame_too_late_for_its_digest"] += 1
            return False
        is_strict, uncovered = self._is_strict, self._uncovered
        if len(uncovered) >= MAX_UNCOVERED or (is_strict and not self._has_room(len(superframe))):
            self._counters["frame_uncovered_over_limit"] += 1
            return False
        uncovered[counter] = digest, now, self._keep(superframe) if is_strict else b""
        if self._lapse is None:
            self._lapse = self._timers.at(now + COVER_S, self._check_age)
        return not is_strict

    def _came_late(self, counter: int, digest: bytes, now: float) -> bool:
        """The digest of a frame was known before it came: tell whether it is this one."""
        if hmac.compare_digest(self._late.pop(counter), digest):
            return True
        self._forged(now)
        return False

    def stop(self) -> None:
        """Forget everything, what is kept back included; count what was never covered."""
        self._is_stopped = True
        if self._uncovered:
            self._counters["frames_left_uncovered"] += len(self._uncovered)
        for timer in (self._lapse, self._ask_again):
            if timer is not None:
                timer.cancel()
        self._room.held -= self._held
        self._held = 0
        self._uncovered = {}
        self._late.clear()
        self._verifying.clear()
        self._open.clear()
        self._done.clear()

    def _has_room(self, size: int) -> bool:
        return (
            self._held + size <= MAX_HELD_BYTES and self._room.held + size <= MAX_HELD_TOTAL_BYTES
        )

    def _keep(self, superframe: memoryview) -> bytes:
        self._held += len(superframe)
        self._room.held += len(superframe)
        return bytes(superframe)

    def _check_age(self, now: float) -> None:
        due, self._lapse = self._lapse, None
        oldest = next(iter(self._uncovered.values()), None)
        if oldest is None:
            return
        if due is not None and now > due.when + STALL_S:
            # What covers them may be waiting to be read.
            self._lapse = self._timers.at(now + STALL_S, self._check_age)
            return
        _, since, _ = oldest
        if now >= since + COVER_S:
            self._end(self._on_lapsed, now)
            return
        self._lapse = self._timers.at(since + COVER_S, self._check_age)

    # Leaves

    def checkpoint(self, message: Checkpoint, now: float) -> None:
        """Take in a leaf. Raises WireError for one of another handshake."""
        leaf = message.leaf
        if not hmac.compare_digest(leaf.transcript, self._transcript):
            raise WireError("checkpoint of another handshake")
        first = leaf.first
        if self._is_stopped or first in self._verifying:
            return
        if first in self._done:
            self._send(Covered(self._stream_id, first).encode(), now)
        elif first in self._open:
            self._examine(self._open[first], now)
        elif len(self._verifying) + len(self._open) >= MAX_LEAVES:
            self._counters["checkpoint_over_limit"] += 1
        else:
            self._verifying.add(first)
            self._verify(
                message,
                lambda now: self._verified(message, now),
                lambda error: self._false(first, error),
            )

    def digests(self, message: Digests, now: float) -> None:
        """Take in digests that were asked for."""
        awaiting = self._open.get(message.first)
        if awaiting is None:
            return
        mine = set(awaiting.leaf.counters)
        awaiting.given |= {c: d for c, d in message.digests.items() if c in mine}
        self._examine(awaiting, now)

    def _false(self, first: int, error: WireError) -> None:
        self._verifying.discard(first)
        self._counters[f"packet auth: {error}"] += 1

    def _verified(self, message: Checkpoint, now: float) -> None:
        leaf = message.leaf
        if self._is_stopped or leaf.first not in self._verifying:
            return
        self._verifying.discard(leaf.first)
        if self._has_uninvited(leaf):
            self._forged(now)
            return
        awaiting = self._open[leaf.first] = _Open(leaf)
        if message.digests:
            awaiting.given = dict(zip(leaf.counters, message.digests, strict=True))
        self._examine(awaiting, now)

    def _has_uninvited(self, leaf: Leaf) -> bool:
        """Tell whether we took packets under a counter for which the sender signed none."""
        first, last = leaf.counters[0], leaf.counters[-1]
        if last - first + 1 == len(leaf.counters):
            return False
        between = set(range(first, last + 1)).difference(leaf.counters)
        return not between.isdisjoint(self._uncovered)

    def _examine(self, awaiting: _Open, now: float) -> None:
        """Cover what came, if every digest is known; else ask for the others."""
        leaf, given, uncovered = awaiting.leaf, awaiting.given, self._uncovered
        counters = leaf.counters
        lacking = [c for c in counters if c not in uncovered and c not in given]
        if lacking:
            self._ask(awaiting, lacking, now)
            return
        signed = [given[c] if c in given else uncovered[c][0] for c in counters]
        # Either a frame differs, or a digest that we were given: both take this stream's key.
        if digests_hash(signed) != leaf.digests_hash or any(
            counter in uncovered and uncovered[counter][0] != digest
            for counter, digest in given.items()
        ):
            self._forged(now)
            return
        del self._open[leaf.first]
        frames = [uncovered.pop(counter, None) for counter in counters]
        self._remember(
            leaf,
            {c: d for c, d, frame in zip(counters, signed, frames, strict=True) if frame is None},
        )
        if not uncovered:
            self._uncovered = {}
        if self._is_strict:
            for frame in frames:
                if frame is not None:
                    self._hand_on(frame[2])
        self._send(Covered(self._stream_id, leaf.first).encode(), now)

    def _hand_on(self, superframe: bytes) -> None:
        self._held -= len(superframe)
        self._room.held -= len(superframe)
        self._deliver(memoryview(superframe))

    def _remember(self, leaf: Leaf, to_come: dict[int, bytes]) -> None:
        self._done[leaf.first] = None
        if len(self._done) > MAX_DONE:
            self._done.popitem(last=False)
        self._late.update(to_come)
        while len(self._late) > MAX_LATE:
            oldest, _ = self._late.popitem(last=False)
            self._too_late = max(self._too_late, oldest)

    def _ask(self, awaiting: _Open, lacking: list[int], now: float) -> None:
        if now - awaiting.asked_at >= ANSWER_S:
            awaiting.asked_at = now
            self._send(Wanted(self._stream_id, awaiting.leaf.first, lacking).encode(), now)
        if self._ask_again is None:
            self._ask_again = self._timers.at(now + REPEAT_S, self._ask_all)

    def _ask_all(self, now: float) -> None:
        self._ask_again = None
        for awaiting in list(self._open.values()):
            if not self._is_stopped:
                self._examine(awaiting, now)

    # The end

    def _forged(self, now: float) -> None:
        self._end(self._on_forged, now)

    def _end(self, call: Callable[[float], None], now: float) -> None:
        if not self._is_stopped:
            self.stop()
            call(now)
