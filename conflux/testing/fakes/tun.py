"""TUN devices in memory, joined in pairs: what one sends, the other receives."""

# ruff: noqa: SLF001 (two joined ends are of one class and reach into each other)

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from conflux.api import Closed, Layout, Settings, TunConfig, TunDevice, TunDriver, Unavailable

QUEUE_BYTES = 1 << 20
"""What waits in a device's queue at most, records with their size fields."""

_HEADER_BYTES = 10

CallSoon = Callable[[Callable[[], None]], object]
"""Runs a callback at the next turn of a loop: the running event loop's, or a simulated one's."""


class MemoryTun(TunDevice):
    """One of two joined devices. `pair` makes both."""

    __slots__ = (
        "_call_soon", "_due", "_on_readable", "_peer", "_queue", "_queued_bytes", "closed",
        "layout", "mtu_bytes", "name", "record_bytes",
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
        self.mtu_bytes = mtu_bytes
        # An offload device gives records longer than its MTU, up to what the size field can say.
        self.record_bytes = 2 + (mtu_bytes if layout is Layout.BARE else 65_535)
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
        mtu_bytes: int = 1500,
        call_soon: CallSoon | None = None,
    ) -> tuple[MemoryTun, MemoryTun]:
        """Two joined devices of one layout. Without *call_soon* the running event loop calls."""
        left = cls("memory0", layout=layout, mtu_bytes=mtu_bytes, call_soon=call_soon)
        right = cls("memory1", layout=layout, mtu_bytes=mtu_bytes, call_soon=call_soon)
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
        """Queue one record that the peer sent; False if the queue is full."""
        header, packet = b"", body
        if layout is Layout.VIRTIO:
            header, packet = body[:_HEADER_BYTES], body[_HEADER_BYTES:]
        elif self.layout is Layout.VIRTIO:
            header = bytes(_HEADER_BYTES)
        if self.closed or not self._is_valid(packet, header):
            return True
        record = (len(header) + len(packet)).to_bytes(2, "big") + header + packet
        if self._queued_bytes + len(record) > QUEUE_BYTES:
            return False
        self._queue.append(record)
        self._queued_bytes += len(record)
        self._wake()
        return True

    def _is_valid(self, packet: bytes, header: bytes) -> bool:
        """As much of IP as a system looks at before it drops a packet without a word."""
        is_cut_up_later = len(header) == _HEADER_BYTES and header[1] != 0
        if len(packet) > self.mtu_bytes and not is_cut_up_later:
            return False
        version = packet[0] >> 4 if packet else 0
        return (version == 4 and len(packet) >= 20) or (version == 6 and len(packet) >= 40)

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
