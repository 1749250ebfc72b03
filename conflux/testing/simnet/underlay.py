"""The underlay: one link for each pair of nodes, and tethers that cross it.

Datagrams may be lost, doubled and reordered as the link says. The reliable lane keeps order and
loses nothing: a loss costs it time, a blocked link halts it.
"""

# ruff: noqa: SLF001 (two joined ends are of one class and reach into each other)

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from conflux.api import MAX_MESSAGE_BYTES, Buffer, Tether, TetherError, TetherStats
from conflux.testing.simnet.clock import Clock

TETHER_KIND = "sim"
MAX_RELIABLE_BYTES = 16_384
QUEUE_BYTES = 1 << 20
"""What is under way on one lane in one direction at most."""

RETRY_S = 0.2
"""How often a blocked connection attempt, and the reliable lane, try again."""

_DESCRIPTION = b"sim tether "
_Crossed = Callable[[str, str, bytes], None]


@dataclass(slots=True)
class Link:
    """How two nodes reach each other, both ways alike. Change it at any time.

    `loss`, `duplicate` and `reorder` are shares of datagrams, 0 to 1; a reordered datagram takes
    up to three times `delay_s` longer. `jitter_s` is the most that chance adds to each delay.
    """

    delay_s: float = 0.01
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    blocked: bool = False
    blocked_kinds: Collection[str] = ()
    """Kinds of tether that do not get through, as UDP behind some firewalls."""

    def stops(self, kind: str) -> bool:
        return self.blocked or kind in self.blocked_kinds


class Underlay:
    """Every link and every tether of a network."""

    def __init__(
        self, clock: Clock, chance: random.Random, on_datagram: _Crossed, on_reliable: _Crossed
    ) -> None:
        self.clock = clock
        self.chance = chance
        self.default = Link()
        """What a link is before a test changes it."""
        self.on_datagram = on_datagram
        self.on_reliable = on_reliable
        self._links: dict[tuple[str, str], Link] = {}
        self._tethers: dict[bytes, SimTether] = {}
        self._made = 0

    def link(self, one: str, other: str) -> Link:
        key = (min(one, other), max(one, other))
        if key not in self._links:
            self._links[key] = replace(self.default)
        return self._links[key]

    def offer(self, owner: str, kind: str) -> SimTether:
        return self._make(owner, kind)

    def answer(self, owner: str, offer: bytes) -> SimTether | None:
        """The other end of *offer*; None if there is no such offer or it was answered before."""
        offerer = self._tethers.get(offer)
        if offerer is None or offerer.peer is not None:
            return None
        tether = self._make(owner, offerer.kind)
        tether.peer, offerer.peer = offerer, tether
        return tether

    def tethers(self, owner: str) -> list[SimTether]:
        """Every tether end of *owner* that is not closed."""
        return [tether for tether in self._tethers.values() if tether.owner == owner]

    def find(self, description: bytes) -> SimTether | None:
        return self._tethers.get(description)

    def forget(self, tether: SimTether) -> None:
        self._tethers.pop(tether.description, None)

    def _make(self, owner: str, kind: str) -> SimTether:
        self._made += 1
        tether = SimTether(self, owner, kind, _DESCRIPTION + str(self._made).encode())
        self._tethers[tether.description] = tether
        return tether


