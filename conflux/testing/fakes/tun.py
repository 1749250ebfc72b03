"""TUN devices in memory, joined in pairs: what one sends, the other receives."""

# ruff: noqa: SLF001 (two joined ends are of one class and reach into each other)

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from conflux.api import (
    MAX_RECORD_BYTES,
    Closed,
    Gso,
    Layout,
    Settings,
    TunConfig,
    TunDevice,
    TunDriver,
    Unavailable,
    WireError,
)
from conflux.wire import ip, segment

QUEUE_BYTES = 1 << 20
"""What waits in a device's queue at most, records with their size fields."""

CallSoon = Callable[[Callable[[], None]], object]
"""Runs a callback at the next turn of a loop: the running event loop's, or a simulated one's."""


class MemoryTun(TunDevice):
    """One of two joined devices. `pair` makes both.

    Between them is what a system does: where a device has no offload, it gets packets that are cut
    up and have whole checksums.
    """

    __slots__ = (
        "_call_soon", "_due", "_on_readable", "_peer", "_queue", "_queued_bytes", "closed",
        "gso", "layout", "mtu_bytes", "name", "record_bytes",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        layout: Layout = Layout.BARE,
        mtu_bytes: int = 1500,
        call_soon: CallSoon | None = None,
    ) -> None:
        self.name = name
        self.layout = layout
        self.gso = frozenset(Gso if layout is Layout.VIRTIO else ())
        self.mtu_bytes = mtu_bytes
        # An offload device gives records longer than its MTU.
        self.record_bytes = 2 + mtu_bytes if layout is Layout.BARE else MAX_RECORD_BYTES
        self.closed = False
        self._call_soon = call_soon
        self._on_readable: Callable[[], None] | None = None
        self._due = False
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._peer = self

    @classmethod
    def pair(
        cls,
        *,
        layout: Layout = Layout.BARE,
        right_layout: Layout | None = None,
        mtu_bytes: int = 1500,
        call_soon: CallSoon | None = None,
    ) -> tuple[MemoryTun, MemoryTun]:
        """Two joined devices, of one layout unless *right_layout* says otherwise.

        Without *call_soon* the running event loop calls.
        """
        right_layout = layout if right_layout is None else right_layout
        left = cls("memory0", layout=layout, mtu_bytes=mtu_bytes, call_soon=call_soon)
        right = cls("memory1", layout=right_layout, mtu_bytes=mtu_bytes, call_soon=call_soon)
        left._peer, right._peer = right, left
        return left, right

    def attach(self, on_readable: Callable[[], None]) -> None:
        self._on_readable = on_readable
        if self._call_soon is None:
            self._call_soon = asyncio.get_running_loop().call_soon
        self._wake()

    def receive(self, burst: memoryview) -> int:
        if self.closed:
            raise Closed(f"{self.name} is closed")
        if len(burst) < self.record_bytes:
            raise ValueError(f"the buffer must hold a record of {self.record_bytes} bytes")
        filled = 0
        while self._queue and filled + len(self._queue[0]) <= len(burst):
            record = self._queue.popleft()
            burst[filled : filled + len(record)] = record
            filled += len(record)
        self._queued_bytes -= filled
        return filled

    def send(self, burst: memoryview, layout: Layout) -> int:
        if self.closed:
            raise Closed(f"{self.name} is closed")
        if layout not in (Layout.BARE, self.layout):
            raise ValueError(f"{self.name} takes no records of layout {layout.name}")
        at = 0
        while at < len(burst):
            end = at + 2 + int.from_bytes(burst[at : at + 2], "big")
            if not self._peer._take(bytes(burst[at + 2 : end]), layout):
                break
            at = end
        return at

    def close(self) -> None:
        self.closed = True
        self._on_readable = None
        self._queue.clear()
        self._queued_bytes = 0

    def _take(self, body: bytes, layout: Layout) -> bool:
        """Queue one record that the peer sent, or the packets of it; False if the queue is full."""
        records = [] if self.closed else self._records(body, layout)
        size = sum(map(len, records))
        if self._queued_bytes + size > QUEUE_BYTES:
            return False
        self._queue.extend(records)
        self._queued_bytes += size
        self._wake()
        return True

    def _records(self, body: bytes, layout: Layout) -> list[bytes]:
        """How this device gives *body*; nothing if a system would drop it without a word."""
        whole = body if layout is Layout.VIRTIO else segment.NO_HEADER + body
        if not self._is_valid(whole):
            return []
        bodies = [whole] if self.layout is Layout.VIRTIO else segment.segments(memoryview(whole))
        return [len(body).to_bytes(2, "big") + body for body in bodies]

    def _is_valid(self, body: bytes) -> bool:
        """As much as a system looks at before it drops a packet without a word."""
        view = memoryview(body)
        try:
            ip.addresses(view[segment.HEADER.size :])
            segment.check(view)
            return segment.segment_bytes(view) <= self.mtu_bytes
        except WireError:
            return False

    def _wake(self) -> None:
        if self._queue and not self._due and self._on_readable and self._call_soon:
            self._due = True
            self._call_soon(self._fire)

    def _fire(self) -> None:
        self._due = False
        if self._on_readable and self._queue:
            self._on_readable()
        self._wake()


class MemoryTunDriver(TunDriver):
    """Opens devices whose far end stands in `far`, by interface name, for the test to use.

    Setting "layout": "bare" (default) or "virtio".
    """

    def __init__(self, settings: Settings) -> None:
        self._layout = Layout[str(settings.get("layout", "bare")).upper()]
        self.far: dict[str, MemoryTun] = {}

    async def open(self, config: TunConfig) -> TunDevice:
        taken = self.far.get(config.name)
        if taken is not None and not taken._peer.closed:
            raise Unavailable(f"the interface {config.name} exists: choose another name")
        near, far = MemoryTun.pair(layout=self._layout, mtu_bytes=config.mtu_bytes)
        near.name = config.name
        self.far[config.name] = far
        return near
