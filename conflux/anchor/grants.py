"""Grants: what this node is and holds right now, replaced whenever Guardian says something new.

control message ──► opened in a thread, one at a time ──► newer? ──► on_new
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from conflux.anchor.handshake import Standing
from conflux.anchor.identity import PUSH_BINDING, guardian_fingerprint, open_grant
from conflux.anchor.world import World
from conflux.api import WireError
from conflux.wire.credentials import Grant

GUARDIAN_HANDLE = bytes(16)
"""The handle under which Guardian publishes grants; the Master gives it to no node."""


class Grants:
    """The present standing, and the time by Guardian's clock that came with it."""

    def __init__(
        self,
        standing: Standing,
        world: World,
        counters: Counter[str],
        *,
        on_new: Callable[[float], None],
        now: float,
    ) -> None:
        self.standing = standing
        self._world = world
        self._counters = counters
        self._on_new = on_new
        self._clock_offset_s = _clock_offset_s(standing.grant, now)
        self._opening = False
        self._waiting: bytes | None = None

    def wall(self, now: float) -> float:
        """Guardian's time, Unix seconds: its clock at login, carried on by ours."""
        return now + self._clock_offset_s

    def renew(self, standing: Standing, *, now: float) -> bool:
        """Take on what a login was answered with; False if a newer one was pushed meanwhile."""
        if standing.grant.revision < self.standing.grant.revision:
            return False
        self._clock_offset_s = _clock_offset_s(standing.grant, now)
        self._take_on(standing, now)
        return True

    def pushed(self, sealed: bytes) -> None:
        """Open a grant in a thread, one at a time; of those that wait only the newest counts."""
        if self._opening:
            self._waiting = sealed
            return
        self._opening = True
        me = self.standing
        fingerprint = guardian_fingerprint(me.guardian.public)
        self._world.defer(
            lambda: open_grant(
                me.crypto, me.identity, sealed, binding=PUSH_BINDING, fingerprint=fingerprint
            ),
            lambda opened, now: self._opened(opened[0], now),
            lambda error, _: self._false(error),
        )

    def _opened(self, grant: Grant, now: float) -> None:
        self._next()
        me = self.standing
        if grant.revision > me.grant.revision:
            # Guardian's clock, but the Master may have held the message back: it cannot have come
            # early, so it may set our clock forward only.
            self._clock_offset_s = max(self._clock_offset_s, _clock_offset_s(grant, now))
            self._take_on(Standing(me.crypto, me.entropy, me.identity, me.guardian, grant), now)
            self._world.granted(grant)

    def _false(self, error: WireError) -> None:
        self._counters[f"grant: {error}"] += 1
        self._next()

    def _next(self) -> None:
        self._opening = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.pushed(waiting)

    def _take_on(self, standing: Standing, now: float) -> None:
        self.standing = standing
        self._on_new(now)


def _clock_offset_s(grant: Grant, now: float) -> float:
    return grant.time_ms / 1000 - now
