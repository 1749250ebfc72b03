"""UDP sockets that move many datagrams per system call and per turn of the event loop.

asyncio's own transport reads one datagram per turn. This one drains the socket, and on Linux sends
and receives runs of equal datagrams in one call (UDP_SEGMENT and UDP_GRO, udp(7)).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from conflux.api import Buffer

SOCKET_BUFFER_BYTES = 4 << 20
"""Asked of the kernel, which grants as much as net.core.rmem_max and wmem_max allow."""

READS_PER_TURN = 16
"""Reads before other sockets and timers get their turn."""

_DATAGRAM_BYTES = 65_535
_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_MAX_SEGMENTS = 64
_SEGMENT_SIZE = struct.Struct("=H")
_GRO_SIZE = struct.Struct("=i")
_ANCILLARY_BYTES = 64
_MAX_WAITING = 2_048

_NO_OFFLOAD = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT}

_Address = tuple[Any, ...]
_P = TypeVar("_P", bound=asyncio.DatagramProtocol)


def bind(address: str) -> socket.socket:
    """A non-blocking UDP socket on *address*, any port, with large buffers. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(0)
        sock.bind((address, 0))
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    except OSError:
        sock.close()
        raise
    return sock


async def attach(sock: socket.socket, make_protocol: Callable[[], _P]) -> _P:
    """Put *sock*, which is given away, behind a transport; the protocol has it when this returns.

    Waits only on event loops that cannot watch sockets (Windows' Proactor), where asyncio's own
    transport takes over.
    """
    loop = asyncio.get_running_loop()
    protocol = make_protocol()
    try:
        transport = UdpTransport(loop, sock, protocol)
    except NotImplementedError:
        await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    else:
        protocol.connection_made(transport)
    return protocol


class UdpTransport(asyncio.DatagramTransport):
    """Owns its socket. Everything runs on the loop's thread; `close` releases the socket at once.

    What the kernel does not take at once waits here in order, at most _MAX_WAITING datagrams.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
    ) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": None})
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._waiting: deque[tuple[bytes, _Address]] = deque()
        self._closed = False
        self._segments = sys.platform == "linux"
        self._read = self._read_one
        loop.add_reader(sock.fileno(), self._readable)
        if sys.platform == "linux":
            with suppress(OSError):  # before Linux 5.0: one datagram per read
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
                self._read = self._read_joined

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """Send one datagram, or keep it until the kernel has room. Errors go to the protocol."""
        if self._closed or addr is None:
            return
        if self._waiting:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append((bytes(data), addr))
            return
        try:
            self._sock.sendto(data, addr)
        except (BlockingIOError, InterruptedError):
            self._waiting.append((bytes(data), addr))
            self._loop.add_writer(self._sock.fileno(), self._writable)
        except OSError as error:
            self._protocol.error_received(error)

    def send_run(self, data: bytes, size: int, addr: _Address) -> None:
        """Send *data* as datagrams of *size* bytes, the last one maybe shorter."""
        step = size * min(_MAX_SEGMENTS, _DATAGRAM_BYTES // size - 1)
        for start in range(0, len(data), step):
            self._send_segments(data[start : start + step], size, addr)

    def _send_segments(self, data: bytes, size: int, addr: _Address) -> None:
        if self._segments and size < len(data) and not (self._waiting or self._closed):
            control = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
            try:
                self._sock.sendmsg([data], control, 0, addr)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if error.errno not in _NO_OFFLOAD:
                    self._protocol.error_received(error)
                    return
                # An old kernel or a device without checksum offload: one by one from now on.
                self._segments = False
            else:
                return
        for start in range(0, len(data), size):
            self.sendto(data[start : start + size], addr)

    def _writable(self) -> None:
        while self._waiting:
            data, addr = self._waiting[0]
            try:
                self._sock.sendto(data, addr)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
                if self._closed:
                    return
            self._waiting.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                self._read()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error of something sent earlier.
                self._protocol.error_received(error)
            if self._closed:
                return

    def _read_one(self) -> None:
        data, addr = self._sock.recvfrom(_DATAGRAM_BYTES)
        self._protocol.datagram_received(data, addr)

    def _read_joined(self) -> None:
        data, control, _, addr = self._sock.recvmsg(_DATAGRAM_BYTES, _ANCILLARY_BYTES)
        size = len(data)
        for level, kind, value in control:
            if level == _SOL_UDP and kind == _UDP_GRO:
                (size,) = _GRO_SIZE.unpack_from(value)
        received = self._protocol.datagram_received
        if len(data) <= size:
            received(data, addr)
            return
        for start in range(0, len(data), size):
            received(data[start : start + size], addr)


def send_run(transport: asyncio.DatagramTransport, data: bytes, size: int, addr: _Address) -> None:
    """Send *data* as datagrams of *size* bytes on whatever transport there is."""
    if isinstance(transport, UdpTransport):
        transport.send_run(data, size, addr)
        return
    for start in range(0, len(data), size):
        transport.sendto(data[start : start + size], cast("tuple[str, int]", addr))
