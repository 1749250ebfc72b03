"""All peers of one node in one process: the kernel's protocol and the UDP tether, on real sockets.

Each peer is an Anchor in a LiveWorld, with keys, certificate and timers of its own; they share a
UDP port, two threads and the loop. Guardian and Master are played here, too, without their cost.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benches.scale.node_plugin import HEAD, LARGEST, NOBODY, What
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import (
    Identity,
    guardian_fingerprint,
    login_binding,
    node_id,
    relay_tag,
    seal_grant,
)
from conflux.anchor.node import Anchor
from conflux.anchor.quota import Relaying
from conflux.api import Layout, TetherConfig
from conflux.registry import Registry
from conflux.runtime.world import LiveWorld
from conflux.testing import EqualRouter
from conflux.testing.packets import udp_packet
from conflux.testing.simnet.guardian import HANDLE, SimGuardian
from conflux.wire.control import AuthLevel
from conflux.wire.credentials import LoginRequest
from conflux_crypto_openssl.driver import OpenSslCrypto
from conflux_tether_udp.driver import UdpTetherDriver

NODE = "node"
NODE_ADDRESS = IPv4Address("10.77.0.1")
ANSWER_S = 6.0
"""A first packet waits 5 s for its streams: after that it is sent again."""
QUEUE_BYTES = 8 << 20

Listener = Callable[[bytes, bytes, bytes], None]


class Master:
    """Carries control messages between peers and the node, and the node's logins to Guardian."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[bytes, Listener] = {}
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind(str(path))
        self._door.listen(1)
        self._node: socket.socket | None = None
        self._lag: asyncio.Future[list[float]] | None = None
        self.messages = 0
        crypto = OpenSslCrypto({})
        self.guardian = SimGuardian(crypto, os.urandom, time.time, self._publish_as_guardian)
        self._crypto = crypto
        self._shared_tag = relay_tag(self.guardian.plane_key)

    async def node_comes(self) -> None:
        """Wait until the node under test has connected."""
        self._door.settimeout(0)
        self._node, _ = await self._loop.sock_accept(self._door)
        self._node.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        self._node.settimeout(0)
        self._loop.add_reader(self._node, self._readable)

    def close(self) -> None:
        for sock in (self._door, self._node):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()
        self._node = None

    def token(self, name: str, address: IPv4Address) -> str:
        """A conflux token of *name*, which is enrolled."""
        self.guardian.enrol(name, addresses=[f"{address}/16"], teams=["ops"])
        fingerprint = guardian_fingerprint(self.guardian.key.public)
        claim = base64.urlsafe_b64encode(fingerprint).rstrip(b"=").decode()
        body = base64.urlsafe_b64encode(f'{{"gkf":"{claim}"}}'.encode()).rstrip(b"=").decode()
        return f"{name}.{body}.-"

    def listen(self, tags: Sequence[bytes], listener: Listener) -> None:
        for tag in tags:
            self._listeners[tag] = listener

    def publish(self, tag: bytes, handle: bytes, body: bytes) -> bool:
        self.messages += 1
        if tag == self._shared_tag:
            self._to_node(What.CONTROL, tag, handle, body)
        elif (listener := self._listeners.get(tag)) is not None:
            self._loop.call_soon(listener, tag, handle, body)
        return True

    def _publish_as_guardian(self, tag: bytes, body: bytes) -> None:
        self.publish(tag, HANDLE, body)

    async def lag(self, seconds: float) -> list[float]:
        """How late the node's loop was, in seconds, each 10 ms for that long."""
        self._lag = self._loop.create_future()
        self._to_node(What.WATCH_LAG, NOBODY, NOBODY, str(seconds).encode())
        return await self._lag

    def _to_node(self, what: What, tag: bytes, handle: bytes, body: bytes) -> None:
        if self._node is not None:
            try:
                self._node.send(HEAD.pack(what, tag, handle) + body)
            except BlockingIOError:
                return  # as NATS would drop it; the protocol repeats

    def _readable(self) -> None:
        assert self._node is not None
        for _ in range(16):
            try:
                message = self._node.recv(LARGEST)
            except BlockingIOError:
                return
            if not message:
                self._loop.remove_reader(self._node)
                return
            what, tag, handle = HEAD.unpack_from(message)
            body = message[HEAD.size :]
            if what == What.CONTROL:
                self.publish(tag, handle, body)
            elif what == What.LOGIN:
                self._to_node(What.GRANT, NOBODY, NOBODY, self._seal(body))
            elif what == What.LAG and self._lag is not None:
                self._lag.set_result(json.loads(body))

    def _seal(self, body: bytes) -> bytes:
        encoded = body[1 + body[0] :]
        request = LoginRequest.decode(encoded)
        applicant: Any = SimpleNamespace(
            signer=SimpleNamespace(public=request.sign_public),
            kem=SimpleNamespace(public=request.kem_public),
            node_id=node_id(request.sign_public),
        )
        grant = self.guardian.admit(NODE, applicant)
        self.listen(grant.control.tags, self._to_node_tag)
        return seal_grant(
            self._crypto,
            self.guardian._signer,  # noqa: SLF001 (the kit's Guardian signs for its owner alone)
            grant,
            binding=login_binding(encoded),
            entropy=os.urandom,
        )

    def _to_node_tag(self, tag: bytes, handle: bytes, body: bytes) -> None:
        self._to_node(What.CONTROL, tag, handle, body)


