"""The control channel: carries sealed messages between tags, and is trusted with nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conflux.api import MAX_CONTROL_BYTES
from conflux.testing.simnet.clock import Clock
from conflux.wire.control import Kind

_Listener = Callable[[bytes, bytes, bytes], None]
"""Takes (tag, sender's handle, payload)."""


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """What was published: `sender` is a handle, which a node cannot forge."""

    time: float
    sender: bytes
    tag: bytes
    payload: bytes

    @property
    def kind(self) -> Kind:
        return Kind(self.payload[1])


Tap = Callable[[ControlMessage], Sequence[ControlMessage]]


class SimChannel:
    """Change its public attributes at any time.

    `tap` sees every message first and says what is carried in its stead: nothing, a changed one,
    one more. `messages` keeps every message that was published while `records` is set.
    """

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self.delay_s = 0.005
        self.jitter_s = 0.0
        self.loss = 0.0
        self.duplicate = 0.0
        self.is_down = False
        self.tap: Tap | None = None
        self.records = True
        self.messages: list[ControlMessage] = []
        self.published: Counter[tuple[bytes, Kind]] = Counter()
        """How many messages of which kind each handle published."""
        self._clock = clock
        self._chance = chance
        self._own: dict[bytes, _Listener] = {}
        self._shared: dict[bytes, list[_Listener]] = {}

    def listen(self, tags: Sequence[bytes], shared_tag: bytes | None, listener: _Listener) -> None:
        """Each of *tags* is *listener*'s alone; of all who share *shared_tag* one is drawn."""
        for tag in tags:
            self._own[tag] = listener
        if shared_tag is not None:
            self._shared.setdefault(shared_tag, []).append(listener)

    def leave(self, listener: _Listener) -> None:
        self._own = {tag: other for tag, other in self._own.items() if other is not listener}
        for shared in self._shared.values():
            if listener in shared:
                shared.remove(listener)

    def publish(self, sender: bytes, tag: bytes, payload: bytes) -> None:
        """Send without waiting; nothing is ever delivered from within this call."""
        if len(payload) > MAX_CONTROL_BYTES:
            raise ValueError(f"a control message has at most {MAX_CONTROL_BYTES} bytes")
        message = ControlMessage(self._clock.now(), sender, tag, payload)
        self.published[sender, message.kind] += 1
        if self.records:
            self.messages.append(message)
        for carried in self.tap(message) if self.tap is not None else (message,):
            self.carry(carried)

    def carry(self, message: ControlMessage) -> None:
        """Deliver *message* as the channel is now: a test's own messages, and replays, go in here.

        Delivered at the tag's listener of that later moment, if the channel is up then.
        """
        if self._chance.random() < self.loss:
            return
        for _ in range(2 if self._chance.random() < self.duplicate else 1):
            wait_s = self.delay_s + self.jitter_s * self._chance.random()
            self._clock.after(wait_s, lambda: self._deliver(message))

    def count(self, kind: Kind) -> int:
        """How many messages of *kind* were published so far."""
        return sum(n for (_, published), n in self.published.items() if published is kind)

    def _deliver(self, message: ControlMessage) -> None:
        if self.is_down:
            return
        shared = self._shared.get(message.tag)
        listener = self._chance.choice(shared) if shared else self._own.get(message.tag)
        if listener is not None:
            listener(message.tag, message.sender, message.payload)
