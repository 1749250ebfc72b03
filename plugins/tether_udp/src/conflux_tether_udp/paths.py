"""Which pair of addresses carries a tether: trying all at once, following a far end that moved.

    candidates ─challenge─► proven by a response ─first one─► current
    newest datagram from elsewhere ─challenge─► proven ─► current      (NAT rebinding, roaming)
    current path silent ─► every candidate once more ─► whichever answers first

Only a sealed datagram makes anything happen here. An address that did not come from the far end's
description gets at most three times the bytes that came from it, until it has answered (as RFC 9000
§8.1 and §9.3 have it). The offerer chooses between several; the answerer follows it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from conflux_tether_udp.control import TOKEN_BYTES
from conflux_tether_udp.datagram import OVERHEAD_BYTES

Address = tuple[Any, ...]
"""Of the far end, as sockets give it. Nothing here looks inside."""

FIRST_RETRY_S, LAST_RETRY_S = 0.02, 0.5
MAX_TRIES = 24
"""Challenges to one candidate before it is given up: 10 s, a kilobyte."""
SETTLE_S = 3.0
"""After the first proven path: how long a better one may replace it."""
BETTER = 0.7
"""A path of the same rank is better if its round trip is this share of the current one's."""
PROVEN_S = 30.0
"""How long a path counts as proven that nothing was heard from."""
CHALLENGE_S = 3.0
"""A response that took longer proves nothing any more."""
AGAIN_S = 0.1
"""Between looks at an address that the far end seems to have moved to."""
MAX_CHALLENGES = 64
MAX_KNOWN = 32
"""Proven paths, and addresses that nobody described: the oldest are forgotten."""
AMPLIFICATION = 3
CHALLENGE_BYTES = OVERHEAD_BYTES + 1 + TOKEN_BYTES

UNTOLD_RANK = 9
"""Of addresses that are in no description."""


class Path(NamedTuple):
    """Where to send, and from which own address: None for the system's choice."""

    remote: Address
    local: bytes | None


class Why(enum.Enum):
    CONNECT = enum.auto()
    MOVED = enum.auto()
    RESCUE = enum.auto()
    KEEP = enum.auto()
    """The current path: its size, its round trip, its NATs."""


class Challenge(NamedTuple):
    """A challenge that is out."""

    path: Path
    why: Why
    size: int
    sent_at: float


class _Candidate:
    __slots__ = ("due", "rank", "tries")

    def __init__(self, rank: int, due: float) -> None:
        self.rank = rank
        self.due: float | None = due
        self.tries = MAX_TRIES


class _Proven:
    __slots__ = ("at", "rank", "rtt_s")

    def __init__(self, rank: int, rtt_s: float, at: float) -> None:
        self.rank = rank
        self.rtt_s = rtt_s
        self.at = at


