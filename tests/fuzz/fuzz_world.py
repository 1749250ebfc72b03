"""What stands around the fuzzed node: stubs of its world, and the members of its plane.

Members hold genuine keys of FakeCrypto, made once. Everything hangs on fixed seeds.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar

from conflux.anchor import handshake
from conflux.anchor.handshake import PendingAsk, Standing
from conflux.anchor.identity import Identity, Peer
from conflux.api import (
    MAX_MESSAGE_BYTES,
    Buffer,
    Gso,
    Layout,
    NodeId,
    Path,
    Tether,
    TetherError,
    TetherStats,
    WireError,
)
from conflux.testing.fakes import FakeCrypto
from conflux.testing.simnet.guardian import SimGuardian
from conflux.wire import icmp, inband, ip, segment
from conflux.wire.control import AuthLevel, Purpose, Target, TargetKind
from conflux.wire.credentials import Grant
from conflux.wire.frame import read_outer, records

T = TypeVar("T")

EPOCH_S = 1_800_000_000
KIND = "stub"
MAX_RELIABLE_BYTES = 16_384

TEAM = "ops"
GSO = frozenset(Gso) - {Gso.UDP_L4}
"""What this node's device takes, as on Linux before 6.2."""
ME, FRIEND, STRANGER, RELAY = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"
FRIENDS_MTU_BYTES = 1_280
"""Below this node's: packets to the friend, and SYNs both ways, have to be made to fit."""


class StubTether(Tether):
    """Takes everything; remembers the last label that was given out on it, and the last SEEK."""

    def __init__(self) -> None:
        self.description = b"stub"
        self.label = 0
        self.sought: inband.Seek | None = None
        self.is_closed = False
        self.on_datagram: Callable[[memoryview], None] = lambda _: None
        self.on_reliable: Callable[[memoryview], None] = lambda _: None
        self.on_closed: Callable[[str], None] = lambda _: None

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        raise TetherError("connected by its world")

    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.on_datagram, self.on_reliable = on_datagram, on_reliable
        self.on_closed = on_closed

    def send(self, messages: Sequence[Buffer]) -> int:
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise ValueError("longer than the tether's contract allows")
            read_outer(memoryview(message))
        return 0 if self.is_closed else len(messages)

    def send_reliable(self, message: Buffer) -> bool:
        if len(message) > MAX_RELIABLE_BYTES:
            raise ValueError("longer than the tether's contract allows")
        sent = inband.decode(message)
        if isinstance(sent, inband.SetupOk):
            self.label = sent.label
        elif isinstance(sent, inband.Seek):
            self.sought = sent
        return not self.is_closed

    def room_bytes(self) -> int:
        return 0 if self.is_closed else 1 << 20

    def stats(self) -> TetherStats:
        return TetherStats()

    def close(self) -> None:
        self.is_closed = True

    abandon = close


