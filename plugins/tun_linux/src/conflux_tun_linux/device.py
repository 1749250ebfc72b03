"""TUN devices of Linux (Documentation/networking/tuntap.rst), configured through rtnetlink.

The interface lives as long as its file descriptor: it is never made persistent, so the kernel
removes it with its addresses and routes when the process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from collections.abc import Callable

from conflux.api import (
    MAX_GSO_BYTES,
    Closed,
    Gso,
    Layout,
    Settings,
    TunConfig,
    TunDevice,
    TunDriver,
    UsageError,
)
from conflux_tun_linux import offload
from conflux_tun_linux.companions import RuleKeeper
from conflux_tun_linux.link import check_config, configure, make_interface
from conflux_tun_linux.offload import HEADER_BYTES, SIZE_BYTES
from conflux_tun_linux.plugin import open_tun

NO_HEADER = bytes(HEADER_BYTES)


class LinuxTunDriver(TunDriver):
    """Opens interfaces in the network namespace of the calling thread.

    Setting `offload`: false has the kernel cut up and sum up every packet itself. An MTU of more
    than `offload.MAX_PACKET_BYTES` does the same.
    """

    def __init__(self, settings: Settings) -> None:
        where = "conflux.toml, [plugin.tun.linux]"
        if unknown := sorted(set(settings) - {"offload"}):
            raise UsageError(f"{where}: no setting {unknown[0]!r}, there is only offload")
        wanted = settings.get("offload", True)
        if not isinstance(wanted, bool):
            raise UsageError(f"{where}: offload must be true or false")
        self._offload = wanted

    async def open(self, config: TunConfig) -> TunDevice:
        """Make the interface and bring it up. Raises Unavailable; then nothing is left behind."""
        check_config(config)
        descriptor = open_tun()
        try:
            fits = config.mtu_bytes <= offload.MAX_PACKET_BYTES
            offloads = self._offload and fits and offload.is_supported(descriptor)
            flags = offload.IFF_VNET_HDR if offloads else 0
            name = make_interface(descriptor, config.name, flags=flags)
            gso: frozenset[Gso] = frozenset()
            if offloads:
                is_limited = await offload.limit_packets(socket.if_nametoindex(name))
                gso = offload.switch_on(descriptor, is_limited=is_limited)
            keeper = await configure(name, config)
        except BaseException:  # the caller's cancellation too must leave no interface behind
            os.close(descriptor)
            raise
        return LinuxTun(descriptor, name, config.mtu_bytes, gso=gso, keeper=keeper)


class LinuxTun(TunDevice):
    """One interface behind one non-blocking descriptor, which this object owns.

    With *gso* it has virtio headers (layout VIRTIO). A packet longer than `mtu_bytes`, which the
    system gives only after somebody raised the interface's MTU by hand, may come cut short.
    """

    __slots__ = ("_file", "_keeper", "_loop", "gso", "layout", "mtu_bytes", "name", "record_bytes")

    def __init__(
        self,
        descriptor: int,
        name: str,
        mtu_bytes: int,
        *,
        gso: frozenset[Gso] = frozenset(),
        keeper: RuleKeeper | None = None,
    ) -> None:
        self.name = name
        self.mtu_bytes = mtu_bytes
        self.gso = gso
        self.layout = Layout.VIRTIO if gso else Layout.BARE
        if gso:
            longest = max(mtu_bytes, MAX_GSO_BYTES if gso - {Gso.NONE} else 0)
            self.record_bytes = SIZE_BYTES + HEADER_BYTES + longest
        else:
            self.record_bytes = SIZE_BYTES + mtu_bytes
        # A fifth faster than os.readv, and no exception where nothing waits.
        self._file: io.FileIO | None = io.FileIO(descriptor, "r+")
        self._keeper = keeper
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, on_readable: Callable[[], None]) -> None:
        """Watch the descriptor from the running loop. Level-triggered: unread packets call again.

        Raises Closed.
        """
        if self._file is None:
            raise self._closed()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file.fileno(), on_readable)

    def receive(self, burst: memoryview) -> int:
        """Read packets straight into *burst* while a whole record fits and one waits."""
        record_bytes = self.record_bytes
        space = len(burst)
        if space < record_bytes:
            raise ValueError(f"a burst of {space} bytes: {self.name} needs {record_bytes}")
        if self._file is None:
            raise self._closed()
        read_into = self._file.readinto
        start, end = 0, record_bytes
        try:
            while end <= space:
                body = start + SIZE_BYTES
                size = read_into(burst[body:end])
                if size is None:
                    break
                burst[start] = size >> 8
                burst[start + 1] = size & 0xFF
                start = body + size
                end = start + record_bytes
        except OSError as error:
            # What was read before still counts; the next call finds the device gone again.
            if not start:
                raise self._gone(error) from None
        return start

    def send(self, burst: memoryview, layout: Layout) -> int:
        """Write each record as one packet. Raises ValueError if *burst* ends within a record."""
        if layout not in (Layout.BARE, self.layout):
            raise ValueError(f"{self.name} takes no records of layout {layout!r}")
        if self._file is None:
            raise self._closed()
        descriptor = self._file.fileno()
        # Joined, not gathered by os.writev, which takes longer for anything up to 9,000 bytes.
        header = b"" if layout is self.layout else NO_HEADER
        end = len(burst)
        start = 0
        while start < end:
            body = start + SIZE_BYTES
            if body > end:
                raise ValueError("burst ends within a record")
            following = body + (burst[start] << 8 | burst[start + 1])
            if following > end:
                raise ValueError("burst ends within a record")
            packet = burst[body:following]
            try:
                os.write(descriptor, header + packet if header else packet)
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
        file, self._file = self._file, None
        if file is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(file.fileno())
        file.close()
        if self._keeper is not None:
            self._keeper.wait()

    def _gone(self, error: OSError) -> Closed:
        """Say why the device can carry nothing more, and close it.

        An interface that somebody deleted stays readable for ever: the loop would spin.
        """
        if self._file is None:
            return self._closed()
        self.close()
        return Closed(f"interface {self.name} is gone: {error.strerror}")

    def _closed(self) -> Closed:
        return Closed(f"interface {self.name} is closed")


QUEUE_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
GONE = frozenset({errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO})
