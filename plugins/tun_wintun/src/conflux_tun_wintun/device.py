"""TUN devices of Windows: an adapter of wintun.dll with a ring of packets for each direction.

The adapter lives as long as its handle: Windows removes it with its addresses and routes when the
process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import uuid
from collections.abc import Callable
from ctypes import byref, c_uint32, c_uint64
from typing import Any

from conflux.api import (
    Closed,
    Layout,
    Settings,
    TunConfig,
    TunDevice,
    TunDriver,
    Unavailable,
    UsageError,
)
from conflux_tun_wintun import library, link
from conflux_tun_wintun.event import Event

SIZE_BYTES = 2  # of a record's size field
NEVER = 65_536
LEAST_BYTES = tuple({4: 20, 6: 40}.get(version, NEVER) for version in range(16))
"""By IP version, the header's length. The driver ends the session, without a way back, over a
packet of another version or a shorter one (driver/wintun.c, TunProcessReceiveData)."""


class WintunDriver(TunDriver):
    """Makes adapters. One plane has one node on a machine: a network in use is refused."""

    def __init__(self, settings: Settings) -> None:
        if unknown := sorted(settings):
            raise UsageError(
                f"conflux.toml, [plugin.tun.wintun]: no setting {unknown[0]!r}, there is none"
            )

    async def open(self, config: TunConfig) -> TunDevice:
        """Make the adapter and bring it up, which takes a second or two, the first time ten.

        Raises Unavailable; then nothing is left behind.
        """
        link.check_config(config)
        wintun = library.load(library.find())
        iphlpapi = link.load()
        link.check_free(iphlpapi, config)
        adapter = await _make_adapter(wintun, config.name)
        session = None
        try:
            # First: without a session the cable counts as unplugged, and addresses stay tentative.
            session = wintun.WintunStartSession(adapter, library.RING_BYTES)
            if not session:
                raise Unavailable(_refused(config.name, ctypes.get_last_error()))
            luid = c_uint64()
            wintun.WintunGetAdapterLUID(adapter, byref(luid))
            await link.configure(iphlpapi, luid.value, config)
        except BaseException:  # the caller's cancellation too must leave no adapter behind
            if session:
                wintun.WintunEndSession(session)
            await asyncio.shield(asyncio.to_thread(wintun.WintunCloseAdapter, adapter))
            raise
        return Wintun(wintun, adapter, session, config.name, config.mtu_bytes)


TUNNEL_TYPE = "VeilNet"


async def _make_adapter(wintun: Any, name: str) -> int:
    """Make the adapter in a thread: Windows may have to install the driver. Raises Unavailable."""

    def make() -> int:
        # The same name has the same GUID, so that Windows remembers what it is told of a network.
        guid = ctypes.create_string_buffer(uuid.uuid5(NAMESPACE, name).bytes_le, 16)
        adapter = wintun.WintunCreateAdapter(name, TUNNEL_TYPE, guid)
        if not adapter:
            raise Unavailable(_refused(name, ctypes.get_last_error()))
        return int(adapter)

    work = asyncio.get_running_loop().run_in_executor(None, make)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(lambda done: _take_back(wintun, done))
        raise


NAMESPACE = uuid.UUID("0f3b6e0e-6b3f-5d0c-9d55-3c2f6f6e7a21")


def _take_back(wintun: Any, made: asyncio.Future[int]) -> None:
    if not made.cancelled() and made.exception() is None:
        wintun.WintunCloseAdapter(made.result())


def _refused(name: str, error: int) -> str:
    if error == library.ERROR_ACCESS_DENIED:
        return library.NO_ADMIN
    return (
        f"Windows refuses an interface named {name}: {link.describe(error)}; "
        "see C:\\Windows\\INF\\setupapi.dev.log, and try again after a restart"
    )


class Wintun(TunDevice):
    """One adapter with its session, which this object owns. No offload: a record is a packet.

    A packet longer than `mtu_bytes`, which Windows gives only after somebody raised the interface's
    MTU by hand, is dropped.
    """

    __slots__ = (
        "_adapter", "_event", "_is_dry", "_loop", "_on_readable", "_session", "_size", "_wintun",
        "mtu_bytes", "name", "record_bytes",
    )  # fmt: skip

    layout = Layout.BARE

    def __init__(self, wintun: Any, adapter: int, session: int, name: str, mtu_bytes: int) -> None:
        self.name = name
        self.mtu_bytes = mtu_bytes
        self.record_bytes = SIZE_BYTES + mtu_bytes
        self._wintun = wintun
        self._adapter = adapter
        self._session: int | None = session
        self._size = c_uint32()
        self._is_dry = False
        """Whether the last look at the ring found it empty: the event is set by the next packet."""
        self._event: Event | None = None
        self._on_readable: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, on_readable: Callable[[], None]) -> None:
        """Watch the ring from the running loop, a Proactor loop. Raises Closed."""
        if self._session is None:
            raise self._closed()
        self._on_readable = on_readable
        self._loop = asyncio.get_running_loop()
        self._event = Event(self._wintun.WintunGetReadWaitEvent(self._session), self._wake)
        self._loop.call_soon(self._wake)  # for what came before

    def _wake(self) -> None:
        """The event tells of the first packet in an empty ring: until it is empty again, turns of
        the loop do."""
        if self._session is None or self._event is None or self._loop is None:
            return
        self._is_dry = False
        try:
            self._on_readable()
        finally:  # a bug there is the loop's to report, and no reason to read no more
            if self._is_dry:
                self._event.wait()
            else:
                self._loop.call_soon(self._wake)

    def receive(self, burst: memoryview) -> int:
        """Copy packets to *burst* while a whole record fits and one waits."""
        record_bytes, mtu_bytes, size = self.record_bytes, self.mtu_bytes, self._size
        space = len(burst)
        if space < record_bytes:
            raise ValueError(f"a burst of {space} bytes: {self.name} needs {record_bytes}")
        session = self._session
        if session is None:
            raise self._closed()
        receive, release = self._wintun.WintunReceivePacket, self._wintun.WintunReleaseReceivePacket
        copy, where = ctypes.string_at, byref(size)
        start, last = 0, space - record_bytes
        while start <= last:
            packet = receive(session, where)
            if not packet:
                error = ctypes.get_last_error()
                if error == library.ERROR_NO_MORE_ITEMS:
                    self._is_dry = True
                elif not start:  # else what was read still counts; the next call finds it again
                    raise self._gone(error)
                break
            length = size.value
            if length <= mtu_bytes:
                body = start + SIZE_BYTES
                burst[start] = length >> 8
                burst[start + 1] = length & 0xFF
                start = body + length
                burst[body:start] = copy(packet, length)
            release(session, packet)
        return start

    def send(self, burst: memoryview, layout: Layout) -> int:
        """Copy each record to the ring. Raises ValueError if *burst* ends within a record."""
        if layout is not Layout.BARE:
            raise ValueError(f"{self.name} takes no records of layout {layout!r}")
        session = self._session
        if session is None:
            raise self._closed()
        allocate, hand_over = self._wintun.WintunAllocateSendPacket, self._wintun.WintunSendPacket
        copy = ctypes.memmove
        start, end = 0, len(burst)
        while start < end:
            body = start + SIZE_BYTES
            if body > end:
                raise ValueError("burst ends within a record")
            length = burst[start] << 8 | burst[start + 1]
            following = body + length
            if following > end:
                raise ValueError("burst ends within a record")
            if length and length >= LEAST_BYTES[burst[body] >> 4]:
                place = allocate(session, length)
                if not place:
                    error = ctypes.get_last_error()
                    if error == library.ERROR_BUFFER_OVERFLOW:
                        return start
                    raise self._gone(error)
                copy(place, bytes(burst[body:following]), length)
                hand_over(session, place)
            start = following
        return start

    def close(self) -> None:
        """End the session and have Windows remove the adapter. Waits for that, up to a second."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._event is not None:
            self._event.close()
        self._wintun.WintunEndSession(session)
        self._wintun.WintunCloseAdapter(self._adapter)

    def _gone(self, error: int) -> Closed:
        """Say why the device can carry nothing more, and close it."""
        self.close()
        return Closed(f"interface {self.name} is gone: {link.describe(error)}")

    def _closed(self) -> Closed:
        return Closed(f"interface {self.name} is closed")
