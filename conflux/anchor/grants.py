"""Grants: what this node is and holds right now, replaced whenever Guardian says something new.

    grant ──────► opened in a thread, one at a time ──► newer? ─┐
    revocations ► opened in a thread ──► anything new? ─────────┴► on_new

Revoked serials add up until their certificates end by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from conflux.anchor.handshake import Standing
from conflux.anchor.identity import (
    CLOCK_SKEW_S,
    PUSH_BINDING,
    guardian_fingerprint,
    open_grant,
)
from conflux.anchor.world import World
from conflux.api import WireError
from conflux.wire.credentials import Grant, Revoked

GUARDIAN_HANDLE = bytes(16)
"""The handle under which Guardian publishes grants; the Master gives it to no node."""

MAX_READING = 8
"""Messages of revocations that are being opened: Guardian repeats what falls by the way."""
MAX_REVOKED = 65_536
"""Serials remembered; of more than these the ones that end first are forgotten."""


class Grants:
    """The present standing, and the time by Guardian's clock that came with it.

    *on_new(now)* is called whenever the standing has changed.
    """

    def __init__(
        self,
        standing: Standing,
        world: World,
        counters: Counter[str],
        *,
        on_new: Callable[[float], None],
        now: float,
    ) -> None:
        self._world = world
        self._counters = counters
        self._on_new = on_new
        self._clock_offset_s = _clock_offset_s(standing.grant, now)
        self._opening = False
        self._waiting: bytes | None = None
        self._reading = 0
        self._revoked: dict[int, int] = {}
        """When each one's certificate ends, by serial, the first to end first."""
        self._note(standing.grant.revoked, now)
        self.standing = self._knowing(standing)

    def wall(self, now: float) -> float:
        """Guardian's time, Unix seconds: its clock at login, carried on by ours."""
        return now + self._clock_offset_s

    def slept(self, slept_s: float) -> None:
        """Our clock stood still for so long, Guardian's did not."""
        self._clock_offset_s += slept_s

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
        if grant.revision > self.standing.grant.revision:
            # Guardian's clock, but the Master may have held the message back: it cannot have come
            # early, so it may set our clock forward only.
            self._clock_offset_s = max(self._clock_offset_s, _clock_offset_s(grant, now))
            self._take_on(replace(self.standing, grant=grant), now)
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
        self._note(standing.grant.revoked, now)
        self.standing = self._knowing(standing)
        self._on_new(now)

    # Revocations

    def pushed_revocations(self, body: bytes) -> None:
        """Open a message of revocations in a thread; a few at a time."""
        if self._reading >= MAX_READING:
            self._counters["revocations_over_limit"] += 1
            return
        self._reading += 1
        grant, guardian = self.standing.grant, self.standing.guardian
        plane_id = grant.certificate.plane_id
        self._world.defer(
            lambda: guardian.open_revocations(body, plane_id=plane_id, plane_key=grant.plane_key),
            lambda message, now: self._read(message.revoked, now),
            lambda error, _: self._unreadable(error),
        )

    def _read(self, revoked: Sequence[Revoked], now: float) -> None:
        self._reading -= 1
        if self._note(revoked, now):
            self.standing = self._knowing(self.standing)
            self._on_new(now)

    def _unreadable(self, error: WireError) -> None:
        self._reading -= 1
        self._counters[f"revocations: {error}"] += 1

    def _note(self, revoked: Sequence[Revoked], now: float) -> bool:
        """Remember *revoked*; tell whether anything of it is news."""
        since = self.wall(now) - CLOCK_SKEW_S
        news = {r.serial: r.not_after for r in revoked if r.serial not in self._revoked}
        news = {serial: ends for serial, ends in news.items() if ends > since}
        if news:
            held = sorted((self._revoked | news).items(), key=lambda entry: entry[1])
            self._revoked = dict(held[-MAX_REVOKED:])
        return bool(news)

    def drop_idle(self, now: float) -> None:
        """Forget revoked certificates that have ended by themselves."""
        since = self.wall(now) - CLOCK_SKEW_S
        ended = list(takewhile(lambda serial: self._revoked[serial] <= since, self._revoked))
        for serial in ended:
            del self._revoked[serial]
        if ended:
            self.standing = self._knowing(self.standing)

    def _knowing(self, standing: Standing) -> Standing:
        return replace(standing, revoked=frozenset(self._revoked))


def _clock_offset_s(grant: Grant, now: float) -> float:
    return grant.time_ms / 1000 - now
