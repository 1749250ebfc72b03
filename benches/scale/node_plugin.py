"""Drivers for the node under test whose world is the process of its peers, over a Unix socket.

Guardian and Master are played there; the TUN device is in memory, and behind it a host that sends
each packet back to where it came from. Sockets, tethers, cryptography and router are the real ones.

The socket is SOCK_SEQPACKET; a message is a kind, a tag and a handle of 16 bytes each, and a body.
"""

from __future__ import annotations

import asyncio
import enum
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from conflux.api import (
    API_VERSION,
    AuthDriver,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
    DriverInfo,
    Layout,
    LoginAnswer,
    Registration,
    RegistrationRequest,
    Settings,
    TunConfig,
    TunDevice,
    TunDriver,
    hookimpl,
)

SOCKET_VARIABLE = "VEILNET_BENCH_SOCKET"
HEAD = struct.Struct("!B16s16s")
LARGEST = 200_000
LAG_EVERY_S = 0.01
NOBODY = bytes(16)


class What(enum.IntEnum):
    """What a message is about. Peers' side asks for the node's lag; the rest is the drivers'."""

    LOGIN = 1
    GRANT = 2
    CONTROL = 3
    WATCH_LAG = 4
    LAG = 5


class _World:
    """The node's end of the socket, which all three drivers share."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self.socket.connect(os.environ[SOCKET_VARIABLE])
        self.socket.settimeout(0)
        self.on_control: Callable[[bytes, bytes, bytes], None] | None = None
        self._grant: asyncio.Future[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self._late: list[float] | None = None
        self._loop.add_reader(self.socket, self._readable)

    async def log_in(self, token: str, request: bytes) -> bytes:
        self._grant = self._loop.create_future()
        name = token.encode()
        self.send(What.LOGIN, NOBODY, NOBODY, bytes((len(name),)) + name + request)
        return await self._grant

    def send(self, what: What, tag: bytes, handle: bytes, body: bytes) -> bool:
        try:
            self.socket.send(HEAD.pack(what, tag, handle) + body)
        except BlockingIOError:
            return False
        return True

    def _readable(self) -> None:
        for _ in range(16):
            try:
                message = self.socket.recv(LARGEST)
            except BlockingIOError:
                return
            if not message:
                self._loop.remove_reader(self.socket)
                return
            what, tag, handle = HEAD.unpack_from(message)
            body = message[HEAD.size :]
            if what == What.CONTROL and self.on_control is not None:
                self.on_control(tag, handle, body)
            elif what == What.GRANT and self._grant is not None:
                self._grant.set_result(body)
            elif what == What.WATCH_LAG:
                self._watch_lag(float(body))

    def _watch_lag(self, seconds: float) -> None:
        """See for *seconds* how late the loop calls what is due, and tell."""
        late: list[float] = []
        ends = self._loop.time() + seconds

        def due(when: float) -> None:
            now = self._loop.time()
            late.append(now - when)
            if now < ends:
                again = now + LAG_EVERY_S
                self._loop.call_at(again, due, again)
            else:
                self.send(What.LAG, NOBODY, NOBODY, json.dumps(late).encode())

        first = self._loop.time() + LAG_EVERY_S
        self._loop.call_at(first, due, first)


_worlds: list[_World] = []


def _world() -> _World:
    if not _worlds:
        _worlds.append(_World())
    return _worlds[0]


class Auth(AuthDriver):
    def __init__(self, settings: Settings) -> None:
        """There is nothing to set."""

    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        raise NotImplementedError

    async def unregister(self, server: str, *, conflux_token: str) -> None:
        raise NotImplementedError

    async def login(self, server: str, *, conflux_token: str, request: bytes) -> LoginAnswer:
        return LoginAnswer(session="", sealed=await _world().log_in(conflux_token, request))

    async def logout(self, server: str, *, session: str) -> None:
        """Nobody keeps sessions."""

    async def close(self) -> None:
        """The socket ends with the process."""


class _Channel(ControlChannel):
    __slots__ = ("_handle", "connected")

    def __init__(self, handle: bytes) -> None:
        self.connected = True
        self._handle = handle

    def publish(self, tag: bytes, payload: bytes) -> bool:
        return _world().send(What.CONTROL, tag, self._handle, payload)

    async def renew(self, credentials: ControlCredentials) -> None:
        """They never end here."""

    async def close(self) -> None:
        _world().on_control = None


class Control(ControlDriver):
    def __init__(self, settings: Settings) -> None:
        """There is nothing to set."""

    async def connect(
        self,
        credentials: ControlCredentials,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
    ) -> ControlChannel:
        _world().on_control = on_message
        return _Channel(credentials.handle)


class Tun(TunDriver):
    def __init__(self, settings: Settings) -> None:
        """There is nothing to set."""

    async def open(self, config: TunConfig) -> TunDevice:
        return _Echo(config.name, config.mtu_bytes)


class _Echo(TunDevice):
    """A device whose host sends each packet back. Not the kit's: that would bring pytest along."""

    __slots__ = ("_back", "_loop", "_on_readable", "layout", "mtu_bytes", "name", "record_bytes")

    def __init__(self, name: str, mtu_bytes: int) -> None:
        self.name = name
        self.mtu_bytes = mtu_bytes
        self.layout = Layout.BARE
        self.record_bytes = 2 + mtu_bytes
        self._back: deque[bytearray] = deque()
        self._on_readable: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()

    def attach(self, on_readable: Callable[[], None]) -> None:
        self._on_readable = on_readable

    def receive(self, burst: memoryview) -> int:
        filled = 0
        while self._back and filled + len(self._back[0]) <= len(burst):
            record = self._back.popleft()
            burst[filled : filled + len(record)] = record
            filled += len(record)
        return filled

    def send(self, burst: memoryview, layout: Layout) -> int:
        at = 0
        while at < len(burst):
            end = at + 2 + int.from_bytes(burst[at : at + 2], "big")
            record = bytearray(burst[at:end])
            _turn_round(memoryview(record)[2:])
            self._back.append(record)
            at = end
        self._loop.call_soon(self._on_readable)
        return at

    def close(self) -> None:
        self._back.clear()


def _turn_round(packet: memoryview) -> None:
    """Swap the addresses and ports of a UDP packet of IPv4 without options: the checksums hold."""
    packet[12:16], packet[16:20] = bytes(packet[16:20]), bytes(packet[12:16])
    packet[20:22], packet[22:24] = bytes(packet[22:24]), bytes(packet[20:22])


@hookimpl
def conflux_auth_driver() -> DriverInfo:
    return DriverInfo(name="scale", target="benches.scale.node_plugin:Auth", api=API_VERSION)


@hookimpl
def conflux_control_driver() -> DriverInfo:
    return DriverInfo(name="scale", target="benches.scale.node_plugin:Control", api=API_VERSION)


@hookimpl
def conflux_tun_driver() -> DriverInfo:
    return DriverInfo(name="scale", target="benches.scale.node_plugin:Tun", api=API_VERSION)
