"""UDP sockets that move whole batches: many datagrams a system call, many calls a turn of the loop.

On egress a batch is one `sendmsg` with UDP_SEGMENT. On ingress UDP_GRO joins what came in together;
it is scattered so that headers lie with headers and pieces with pieces, and nothing has to be
copied (udp(7), docs/decisions/0044).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from conflux.api import Buffer
from conflux_tether_udp.datagram import (
    HEADER_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_PIECES,
    batch,
    lay_out,
)
from conflux_tether_udp.paths import Address, Path

RECEIVE_BUFFER_BYTES = 8 << 20
SEND_BUFFER_BYTES = 1 << 20
"""Asked of the kernel. What comes in waits for its turn; what goes out should not wait."""
READS_PER_TURN = 4
"""Reads before other sockets and timers get their turn. More make round trips under load longer and
nothing faster (docs/where-the-time-goes.md)."""
QUEUE_BYTES = 4 << 20
"""What waits for the kernel, of all tethers."""

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_MEMINFO = 33, 32, 55
_MEMINFO = struct.Struct("=9L")
_MEMINFO_DROPS = 8
_SEGMENT_SIZE = struct.Struct("=H")
_INT = struct.Struct("=i")
_PKTINFO4 = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16si")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_INT.size) + socket.CMSG_SPACE(_PKTINFO6.size)

_NO_SEGMENTS = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT}
_NO_SOURCE = {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENODEV}
_MAX_CACHED = 1_024

_Control = list[tuple[int, int, bytes]]


class Backlog:
    """What waits for the kernel to have room, of all sockets of a driver."""

    __slots__ = ("queued_bytes",)

    def __init__(self) -> None:
        self.queued_bytes = 0


class Sender(Protocol):
    """Whoever sends on a socket, and hears what became of it."""

    queued_bytes: int

    def refused(self, datagram_bytes: int) -> None:
        """Datagrams of this size are too large for the interface."""

    def local_gone(self) -> None:
        """The path's own address is not one of this machine any more."""


Receive = Callable[["Inbox", int, int, int, Address, bytes | None], None]
"""Called with (inbox, bytes, bytes of each datagram but the last, count, remote, local)."""


