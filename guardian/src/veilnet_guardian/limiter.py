"""Slows down who guesses passwords, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from veilnet_guardian.errors import TooMany

WINDOW_S = 60.0
MAX_KEYS = 10_000


@dataclass(slots=True)
class _Window:
    ends: float
    failures: int = 0


class Limiter:
    """Counts failures per key within a minute. The key that was used longest ago is forgotten."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def check(self, keys: dict[str, int], *, now: float) -> None:
        """Raise TooMany if one of *keys* has failed as often as its value allows."""
        for key, allowed in keys.items():
            window = self._windows.get(key)
            if window is None or window.ends <= now:
                continue
            if window.failures >= allowed:
                wait_s = max(1, round(window.ends - now))
                raise TooMany(f"too many wrong logins: wait {wait_s} s", retry_s=wait_s)

    def failed(self, keys: dict[str, int], *, now: float) -> None:
        for key in keys:
            window = self._windows.pop(key, None)
            if window is None or window.ends <= now:
                window = _Window(now + WINDOW_S)
            window.failures += 1
            self._windows[key] = window
        while len(self._windows) > MAX_KEYS:
            self._windows.popitem(last=False)

    def passed(self, keys: dict[str, int]) -> None:
        """Take back one failure that was counted ahead."""
        for key in keys:
            window = self._windows.get(key)
            if window is not None:
                window.failures -= 1


def login_keys(email: str, client: str) -> dict[str, int]:
    """What a login counts against, with the failures allowed in a minute: the pair, so that a
    stranger cannot lock a user out; the client; and the account, from wherever."""
    return {f"pair {client} {email[:200]}": 5, f"client {client}": 20, f"user {email[:200]}": 50}