class Ether:
    """The tether driver that all peers share."""

    def __init__(self) -> None:
        self.driver = UdpTetherDriver({"allow_loopback": True})

    async def start(self) -> None:
        await self.driver.start(TetherConfig(is_overlay=lambda _: False))

    async def get(self, kind: str) -> UdpTetherDriver:
        return self.driver


class Peer:
    """One peer. As the node's, its TUN device is in memory: it sends one kind of packet, and counts
    what comes back."""

    def __init__(
        self,
        number: int,
        master: Master,
        ether: Ether,
        tasks: asyncio.TaskGroup,
        executor: Executor,
        registry: Registry,
    ) -> None:
        name, address = f"peer {number}", NODE_ADDRESS + 1 + number
        master.guardian.enrol(name, addresses=[f"{address}/16"], teams=["ops"])
        crypto = OpenSslCrypto({})
        self.identity = Identity(crypto, os.urandom)
        grant = master.guardian.admit(name, self.identity)
        self.handle = grant.control.handle
        self.answers = 0
        self.connected = True
        self._master = master
        self._answered = asyncio.Event()
        packet = udp_packet(address, NODE_ADDRESS, bytes(64))
        self._burst = bytes((Layout.BARE,)) + len(packet).to_bytes(2, "big") + packet
        shared: Any = ether
        self.world = LiveWorld(tasks, executor, registry, shared, on_grant=lambda _: None)
        this: Any = self
        self.world.control = self.world.tun = this
        self.anchor = Anchor(
            Standing(crypto, os.urandom, self.identity, master.guardian.key, grant),
            self.world,
            EqualRouter(),
            tether_kinds=("udp",),
            auth_level=AuthLevel.CHECKPOINT,
            relaying=Relaying(enabled=False),
            now=self.world.now(),
        )
        self.world.drive(self.anchor.timers)
        master.listen(grant.control.tags, self._take_control)

    def close(self) -> None:
        self.anchor.close(now=self.world.now())
        self.world.close()
        self.identity.erase()

    def ask(self) -> None:
        """Send one packet to the node."""
        self._answered.clear()
        self.anchor.take_burst(memoryview(bytearray(self._burst)), now=self.world.now())

    async def reach(self) -> int:
        """Send a packet until one is answered; return how many it took."""
        tries = 0
        while True:
            tries += 1
            self.ask()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._answered.wait()
            except TimeoutError:
                continue
            return tries

    def _take_control(self, tag: bytes, handle: bytes, body: bytes) -> None:
        self.anchor.take_control(tag, handle, body, now=self.world.now())

    # What LiveWorld needs of a control channel and of a TUN device

    def publish(self, tag: bytes, payload: bytes) -> bool:
        return self._master.publish(tag, self.handle, payload)

    def send(self, records: memoryview, layout: Layout) -> int:
        self.answers += 1
        self._answered.set()
        return len(records)