class Inbox:
    """Where batches are received: `headers` back to back, `pieces` back to back.

    One for all sockets of a driver; the next read overwrites it.
    """

    def __init__(self) -> None:
        self.headers = memoryview(bytearray(MAX_PIECES * HEADER_BYTES))
        self.pieces = memoryview(bytearray(MAX_DATAGRAM_BYTES + 28))
        self._spill = memoryview(bytearray(MAX_DATAGRAM_BYTES + 28))
        self._layouts: dict[int, list[memoryview]] = {}
        self._flat = [self.headers[:HEADER_BYTES], self.pieces]
        self._layout = self._flat
        self._expected = 0
        """Bytes of each datagram that the layout is for; 0: one datagram of any size."""
        self._singles = 0

    def read(self, sock: socket.socket) -> tuple[int, int, int, Address, bytes | None]:
        """Receive a batch: (bytes, bytes of each datagram but the last, count, remote, local).

        Raises BlockingIOError when there is none, other OSErrors as `recvmsg_into` does.
        """
        size, control, _, remote = sock.recvmsg_into(self._layout, _ANCILLARY_BYTES)
        each, local = size, None
        for level, kind, data in control:
            if level == _SOL_UDP:
                (each,) = _INT.unpack_from(data)
            elif kind == _IP_PKTINFO:
                local = data[4:8]
            elif kind == _IPV6_PKTINFO:
                local = data[:16]
        if size <= each:
            fits = size <= self._expected or not self._expected
            if not fits:
                self._gather(size, size)
            self._expect_single()
            return size, size, 1, remote, local
        if each != self._expected:
            self._gather(size, each)
            self._expect(each)
        self._singles = 0
        return size, each, min(-(-size // each), MAX_PIECES), remote, local

    def _expect(self, each: int) -> None:
        """The next batch will be like this one: have the kernel sort it."""
        piece_bytes = each - HEADER_BYTES
        if piece_bytes < _MIN_PIECE_BYTES:
            return
        layout = self._layouts.get(each)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = [*lay_out(self.headers, self.pieces, piece_bytes), self._spill]
            self._layouts[each] = layout
        self._layout, self._expected = layout, each

    def _expect_single(self) -> None:
        """Batches seem to be over: fewer places to fill make a read cheaper."""
        self._singles += 1
        if self._singles >= _SINGLES and self._expected:
            self._layout, self._expected = self._flat, 0

    def _gather(self, size: int, each: int) -> None:
        """Sort what was received into places meant for datagrams of another size."""
        whole = b"".join(self._layout)[:size]
        pieces = bytearray()
        for index, start in enumerate(range(0, size, each)):
            if index >= MAX_PIECES:
                break
            header = whole[start : min(start + HEADER_BYTES, size)]
            at = index * HEADER_BYTES
            self.headers[at : at + len(header)] = header
            pieces += whole[start + HEADER_BYTES : min(start + each, size)]
        self.pieces[: len(pieces)] = pieces


_MIN_PIECE_BYTES = 256
_MAX_LAYOUTS = 16
_SINGLES = 8


class UdpSocket:
    """One socket on every address of one family. Everything runs on the loop's thread.

    Binding to no address in particular is what lets a tether outlive a change of addresses; that
    nothing comes from or goes to the overlay is seen to path by path.
    """

    def __init__(
        self, family: int, port: int, inbox: Inbox, backlog: Backlog, receive: Receive
    ) -> None:
        """Raises OSError where the family, or the port, cannot be had."""
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._is_ipv6 = family == socket.AF_INET6
        self._inbox = inbox
        self._backlog = backlog
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Sender, Path, list[bytes], int]] = deque()
        self._controls: dict[tuple[bytes | None, int], _Control] = {}
        self._plain_only: set[Address] = set()
        """Where batches were refused: a device without checksum offload, an old kernel."""
        self._is_closed = False
        try:
            self._set_up(port)
        except OSError:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _set_up(self, port: int) -> None:
        sock = self._sock
        sock.settimeout(0)
        if self._is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            # Never fragmented, and the kernel's own idea of the path's MTU does not count.
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        for force, option, size in (
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        ):
            try:  # beyond net.core.rmem_max with CAP_NET_ADMIN
                sock.setsockopt(socket.SOL_SOCKET, force, size)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
        with suppress(OSError):  # before Linux 5.0: one datagram a read
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        sock.bind(("::" if self._is_ipv6 else "0.0.0.0", port))

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    def overflows(self) -> int:
        """How many batches the receive buffer had no room for so far (sock_diag(7))."""
        info = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        drops: int = _MEMINFO.unpack(info)[_MEMINFO_DROPS]
        return drops

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    # Ingress

    def _readable(self) -> None:
        inbox, receive = self._inbox, self._receive
        for _ in range(READS_PER_TURN):
            try:
                batch = inbox.read(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of something sent earlier
            receive(inbox, *batch)
            if self._is_closed:
                return

    # Egress

    def send(self, sender: Sender, path: Path, parts: Sequence[Buffer], each: int) -> None:
        """Send datagrams of *each* bytes, the last one maybe shorter, or queue them.

        *parts* are header and piece of each in turn, or one whole datagram.
        """
        if self._is_closed:
            return
        step = 2
        if len(parts) > 2 and path.remote not in self._plain_only:
            step = 2 * batch(each)
        for start in range(0, len(parts), step):
            some = parts[start : start + step]
            if self._queue or not self._try(sender, path, some, each):
                self._hold(sender, path, some, each)

    def send_plain(self, data: bytes, remote: Address) -> None:
        """Send one datagram that belongs to no tether, if the system takes it now."""
        with suppress(OSError):
            self._sock.sendto(data, remote)

    def _try(self, sender: Sender, path: Path, parts: Sequence[Buffer], each: int) -> bool:
        """Send one batch, or lose it for good; False if the system has no room right now."""
        control = self._control(path.local, each if len(parts) > 2 else 0)
        try:
            self._sock.sendmsg(parts, control, 0, path.remote)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._failed(sender, path, parts, each, error.errno)
        return True

    def _failed(
        self, sender: Sender, path: Path, parts: Sequence[Buffer], each: int, code: int | None
    ) -> None:
        """Send one by one what was refused as a batch; tell the sender what else it may be."""
        if len(parts) > 2 and code in _NO_SEGMENTS:
            if code != errno.EMSGSIZE:
                if len(self._plain_only) >= _MAX_CACHED:
                    self._plain_only.clear()
                self._plain_only.add(path.remote)
            for start in range(0, len(parts), 2):
                if not self._try(sender, path, parts[start : start + 2], each):
                    self._hold(sender, path, parts[start:], each, first=True)
                    return
        elif code == errno.EMSGSIZE:
            sender.refused(sum(map(len, parts)))
        elif path.local is not None and code in _NO_SOURCE:
            sender.local_gone()
        # Anything else is a loss like any other: no route right now, a firewall's EPERM.

    def _hold(
        self,
        sender: Sender,
        path: Path,
        parts: Sequence[Buffer],
        each: int,
        *,
        first: bool = False,
    ) -> None:
        """Queue a batch, unless the queue is over its limit by what nobody asked room for."""
        size = sum(map(len, parts))
        if self._backlog.queued_bytes + size > 2 * QUEUE_BYTES:
            return
        if not self._queue:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        entry = (sender, path, [bytes(part) for part in parts], each)
        if first:
            self._queue.appendleft(entry)
        else:
            self._queue.append(entry)
        self._backlog.queued_bytes += size
        sender.queued_bytes += size

    def _writable(self) -> None:
        while self._queue:
            sender, path, parts, each = self._queue.popleft()
            size = sum(map(len, parts))
            self._backlog.queued_bytes -= size
            sender.queued_bytes -= size
            if not self._try(sender, path, parts, each):
                self._hold(sender, path, parts, each, first=True)
                return
        if not self._is_closed:
            self._loop.remove_writer(self._sock.fileno())

    def _control(self, local: bytes | None, segment: int) -> _Control:
        """What `sendmsg` is told besides the data: the own address, the size of datagrams."""
        control = self._controls.get((local, segment))
        if control is None:
            if len(self._controls) >= _MAX_CACHED:
                self._controls.clear()
            control = self._controls[local, segment] = []
            if segment:
                control.append((_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(segment)))
            if local is not None and self._is_ipv6:
                info = _PKTINFO6.pack(local, 0)
                control.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, info))
            elif local is not None:
                info = _PKTINFO4.pack(0, local, bytes(4))
                control.append((socket.IPPROTO_IP, _IP_PKTINFO, info))
        return control
