"""What both sides of a handshake share: what they work with, a step that waits, what comes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from conflux.anchor.handshake import Secrets, Standing
from conflux.anchor.identity import Peer
from conflux.anchor.kinds import TetherKinds
from conflux.anchor.post import Post
from conflux.anchor.seal import HybridKey
from conflux.anchor.timers import Timer, Timers
from conflux.anchor.world import World
from conflux.api import NodeId, Tether, WireError
from conflux.wire.control import Ask, AuthLevel, Purpose
from conflux.wire.credentials import TeamKey

OPEN_DEADLINE_S = 10.0
"""How long B waits for the Open, and both ends know a repeated message for what it is."""
RELAY_ASK_DEADLINE_S = 2.0
MAX_RIVALS = 4


@dataclass(slots=True, eq=False)
class Established:
    """A finished handshake. Its tether is still connecting, if there is one at all."""

    purpose: Purpose
    peer: Peer
    teams: Sequence[TeamKey]
    suite: int
    auth_level: AuthLevel
    secrets: Secrets
    features: int
    """What the peer says that it can take (wire/features.py)."""
    asked: bool
    """Whether this node asked: which of the two streams is its own."""
    order: tuple[int, bytes]
    """When it was asked for, and the Ask's nonce: of two handshakes both ends prefer one."""
    took_s: float = math.inf
    """From this node's message to the peer's answer to it, work and ways included."""
    tether_kind: str = ""
    """The kind of the tether that was agreed on, if any."""


class Finish(Protocol):
    """Takes a handshake over from the side that ended it.

    *tether* is this node's end of the one to connect, if any, with the far end's description
    *remote* if we offered. *confirmed* is called once the peer is known to be through, too.
    """

    def __call__(
        self,
        done: Established,
        tether: Tether | None,
        remote: bytes | None,
        confirmed: Callable[[], None],
        now: float,
    ) -> None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Means:
    """What both sides work with."""

    standing: Callable[[], Standing]
    world: World
    timers: Timers
    wall: Callable[[float], float]
    counters: Counter[str]
    post: Post
    kinds: TetherKinds
    auth_level: AuthLevel
    features: int
    """What this node says that it can take (wire/features.py)."""
    has_tether: Callable[[NodeId], bool]
    finish: Finish

    def send(self, in_stream: bool, tag: bytes, message: bytes, now: float) -> None:
        (self.post.send_in_stream if in_stream else self.post.send)(tag, message, now=now)

    def dropped(self, error: WireError) -> None:
        self.counters[f"control: {error}"] += 1


@dataclass(eq=False, kw_only=True)
class Step:
    """A handshake that waits for the peer's next message; `key` opens that message.

    A worker thread may be using the key when the step ends: then it is erased after that.
    """

    key: HybridKey
    deadline: Timer
    verifying: bool = False
    ended: bool = False
    rivals: list[bytes] = field(default_factory=list)
    """Messages that came while one was being verified: a forged one must not keep the true out."""

    def is_busy_with(self, body: bytes) -> bool:
        """Tell whether another message is being verified; *body* then waits for its turn."""
        if self.verifying and len(self.rivals) < MAX_RIVALS and body not in self.rivals:
            self.rivals.append(body)
        return self.verifying

    def verified(self) -> None:
        """The thread is done with the key, whatever it found."""
        self.verifying = False
        if self.ended:
            self.key.erase()

    def end(self) -> None:
        self.deadline.cancel()
        self.ended = True
        if not self.verifying:
            self.key.erase()


def order_of(ask: Ask) -> tuple[int, bytes]:
    return ask.time_ms, ask.nonce
