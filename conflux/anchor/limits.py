"""Bounds against floods: what is over them is dropped and counted, never queued."""

from __future__ import annotations

from collections import OrderedDict

MAX_SENDERS = 4_096


class RateLimit:
    """A token bucket for each sender; the senders seen longest ago are forgotten first."""

    __slots__ = ("_buckets", "_burst", "_per_s")

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allows(self, sender: bytes, *, now: float) -> bool:
        """Take one token of *sender*'s; False if there is none."""
        tokens, then = self._buckets.pop(sender, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_s)
        allowed = tokens >= 1
        self._buckets[sender] = (tokens - allowed, now)
        if len(self._buckets) > MAX_SENDERS:
            self._buckets.popitem(last=False)
        return allowed

    def drop_idle(self, now: float) -> None:
        """Forget senders whose bucket is full again: they are as good as unknown."""
        full_s = self._burst / self._per_s
        while self._buckets and now - next(iter(self._buckets.values()))[1] >= full_s:
            self._buckets.popitem(last=False)


class SeenNonces:
    """Nonces of the last *keep_s* seconds, at most *limit*: a full memory refuses new ones.

    Refusing instead of forgetting: a flood may delay newcomers, but nothing comes in twice.
    """

    __slots__ = ("_keep_s", "_limit", "_seen")

    def __init__(self, *, keep_s: float, limit: int) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def fresh(self, nonce: bytes, *, now: float) -> bool:
        """Tell whether *nonce* is new, and remember it."""
        self.drop_idle(now)
        if nonce in self._seen or len(self._seen) >= self._limit:
            return False
        self._seen[nonce] = now
        return True

    def drop_idle(self, now: float) -> None:
        """Forget nonces that are too old to count."""
        while self._seen and now - next(iter(self._seen.values())) > self._keep_s:
            self._seen.popitem(last=False)