class Paths:
    """The addresses of one tether. `permits` says whether a path may be used at all."""

    def __init__(
        self,
        *,
        is_offerer: bool,
        permits: Callable[[Path], bool],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.current: Path | None = None
        self.heard_at = 0.0
        """When something genuine came by the current path."""
        self._is_offerer = is_offerer
        self._permits = permits
        self._entropy = entropy
        self._why = Why.CONNECT
        self._candidates: dict[Address, _Candidate] = {}
        self._challenges: dict[bytes, Challenge] = {}
        self._proven: dict[Path, _Proven] = {}
        self._credit: dict[Address, int] = {}
        self._look_again_at = 0.0
        self._settled_at: float | None = None

    # Trying

    def start(self, candidates: Sequence[tuple[Address, int]], now: float) -> None:
        """Try *candidates*, pairs of address and rank (lower is better), all at once."""
        for remote, rank in candidates:
            self._candidates.setdefault(remote, _Candidate(rank, now))

    def rescue(self, now: float) -> None:
        """The current path is silent: try every candidate once more."""
        self._why = Why.RESCUE
        for candidate in self._candidates.values():
            candidate.due, candidate.tries = now, 1

    def due(self) -> float | None:
        """When `challenges` has something to send."""
        return min((c.due for c in self._candidates.values() if c.due is not None), default=None)

    def challenges(self, now: float) -> list[tuple[Path, bytes]]:
        """Paths to try now, with the token for each."""
        if self._settled_at is not None and self._why is Why.CONNECT and now >= self._settled_at:
            for candidate in self._candidates.values():
                candidate.due = None
            return []
        out = []
        for remote, candidate in self._candidates.items():
            if candidate.due is None or candidate.due > now:
                continue
            candidate.tries -= 1
            done = MAX_TRIES - candidate.tries
            wait_s = min(FIRST_RETRY_S * 2.0 ** min(done - 1, 10), LAST_RETRY_S)
            candidate.due = now + wait_s if candidate.tries > 0 else None
            path = Path(remote, None)
            if self.spend(path, CHALLENGE_BYTES):
                out.append((path, self.challenge(path, self._why, CHALLENGE_BYTES, now)))
        return out

    def challenge(self, path: Path, why: Why, size: int, now: float) -> bytes:
        """Note a challenge of *size* bytes that is about to be sent; return its token."""
        token = self._entropy(TOKEN_BYTES)
        while len(self._challenges) >= MAX_CHALLENGES:
            del self._challenges[next(iter(self._challenges))]
        self._challenges[token] = Challenge(path, why, size, now)
        return token

    # What came in, all of it genuine

    def responded(self, token: bytes, path: Path, now: float) -> Challenge | None:
        """A response came by *path*; return the challenge, if there was one to that address."""
        challenge = self._challenges.get(token)
        if challenge is None or challenge.path.remote != path.remote:
            return None
        del self._challenges[token]
        if now - challenge.sent_at > CHALLENGE_S:
            return None
        if path != self.current and not self._permits(path):
            return None
        candidate = self._candidates.get(path.remote)
        rank = UNTOLD_RANK if candidate is None else candidate.rank
        if candidate is not None:
            candidate.due = None
        rtt_s = now - challenge.sent_at
        while path not in self._proven and len(self._proven) >= MAX_KNOWN:
            del self._proven[next(iter(self._proven))]
        self._proven[path] = _Proven(rank, rtt_s, now)
        self._credit.pop(path.remote, None)
        if path != self.current and self._is_preferred(path, challenge, now):
            self._switch(path, now)
        return challenge

    def elsewhere(self, path: Path, now: float) -> bool:
        """The newest datagram came by *path*, not the current one. Return whether to challenge it.

        Every AGAIN_S at most anything happens: a far end that alternates is not followed each time.
        """
        if now < self._look_again_at:
            return False
        self._look_again_at = now + AGAIN_S
        proven = self._proven.get(path)
        if proven is not None and now - proven.at < PROVEN_S and not self._is_offerer:
            proven.at = now
            self._switch(path, now)
            return False
        return self.spend(path, CHALLENGE_BYTES)

    def credit(self, path: Path, size: int) -> None:
        """*size* bytes came by *path*, which is not the current one."""
        remote = path.remote
        if remote not in self._candidates and path not in self._proven:
            while remote not in self._credit and len(self._credit) >= MAX_KNOWN:
                del self._credit[next(iter(self._credit))]
            self._credit[remote] = self._credit.get(remote, 0) + AMPLIFICATION * size

    def spend(self, path: Path, size: int) -> bool:
        """Whether *size* bytes may go to *path* now. They are taken off what it has left."""
        remote = path.remote
        if path == self.current or path in self._proven:
            return True
        if remote in self._candidates:
            return self._permits(path)
        left = self._credit.get(remote, 0) - size
        if left < 0 or not self._permits(path):
            return False
        self._credit[remote] = left
        return True

    def local_gone(self) -> None:
        """The current path's own address is no longer this machine's: let the system choose."""
        if self.current is not None and self.current.local is not None:
            self.current = Path(self.current.remote, None)

    # Choosing

    def _is_preferred(self, path: Path, challenge: Challenge, now: float) -> bool:
        current = self.current
        if current is None:
            return True
        if current.remote == path.remote and current.local is None:
            return True  # the same, and now it is known which own address that is
        if challenge.why is Why.RESCUE or (challenge.why is Why.MOVED and self._is_offerer):
            # Unless something came by the current path meanwhile: then it works.
            return self.heard_at < challenge.sent_at
        if challenge.why is Why.MOVED:
            return True
        if not self._is_offerer or self._settled_at is None or now >= self._settled_at:
            return False
        old, new = self._proven.get(current), self._proven[path]
        if old is None or new.rank != old.rank:
            return old is None or new.rank < old.rank
        return new.rtt_s < BETTER * old.rtt_s

    def _switch(self, path: Path, now: float) -> None:
        if self.current is None:
            self._settled_at = now + SETTLE_S
        self.current = path
        self.heard_at = now