class SimTether(Tether):
    """One end. Its node connects it by `begin`: there is no event loop to wait on."""

    def __init__(self, underlay: Underlay, owner: str, kind: str, description: bytes) -> None:
        self.owner = owner
        self.kind = kind
        self.description = description
        self.peer: SimTether | None = None
        self.up = False
        self.closed = False
        self._underlay = underlay
        self._secret = b""
        self._then: Callable[[bool], None] | None = None
        self._on_datagram: Callable[[memoryview], None] = _nowhere
        self._on_reliable: Callable[[memoryview], None] = _nowhere
        self._on_closed: Callable[[str], None] = _nowhere
        self._under_way = {False: 0, True: 0}
        self._reliable: deque[bytes] = deque()

    # Making the connection

    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._on_datagram, self._on_reliable = on_datagram, on_reliable
        self._on_closed = on_closed

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        raise TetherError("a simulated tether is connected by its SimNode, on the virtual clock")

    def begin(
        self, secret: bytes, remote: bytes | None, deadline_s: float, then: Callable[[bool], None]
    ) -> None:
        """Connect; call *then* once, with False if it did not work out within *deadline_s*."""
        self._secret, self._then = secret, then
        peer = self.peer
        if self.closed or peer is None or (remote is not None and remote != peer.description):
            self._finish(up=False)
            return
        self._underlay.clock.after(deadline_s, lambda: self._finish(up=False))
        if peer._then is not None or peer.up:
            self._meet()

    def _meet(self) -> None:
        peer = self.peer
        if peer is None or self.closed or peer.closed or self.up:
            return
        if self._secret != peer._secret:
            return
        link = self._link()
        if link.stops(self.kind):
            self._underlay.clock.after(RETRY_S, self._meet)
            return
        # One end knows before the other: its first messages come to an end that still connects.
        ends = [self, peer]
        self._underlay.chance.shuffle(ends)
        self._underlay.clock.after(3 * link.delay_s, lambda: ends[0]._finish(up=True))
        self._underlay.clock.after(4.5 * link.delay_s, lambda: ends[1]._finish(up=True))

    def _finish(self, *, up: bool) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        up = up and not self.closed
        self.up = up
        if not up:
            self.close()
        then(up)

    # Lanes

    def send(self, messages: Sequence[Buffer]) -> int:
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        for taken, message in enumerate(messages):
            if not self._room_for(message, reliable=False):
                return taken
            self._send_datagram(bytes(message))
        return len(messages)

    def send_reliable(self, message: Buffer) -> bool:
        if len(message) > MAX_RELIABLE_BYTES:
            raise ValueError(f"a reliable message has at most {MAX_RELIABLE_BYTES} bytes")
        if not self._room_for(message, reliable=True):
            return False
        self._under_way[True] += len(message)
        self._reliable.append(bytes(message))
        if len(self._reliable) == 1:
            self._underlay.clock.after(self._delay(), self._deliver_reliable)
        return True

    def room_bytes(self) -> int:
        return QUEUE_BYTES - self._under_way[False] if self.up and not self.closed else 0

    def stats(self) -> TetherStats:
        return TetherStats(queued_bytes=sum(self._under_way.values()), underlay="simulated")

    def close(self) -> None:
        if self.closed:
            return
        self.abandon()
        peer = self.peer
        if peer is not None and not peer.closed:
            self._underlay.clock.after(self._delay(), lambda: peer._far_end_closed(self))

    def abandon(self) -> None:
        """Close without a word to the far end, as a machine does, too, that loses power."""
        self.closed = True
        self.up = False
        self._then = None
        self._reliable.clear()
        self._underlay.forget(self)

    def _room_for(self, message: Buffer, *, reliable: bool) -> bool:
        fits = self._under_way[reliable] + len(message) <= QUEUE_BYTES
        return self.up and not self.closed and fits

    def _send_datagram(self, message: bytes) -> None:
        link, chance = self._link(), self._underlay.chance
        if link.stops(self.kind) or chance.random() < link.loss:
            return
        for _ in range(2 if chance.random() < link.duplicate else 1):
            self._under_way[False] += len(message)
            wait_s = self._delay()
            if chance.random() < link.reorder:
                wait_s += 3 * link.delay_s * chance.random()
            self._underlay.clock.after(wait_s, lambda: self._deliver_datagram(message))

    def _deliver_datagram(self, message: bytes) -> None:
        self._under_way[False] -= len(message)
        peer = self.peer
        if peer is not None and not peer.closed and not self._link().stops(self.kind):
            self._underlay.on_datagram(self.owner, peer.owner, message)
            peer._on_datagram(memoryview(message))

    def _deliver_reliable(self) -> None:
        peer, link = self.peer, self._link()
        if not self._reliable or peer is None or peer.closed:
            return
        if link.stops(self.kind) or self._underlay.chance.random() < link.loss:
            self._underlay.clock.after(RETRY_S, self._deliver_reliable)
            return
        message = self._reliable.popleft()
        self._under_way[True] -= len(message)
        if self._reliable:
            self._underlay.clock.after(0.0, self._deliver_reliable)
        self._underlay.on_reliable(self.owner, peer.owner, message)
        peer._on_reliable(memoryview(message))

    def _far_end_closed(self, peer: SimTether) -> None:
        if self.closed or self._link().stops(self.kind):
            return
        if self._then is not None:
            self._finish(up=False)
        else:
            self.abandon()
            self._on_closed("the far end closed the tether")

    def _link(self) -> Link:
        return self._underlay.link(self.owner, self.peer.owner if self.peer else self.owner)

    def _delay(self) -> float:
        link = self._link()
        return link.delay_s + link.jitter_s * self._underlay.chance.random()


def _nowhere(_: object) -> None:
    """Where messages go before `attach`."""
