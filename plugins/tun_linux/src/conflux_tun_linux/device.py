"""TUN devices of Linux (Documentation/networking/tuntap.rst), configured through rtnetlink.

The interface lives as long as its file descriptor: it is never made persistent, so the kernel
removes it with its addresses and routes when the process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

from conflux.api import Closed, Layout, Settings, TunConfig, TunDevice, TunDriver
from conflux_tun_linux.companions import RuleKeeper
from conflux_tun_linux.link import check_config, configure, make_interface
from conflux_tun_linux.plugin import open_tun

SIZE_BYTES = 2


class LinuxTunDriver(TunDriver):
    """Opens interfaces in the network namespace of the calling thread. Has no settings."""

    def __init__(self, settings: Settings) -> None:
        del settings

    async def open(self, config: TunConfig) -> TunDevice:
        """Make the interface and bring it up. Raises Unavailable; then nothing is left behind."""
        check_config(config)
        descriptor = open_tun()
        try:
            name = make_interface(descriptor, config.name)
            keeper = await configure(name, config)
        except BaseException:  # the caller's cancellation too must leave no interface behind
            os.close(descriptor)
            raise
        return LinuxTun(descriptor, name, config.mtu_bytes, keeper)


class LinuxTun(TunDevice):
    """One interface behind one non-blocking descriptor, which this object owns.

    Each record is one packet (layout BARE). A packet longer than `mtu_bytes`, which the system
    gives only after somebody raised the interface's MTU by hand, may come cut short.
    """

    __slots__ = ("_descriptor", "_keeper", "_loop", "layout", "mtu_bytes", "name", "record_bytes")

    def __init__(
        self, descriptor: int, name: str, mtu_bytes: int, keeper: RuleKeeper | None = None
    ) -> None:
        self.name = name
        self.mtu_bytes = mtu_bytes
        self.layout = Layout.BARE
        self.record_bytes = SIZE_BYTES + mtu_bytes
        self._descriptor = descriptor
        self._keeper = keeper
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, on_readable: Callable[[], None]) -> None:
        """Watch the descriptor from the running loop. Level-triggered: unread packets call again.

        Raises Closed.
        """
        if self._descriptor < 0:
            raise self._closed()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, on_readable)

    def receive(self, burst: memoryview) -> int:
        """Read packets straight into *burst* while a whole record fits and one waits."""
        record_bytes = self.record_bytes
        space = len(burst)
        if space < record_bytes:
            raise ValueError(f"a burst of {space} bytes: {self.name} needs {record_bytes}")
        descriptor = self._descriptor
        last_start = space - record_bytes
        start = 0
        try:
            while start <= last_start:
                body = start + SIZE_BYTES
                size = os.readv(descriptor, [burst[body:]])
                burst[start] = size >> 8
                burst[start + 1] = size & 0xFF
                start = body + size
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
            raise ValueError(f"{self.name} takes layout BARE only, not {layout!r}")
        descriptor = self._descriptor
        end = len(burst)
        start = 0
        while start < end:
            body = start + SIZE_BYTES
            if body > end:
                raise ValueError("burst ends within a record")
            following = body + (burst[start] << 8 | burst[start + 1])
            if following > end:
                raise ValueError("burst ends within a record")
            try:
                os.write(descriptor, burst[body:following])
            except OSError as error:
                if error.errno in QUEUE_FULL:
                    return start
                if error.errno in GONE:
                    raise self._gone(error) from None
                # Anything else is about this one packet: EINVAL for what is no IP packet, EIO
                # while somebody has set the interface down. The next one may pass.
            start = following
        return start

    def close(self) -> None:
        """Let go of the descriptor, with which the kernel removes the interface.

        Waits for the kernel, about 20 ms.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(descriptor)
        os.close(descriptor)
        if self._keeper is not None:
            self._keeper.wait()

    def _gone(self, error: OSError) -> Closed:
        """Say why the device can carry nothing more, and close it.

        An interface that somebody deleted stays readable for ever: the loop would spin.
        """
        if self._descriptor < 0:
            return self._closed()
        self.close()
        return Closed(f"interface {self.name} is gone: {error.strerror}")

    def _closed(self) -> Closed:
        return Closed(f"interface {self.name} is closed")


QUEUE_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
GONE = frozenset({errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO})