class StubWorld:
    """Defers until it is told to go on, delivers into a check."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.deferred: deque[Callable[[], None]] = deque()
        self.published: list[tuple[bytes, bytes]] = []
        self.alarms: list[str] = []
        self.sources = {ip_address(address).packed for address in (FRIEND, STRANGER)}
        self.destinations = {ip_address(ME).packed}

    def now(self) -> float:
        return self.clock

    def go_on(self) -> None:
        while self.deferred:
            self.deferred.popleft()()

    def publish(self, tag: bytes, message: bytes) -> bool:
        self.published.append((tag, message))
        return True

    def defer(
        self,
        work: Callable[[], T],
        then: Callable[[T, float], None],
        failed: Callable[[WireError, float], None],
    ) -> None:
        def run() -> None:
            try:
                result = work()
            except WireError as error:
                failed(error, self.clock)
            else:
                then(result, self.clock)

        self.deferred.append(run)

    def offer_tether(self, kind: str, then: Callable[[Tether | None, float], None]) -> None:
        self.deferred.append(lambda: then(StubTether(), self.clock))

    def answer_tether(
        self, kind: str, offer: bytes, then: Callable[[Tether | None, float], None]
    ) -> None:
        made = StubTether() if offer == b"stub" else None
        self.deferred.append(lambda: then(made, self.clock))

    def connect_tether(
        self,
        tether: Tether,
        secret: bytes,
        remote: bytes | None,
        *,
        deadline_s: float,
        then: Callable[[bool, float], None],
    ) -> None:
        self.deferred.append(lambda: then(remote in (None, b"stub"), self.clock))

    def deliver(self, records_: memoryview, layout: Layout) -> None:
        whole = memoryview(bytes((layout,)) + records_)
        for record, start, end in records(whole):
            if layout is Layout.VIRTIO and segment.check(whole[record + 2 : end]) not in GSO:
                raise AssertionError("a record came in that the device does not take")
            source, destination = ip.addresses(whole[start:end])
            if source not in self.sources or destination not in self.destinations:
                raise AssertionError("a packet came in that no certificate allows")

    def tell_system(self, packet: bytes) -> None:
        ends = ip.addresses(memoryview(packet))
        quoted = icmp.quoted_ends(memoryview(packet))
        if quoted is None or quoted[0] != ends[1] or ends[1] not in self.destinations:
            raise AssertionError("the system is told of what it did not send")

    def granted(self, grant: Grant) -> None:
        own = {interface.packed for interface in grant.certificate.addresses}
        self.destinations |= own

    def stream_opened(self, peer: NodeId, address: str) -> None: ...

    def alarmed(self, peer: NodeId, event: str) -> None:
        self.alarms.append(event)

    def stream_closed(self, peer: NodeId, reason: str) -> None: ...

    def route_changed(self, peer: NodeId, paths: list[Path]) -> None: ...


@dataclass(frozen=True)
class Party:
    """A member of the plane and all that it holds."""

    standing: Standing
    address: str

    @property
    def peer(self) -> Peer:
        return Peer(self.standing.node_id, self.standing.grant.certificate)

    @property
    def handle(self) -> bytes:
        return self.standing.grant.control.handle


class Plane:
    """The parties, made once: what changes with an input is in `Receiver`."""

    def __init__(self) -> None:
        self.entropy = random.Random(1).randbytes
        self.crypto = FakeCrypto({"seed": 1})
        self.guardian = SimGuardian(
            self.crypto, self.entropy, lambda: float(EPOCH_S), lambda tag, payload: None
        )
        self.me = self._enrol("me", ME, [TEAM])
        self.friend = self._enrol("friend", FRIEND, [TEAM])
        self.stranger = self._enrol("stranger", STRANGER, [TEAM])
        self.relay = self._enrol("relay", RELAY, [])

    def _enrol(self, name: str, address: str, teams: Sequence[str]) -> Party:
        self.guardian.enrol(name, addresses=[f"{address}/24"], teams=teams)
        identity = Identity(self.crypto, self.entropy)
        grant = self.guardian.admit(name, identity)
        standing = Standing(self.crypto, self.entropy, identity, self.guardian.key, grant)
        return Party(standing, address)


PLANE = Plane()


@dataclass(frozen=True)
class MadeAsk:
    """An Ask of somebody's to this node, as it stands before it is sealed, too."""

    pending: PendingAsk
    plain: bytes


@lru_cache(maxsize=256)
def made_ask(by_friend: bool, purpose: Purpose, number: int, clock: float) -> MadeAsk:
    """The *number*th Ask of a program. A pure function, so that it costs its making once."""
    by = PLANE.friend if by_friend else PLANE.stranger
    seed = zlib.crc32(repr((by_friend, purpose, number, clock)).encode())
    standing = Standing(
        FakeCrypto({"seed": seed}),
        random.Random(seed).randbytes,
        by.standing.identity,
        by.standing.guardian,
        by.standing.grant,
    )
    pending = handshake.make_ask(
        standing,
        Target(TargetKind.ADDRESS, ip_address(ME).packed),
        purpose=purpose,
        auth_level=AuthLevel.HANDSHAKE,
        tether_kinds=(KIND,),
        avoid=(),
        wall=EPOCH_S + clock,
    )
    return MadeAsk(pending, pending.ask.encode())
