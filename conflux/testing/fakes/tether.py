"""Tethers in memory: drivers that share a `MemoryHub` reach each other."""

# ruff: noqa: SLF001 (two joined ends are of one class and reach into each other)

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from conflux.api import (
    MAX_MESSAGE_BYTES,
    Buffer,
    Settings,
    Tether,
    TetherConfig,
    TetherDriver,
    TetherError,
    TetherStats,
    WireError,
)

QUEUE_BYTES = 1 << 20
"""What is under way on one lane in one direction at most."""

MAX_RELIABLE_BYTES = 16_384
_OFFER = b"memory offer "
_ANSWER = b"memory answer "


class Carrier(Protocol):
    """How a hub gets one message across: the place for delay and loss.

    Call *deliver* once, later, never from within this call. Not calling it loses the message,
    which `reliable` ones must not be; nor may those overtake each other.
    """

    def __call__(self, deliver: Callable[[], None], *, size_bytes: int, reliable: bool) -> None: ...


def next_turn(deliver: Callable[[], None], *, size_bytes: int, reliable: bool) -> None:
    """The default carrier: no loss, no delay, at the running event loop's next turn."""
    asyncio.get_running_loop().call_soon(deliver)


class MemoryHub:
    """Where the tethers of several drivers meet. One hub is one network."""

    def __init__(self, carrier: Carrier = next_turn) -> None:
        self.carrier = carrier
        self._waiting: dict[int, MemoryTether] = {}
        self._made = 0

    def number(self, tether: MemoryTether) -> int:
        self._made += 1
        self._waiting[self._made] = tether
        return self._made

    def find(self, description: bytes, kind: bytes) -> MemoryTether:
        """Return the tether that *description* names. Raises WireError if it names none."""
        digits = description.removeprefix(kind)
        if len(description) > 64 or digits == description or not digits.isdigit():
            raise WireError("not a description of a memory tether")
        tether = self._waiting.get(int(digits))
        # Comparing whole descriptions leaves one spelling for each number.
        if tether is None or tether.description != description:
            raise WireError("no such memory tether")
        return tether

    def forget(self, tether: MemoryTether) -> None:
        self._waiting = {n: t for n, t in self._waiting.items() if t is not tether}


class MemoryTether(Tether):
    """One end. Its messages cross through the hub's carrier, bounded by QUEUE_BYTES a lane."""

    __slots__ = (
        "_closed", "_hub", "_joined", "_on_closed", "_on_datagram", "_on_reliable", "_peer",
        "_ready", "_under_way", "description", "secret",
    )  # fmt: skip

    def __init__(self, hub: MemoryHub, kind: bytes) -> None:
        self._hub = hub
        self.description = kind + str(hub.number(self)).encode()
        self.secret = b""
        self._closed = False
        self._ready = False
        self._joined = asyncio.Event()
        self._peer: MemoryTether | None = None
        self._on_datagram: Callable[[memoryview], None] = _nowhere
        self._on_reliable: Callable[[memoryview], None] = _nowhere
        self._on_closed: Callable[[str], None] = _nowhere
        self._under_way = {False: 0, True: 0}

    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._on_datagram, self._on_reliable = on_datagram, on_reliable
        self._on_closed = on_closed

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        try:
            if remote is not None:
                self._check_answer(self._hub.find(remote, _ANSWER))
            self._become_ready(secret)
            await self._joined.wait()
        except BaseException:
            self.close()
            raise
        if self._closed:
            raise TetherError("the tether was closed while it was being made")

    def _check_answer(self, answerer: MemoryTether) -> None:
        # The two were joined when the offer was answered.
        if self._peer is not answerer:
            raise WireError("the answer is to another offer")

    def _become_ready(self, secret: bytes) -> None:
        self.secret, self._ready = secret, True
        peer = self._peer
        if peer is None or peer._closed:
            raise TetherError("the far end is gone")
        if peer._ready:
            if peer.secret != secret:
                raise TetherError("the two ends do not hold the same secret")
            self._joined.set()
            peer._joined.set()

    def send(self, messages: Sequence[Buffer]) -> int:
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        for taken, message in enumerate(messages):
            if not self._cross(message, reliable=False):
                return taken
        return len(messages)

    def send_reliable(self, message: Buffer) -> bool:
        if len(message) > MAX_RELIABLE_BYTES:
            raise ValueError(f"a reliable message has at most {MAX_RELIABLE_BYTES} bytes")
        return self._cross(message, reliable=True)

    def room_bytes(self) -> int:
        if self._closed or not self._joined.is_set():
            return 0
        return QUEUE_BYTES - self._under_way[False]

    def stats(self) -> TetherStats:
        return TetherStats(queued_bytes=sum(self._under_way.values()), underlay="memory")

    def close(self) -> None:
        peer = None if self._closed else self._peer
        self.abandon()
        if peer is not None and not peer._closed:
            self._hub.carrier(peer._end, size_bytes=0, reliable=True)

    def abandon(self) -> None:
        if not self._closed:
            self._closed = True
            self._joined.set()
            self._hub.forget(self)

    def _cross(self, message: Buffer, *, reliable: bool) -> bool:
        peer, size = self._peer, len(message)
        if self._closed or peer is None or not self._joined.is_set():
            return False
        if self._under_way[reliable] + size > QUEUE_BYTES:
            return False
        self._under_way[reliable] += size
        kept = bytes(message)

        def deliver() -> None:
            self._under_way[reliable] -= size
            if not peer._closed:
                (peer._on_reliable if reliable else peer._on_datagram)(memoryview(kept))

        self._hub.carrier(deliver, size_bytes=size, reliable=reliable)
        return True

    def _end(self) -> None:
        """The far end closed."""
        if not self._closed:
            self.close()
            self._on_closed("the far end closed the tether")


class MemoryTetherDriver(TetherDriver):
    """Makes tethers to every driver of the same hub."""

    def __init__(self, settings: Settings | None = None, *, hub: MemoryHub | None = None) -> None:
        self._hub = hub or MemoryHub()
        self._tethers: list[MemoryTether] = []

    async def start(self, config: TetherConfig) -> None:
        """Nothing to get ready: there is no address here that could belong to the overlay."""

    async def offer(self) -> Tether:
        return self._make(_OFFER)

    async def answer(self, offer: bytes) -> Tether:
        offerer = self._hub.find(offer, _OFFER)
        if offerer._peer is not None:
            raise TetherError("the offer was answered before")
        tether = self._make(_ANSWER)
        tether._peer, offerer._peer = offerer, tether
        return tether

    async def stop(self) -> None:
        for tether in self._tethers:
            tether.close()
        self._tethers.clear()

    def _make(self, kind: bytes) -> MemoryTether:
        # Closed ones are let go here, so that a long simulation keeps only what lives.
        self._tethers = [tether for tether in self._tethers if not tether._closed]
        tether = MemoryTether(self._hub, kind)
        self._tethers.append(tether)
        return tether


def _nowhere(_: object) -> None:
    """Where messages go before `attach`."""
