"""TUN devices of macOS: a control socket of utun, whose packets have a 4-byte family before them.

The interface lives as long as its socket: the kernel removes it with its addresses and routes when
the process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable

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
from conflux_tun_utun import darwin, system
from conflux_tun_utun.link import System, check_config, check_free, configure, unit_of
from conflux_tun_utun.plugin import NO_ROOT

SIZE_BYTES = 2  # of a record's size field
FAMILY_BYTES = 4
PENDING_PACKETS = 256
"""How many packets the kernel lays ready for one wake-up: without asking it is one, and there are
no bursts."""
QUEUE_BYTES = 1 << 20


class UtunDriver(TunDriver):
    """Makes interfaces. One plane has one node on a machine: a network in use is refused."""

    def __init__(self, settings: Settings) -> None:
        if unknown := sorted(settings):
            raise UsageError(
                f"conflux.toml, [plugin.tun.utun]: no setting {unknown[0]!r}, there is none"
            )
        self._system: System = system.Macos()

    async def open(self, config: TunConfig) -> TunDevice:
        """Make the interface and bring it up. Raises Unavailable; then nothing is left behind.

        It is called utun and a number; a name that is not leaves the number to macOS.
        """
        check_config(config)
        check_free(self._system, config)
        control, name = _make_interface(config.name)
        try:
            control.settimeout(0)
            _enlarge(control)
            configure(self._system, name, config)
        except BaseException:
            control.close()
            raise
        return Utun(control, name, config.mtu_bytes)


def _make_interface(name: str) -> tuple[socket.socket, str]:
    try:
        return system.open_control(unit_of(name))
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise Unavailable(NO_ROOT) from None
        if error.errno == errno.EBUSY:
            raise Unavailable(
                f"interface {name} is in use: choose another name with --tun-name, or leave it out"
            ) from None
        raise Unavailable(f"macOS makes no utun interface: {error.strerror}") from None


def _enlarge(control: socket.socket) -> None:
    """Ask for room. What this macOS refuses costs throughput, nothing else."""
    level, option = darwin.SYSPROTO_CONTROL, darwin.UTUN_OPT_MAX_PENDING_PACKETS
    with contextlib.suppress(OSError):
        control.setsockopt(level, option, struct.pack("=I", PENDING_PACKETS))
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            control.setsockopt(socket.SOL_SOCKET, buffer, QUEUE_BYTES)


class Utun(TunDevice):
    """One interface behind one non-blocking socket, which this object owns. No offload: a record is
    a packet.

    A packet longer than `mtu_bytes`, which the system gives only after somebody raised the
    interface's MTU by hand, comes cut short.
    """

    __slots__ = ("_family", "_loop", "_socket", "mtu_bytes", "name", "record_bytes")

    layout = Layout.BARE

    def __init__(self, control: socket.socket, name: str, mtu_bytes: int) -> None:
        self.name = name
        self.mtu_bytes = mtu_bytes
        self.record_bytes = SIZE_BYTES + mtu_bytes
        self._socket: socket.socket | None = control
        self._family = bytearray(FAMILY_BYTES)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, on_readable: Callable[[], None]) -> None:
        """Watch the socket from the running loop. Level-triggered: unread packets call again.

        Raises Closed.
        """
        if self._socket is None:
            raise self._closed()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, on_readable)

    def receive(self, burst: memoryview) -> int:
        """Read packets straight into *burst* while a whole record fits and one waits."""
        record_bytes = self.record_bytes
        space = len(burst)
        if space < record_bytes:
            raise ValueError(f"a burst of {space} bytes: {self.name} needs {record_bytes}")
        if self._socket is None:
            raise self._closed()
        descriptor, family, read = self._socket.fileno(), self._family, os.readv
        start, end = 0, record_bytes
        try:
            while end <= space:
                body = start + SIZE_BYTES
                size = read(descriptor, (family, burst[body:end])) - FAMILY_BYTES
                if size <= 0:
                    # The kernel's end of the socket is closed: it would stay readable for ever.
                    raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
                burst[start] = size >> 8
                burst[start + 1] = size & 0xFF
                start = body + size
                end = start + record_bytes
        except BlockingIOError:
            pass
        except OSError as error:
            # What was read before still counts; the next call finds the device gone again.
            if not start:
                raise self._gone(error) from None
        return start

    def send(self, burst: memoryview, layout: Layout) -> int:
        """Write each record as one packet. Raises ValueError if *burst* ends within a record."""
        if layout is not Layout.BARE:
            raise ValueError(f"{self.name} takes no records of layout {layout!r}")
        if self._socket is None:
            raise self._closed()
        descriptor, write, families = self._socket.fileno(), os.writev, FAMILIES
        start, end = 0, len(burst)
        while start < end:
            body = start + SIZE_BYTES
            if body > end:
                raise ValueError("burst ends within a record")
            following = body + (burst[start] << 8 | burst[start + 1])
            if following > end:
                raise ValueError("burst ends within a record")
            version = burst[body] >> 4 if following > body else 0
            if version in LEAST_BYTES and following - body >= LEAST_BYTES[version]:
                try:
                    write(descriptor, (families[version], burst[body:following]))
                except OSError as error:
                    if error.errno in QUEUE_FULL:
                        return start
                    if error.errno in GONE:
                        raise self._gone(error) from None
                    # Anything else is about this one packet. The next one may pass.
            start = following
        return start

    def close(self) -> None:
        """Let go of the socket, with which the kernel removes the interface."""
        control, self._socket = self._socket, None
        if control is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(control)
        control.close()

    def _gone(self, error: OSError) -> Closed:
        """Say why the device can carry nothing more, and close it."""
        self.close()
        return Closed(f"interface {self.name} is gone: {error.strerror}")

    def _closed(self) -> Closed:
        return Closed(f"interface {self.name} is closed")


LEAST_BYTES = {4: 20, 6: 40}
"""By IP version, the header's length. What is shorter, or of another version, is no packet."""
FAMILIES = {4: struct.pack("!I", darwin.AF_INET), 6: struct.pack("!I", darwin.AF_INET6)}
"""By IP version, what stands before a packet: the address family, in network order."""
QUEUE_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
GONE = frozenset({errno.EBADF, errno.ENODEV, errno.ENXIO, errno.EPIPE, errno.ENOTCONN,
                  errno.ECONNRESET, errno.ECONNREFUSED})  # fmt: skip
