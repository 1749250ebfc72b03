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


class Shares:
    """Who holds how many things of a bounded whole. Whoever holds most is the first to give way."""

    __slots__ = ("_by_count", "_count", "_held", "_most")

    def __init__(self) -> None:
        self._held: dict[bytes, OrderedDict[bytes, None]] = {}
        self._by_count: dict[int, OrderedDict[bytes, None]] = {}
        """Owners by how much they hold: a flood must not make us look for the greediest."""
        self._most = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def most(self) -> int:
        """How much the one with the most holds."""
        return self._most

    def of(self, owner: bytes) -> int:
        """How much *owner* holds."""
        return len(self._held.get(owner, ()))

    def add(self, owner: bytes, thing: bytes) -> None:
        """*thing*, which nobody holds, is *owner*'s."""
        self._leave(owner)
        self._held.setdefault(owner, OrderedDict())[thing] = None
        self._count += 1
        self._enter(owner)

    def remove(self, owner: bytes, thing: bytes) -> None:
        """*owner* gives *thing* back; nothing happens if it is not his."""
        held = self._held.get(owner)
        if held is None or thing not in held:
            return
        self._leave(owner)
        del held[thing]
        self._count -= 1
        self._enter(owner)

    def greediest(self) -> tuple[bytes, bytes]:
        """The owner who holds most, and the first of his things. Something must be held."""
        owner = next(iter(self._by_count[self._most]))
        return owner, next(iter(self._held[owner]))

    def _leave(self, owner: bytes) -> None:
        count = self.of(owner)
        if count:
            same = self._by_count[count]
            del same[owner]
            if not same:
                del self._by_count[count]

    def _enter(self, owner: bytes) -> None:
        count = self.of(owner)
        if count:
            self._by_count.setdefault(count, OrderedDict())[owner] = None
        else:
            self._held.pop(owner, None)
        self._most = max(self._most, count)
        # One step at most: whoever held most and gave something back holds one less.
        if self._most not in self._by_count:
            self._most = max(self._most - 1, 0)


class SeenNonces:
    """Nonces of the last *keep_s* seconds, at most *limit*, shared among those who brought them.

    A full memory forgets the oldest one of whoever brought most: he can only have done to himself
    what it was kept from. So a flood neither lets in the nonces of others once more, nor keeps
    them out.
    """

    __slots__ = ("_keep_s", "_limit", "_seen", "_shares")

    def __init__(self, *, keep_s: float, limit: int) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._seen: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._shares = Shares()

    def fresh(self, nonce: bytes, *, by: bytes, now: float) -> bool:
        """Tell whether *nonce*, which *by* brought, is new, and remember it."""
        self.drop_idle(now)
        if nonce in self._seen:
            return False
        if len(self._seen) >= self._limit:
            owner, oldest = self._shares.greediest()
            self._shares.remove(owner, oldest)
            del self._seen[oldest]
        self._seen[nonce] = now, by
        self._shares.add(by, nonce)
        return True

    def drop_idle(self, now: float) -> None:
        """Forget nonces that are too old to count."""
        while self._seen:
            nonce, (when, by) = next(iter(self._seen.items()))
            if now - when <= self._keep_s:
                break
            del self._seen[nonce]
            self._shares.remove(by, nonce)
