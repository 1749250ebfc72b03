"""The whole receive path under the fuzzer: an Anchor in a world of stubs, and what peers can do.

An input is a program: operation (1) ‖ size (2) ‖ payload, and so on; what is too short is cut.
Peers hold genuine keys of FakeCrypto, so that what they send gets past every seal: it is the bytes
inside that the fuzzer changes. Bit 7 of an operation leaves deferred work waiting, so that later
operations overtake it. Everything hangs on the input alone.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor import handshake
from conflux.anchor.handshake import Secrets, Standing, StreamKeys, message_ref
from conflux.anchor.identity import (
    GRANT_CONTEXT,
    GRANT_INFO,
    PUSH_BINDING,
    Identity,
    Peer,
    sign_certificate,
)
from conflux.anchor.node import Anchor
from conflux.anchor.seal import hkdf_expand, hkdf_extract, seal
from conflux.anchor.step import Established
from conflux.anchor.stream import OutStream
from conflux.api import (
    MAX_MESSAGE_BYTES,
    Buffer,
    Layout,
    NodeId,
    Path,
    Signer,
    Tether,
    TetherError,
    TetherStats,
    WireError,
)
from conflux.testing.fakes import EqualRouter, FakeCrypto
from conflux.testing.fakes.crypto import FakeSigner
from conflux.testing.packets import udp_packet
from conflux.testing.simnet.guardian import HANDLE, SimGuardian
from conflux.wire import features, icmp, inband, ip
from conflux.wire.control import AuthLevel, Description, Kind, Purpose, Target, TargetKind, envelope
from conflux.wire.credentials import Grant
from conflux.wire.frame import OUTER, SIZE, read_outer, records

T = TypeVar("T")

EPOCH_S = 1_800_000_000
KIND = "stub"
MAX_RELIABLE_BYTES = 16_384
MAX_OPERATIONS = 64
HOLDS = 0x80

TEAM = "ops"
ME, FRIEND, STRANGER = "10.9.0.1", "10.9.0.2", "10.9.0.3"
FRIENDS_MTU_BYTES = 1_280
"""Below this node's: packets to the friend, and SYNs both ways, have to be made to fit."""


class StubTether(Tether):
    """Takes everything; remembers the last label that was given out on it."""

    def __init__(self) -> None:
        self.description = b"stub"
        self.label = 0
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
        return not self.is_closed

    def room_bytes(self) -> int:
        return 0 if self.is_closed else 1 << 20

    def stats(self) -> TetherStats:
        return TetherStats()

    def close(self) -> None:
        self.is_closed = True


class StubWorld:
    """Defers until it is told to go on, delivers into a check."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.deferred: deque[Callable[[], None]] = deque()
        self.published: list[tuple[bytes, bytes]] = []
        self.tethers: list[StubTether] = []
        self.sources: set[bytes] = set()
        self.destinations: set[bytes] = set()

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
        self.deferred.append(lambda: then(self._make(), self.clock))

    def answer_tether(
        self, kind: str, offer: bytes, then: Callable[[Tether | None, float], None]
    ) -> None:
        made = self._make() if offer == b"stub" else None
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
        for _, start, end in records(whole):
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

    def stream_closed(self, peer: NodeId, reason: str) -> None: ...

    def route_changed(self, peer: NodeId, paths: list[Path]) -> None: ...

    def _make(self) -> StubTether:
        tether = StubTether()
        self.tethers.append(tether)
        return tether


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
        self.relay = self._enrol("relay", "10.9.0.4", [])

    def _enrol(self, name: str, address: str, teams: Sequence[str]) -> Party:
        self.guardian.enrol(name, addresses=[f"{address}/24"], teams=teams)
        identity = Identity(self.crypto, self.entropy)
        grant = self.guardian.admit(name, identity)
        standing = Standing(self.crypto, self.entropy, identity, self.guardian.key, grant)
        return Party(standing, address)


PLANE = Plane()
THEIRS = StreamKeys(bytes(range(32)), bytes(range(12)), 0x1122334455667788)
OURS = StreamKeys(bytes(range(32, 64)), bytes(range(12)), 0x8877665544332211)


class Receiver:
    """One node with a friend, who has streams and a tether with it, and a relay."""

    def __init__(self) -> None:
        # Fresh coins for each input: the identities are made once, all else must repeat itself.
        self.crypto = FakeCrypto({"seed": 2})
        self.entropy = random.Random(2).randbytes
        self.me = self._party(PLANE.me)
        self.friend = self._party(PLANE.friend)
        self.stranger = self._party(PLANE.stranger)
        self.relay = self._party(PLANE.relay)
        self.world = StubWorld()
        self.world.sources = {ip_address(a).packed for a in (FRIEND, STRANGER)}
        self.world.destinations = {ip_address(ME).packed}
        self.anchor = Anchor(
            self.me.standing,
            self.world,
            EqualRouter(),
            tether_kinds=(KIND,),
            auth_level=AuthLevel.HANDSHAKE,
            now=0.0,
        )
        self.tethers = [self._join(self.friend), self._join(self.relay)]
        self.out = OutStream(THEIRS, now=0.0)
        self._befriend()
        self.world.go_on()
        self.asked: handshake.PendingAsk | None = None
        self.by = self.friend

    # Set-up

    def _party(self, party: Party) -> Party:
        standing = party.standing
        identity = copy.copy(standing.identity)
        identity.signer = self._signer(identity.signer)
        own = Standing(self.crypto, self.entropy, identity, standing.guardian, standing.grant)
        return Party(own, party.address)

    def _signer(self, signer: Signer) -> FakeSigner:
        return FakeSigner(signer.public, self.crypto._coins)

    def _join(self, party: Party) -> StubTether:
        tether = StubTether()
        self.anchor.neighbours.join(party.peer, tether, KIND)(0.0)
        return tether

    def _befriend(self) -> None:
        """What a handshake ends in, with keys that the fuzzer knows, and without its cost."""
        done = Established(
            Purpose.STREAM,
            self.friend.peer,
            list(self.me.standing.grant.teams),
            handshake.SUITE_1,
            AuthLevel.HANDSHAKE,
            Secrets(THEIRS, OURS, bytes(32), bytes(32)),
            features.of_mtu(FRIENDS_MTU_BYTES),
            asked=False,
            order=(0, b""),
        )
        self.anchor._established(done, 0.0)

    # The program

    def run(self, program: bytes, operations: Sequence[Callable[[Receiver, bytes], None]]) -> None:
        at = 0
        for _ in range(MAX_OPERATIONS):
            if at >= len(program):
                break
            code, size = program[at], int.from_bytes(program[at + 1 : at + 3], "big")
            payload = program[at + 3 : at + 3 + size]
            at += 3 + size
            operations[(code & ~HOLDS) % len(operations)](self, payload)
            if not code & HOLDS:
                self.world.go_on()
        self.world.go_on()
        self.anchor.close(now=self.world.clock)
        if self.anchor.sessions or self.anchor.neighbours.all():
            raise AssertionError("a closed node has sessions or neighbours")

    # What a neighbour can do

    def friend_sends(self, payload: bytes) -> None:
        self.tethers[0].on_datagram(memoryview(payload))

    def relay_sends(self, payload: bytes) -> None:
        self.tethers[1].on_datagram(memoryview(payload))

    def friend_says(self, payload: bytes) -> None:
        self.tethers[0].on_reliable(memoryview(payload))

    def relay_says(self, payload: bytes) -> None:
        self.tethers[1].on_reliable(memoryview(payload))

    def superframe_direct(self, payload: bytes) -> None:
        if payload:
            self.friend_sends(self._frame(payload, 0))

    def superframe_relayed(self, payload: bytes) -> None:
        if payload:
            self.relay_sends(self._frame(payload, self.tethers[1].label))

    def _frame(self, superframe: bytes, label: int) -> bytes:
        frame = self.out.seal(memoryview(superframe), now=0.0)
        OUTER.pack_into(frame, 0, 0x10, 5, 0, label)
        return bytes(frame)

    def route_to_me(self, payload: bytes) -> None:
        """A genuine SETUP of the friend's, by the relay: its frames may come that way."""
        path = [party.standing.node_id for party in (self.friend, self.relay, self.me)]
        self.relay_says(inband.Setup((payload + bytes(16))[:16], 90, path).encode())

    def relay_floods(self, payload: bytes) -> None:
        """A flooded message to be passed on, of any size: 2 bytes of it, then who, whom, what."""
        size, named = int.from_bytes(payload[:2], "big"), payload[2:] + bytes(48)
        message = (named[48:] + bytes(size))[:size]
        flood = inband.Flood(named[:16], 4, named[16:32], named[32:48], message)
        self.relay_says(flood.encode())

    def tether_closes(self, payload: bytes) -> None:
        self.tethers[len(payload) & 1].on_closed("closed")

    # What the Master can do

    def control(self, payload: bytes) -> None:
        self.anchor.take_control(self.friend.handle, payload, now=self.world.clock)

    # What this node's own user and time do

    def burst(self, payload: bytes) -> None:
        self.anchor.take_burst(memoryview(payload), now=self.world.clock)

    def packet_to_friend(self, payload: bytes) -> None:
        self._packet_to(FRIEND, payload)

    def packet_to_stranger(self, payload: bytes) -> None:
        self._packet_to(STRANGER, payload)

    def _packet_to(self, address: str, payload: bytes) -> None:
        packet = udp_packet(ip_address(ME), ip_address(address), payload[:1_000])
        self.burst(bytes((Layout.BARE,)) + SIZE.pack(len(packet)) + packet)

    def time_passes(self, payload: bytes) -> None:
        self.world.clock += sum(payload[:2]) / 4
        self.anchor.timers.run(self.world.clock)

    # What a member of the plane and team can do with genuine keys

    def asks(self, payload: bytes) -> None:
        """An Ask of the stranger's or the friend's, patched inside, sealed under the plane key."""
        self.by = self.stranger if payload[:1] < b"\x80" else self.friend
        purpose = Purpose.TETHER if payload[:1] in (b"\x01", b"\x81") else Purpose.STREAM
        self.asked = handshake.make_ask(
            self.by.standing,
            Target(TargetKind.ADDRESS, ip_address(ME).packed),
            purpose=purpose,
            auth_level=AuthLevel.HANDSHAKE,
            tether_kinds=(KIND,),
            avoid=(),
            wall=EPOCH_S + self.world.clock,
        )
        plain = patched(self.asked.ask.encode(), payload[1:])
        if plain == self.asked.ask.encode():
            message = self.asked.message
        else:
            message = ask_message(self.me.standing.grant.plane_key, bytes(32), plain)
        self.anchor.take_control(self.by.handle, message, now=self.world.clock)

    def answers(self, payload: bytes) -> None:
        """An Answer to this node's last Ask, patched inside, signed and sealed."""
        message = self._published(Kind.ASK)
        if message is None:
            return
        by = self.stranger if payload[:1] < b"\x80" else self.friend
        me, wall = by.standing, EPOCH_S + self.world.clock
        try:
            received = handshake.open_ask(me, message[2:], wall=wall)
            pending = handshake.make_answer(
                me,
                received,
                self.me.peer,
                tether=Description(KIND, b"stub"),
                auth_level=AuthLevel.HANDSHAKE,
            )
        except WireError:
            return  # an Ask to somebody else, or an old one
        body = patched(pending.answer.body(), payload[1:])
        signed = pending.answer.ask_hash + body
        plain = body + me.identity.signer.sign(signed, b"VeilNet/1 answer")
        ref = message_ref(message)
        sealed = seal(
            self.crypto,
            received.ask.kem_public,
            plain,
            info=b"VeilNet/1 answer seal",
            aad=ref,
            entropy=self.entropy,
        )
        answer = envelope(Kind.ANSWER, ref + sealed)
        self.anchor.take_control(by.handle, answer, now=self.world.clock)

    def opens(self, payload: bytes) -> None:
        """An Open to this node's last Answer, patched inside, signed and sealed."""
        message = self._published(Kind.ANSWER)
        if message is None or self.asked is None:
            return
        me, wall = self.by.standing, EPOCH_S + self.world.clock
        try:
            received = handshake.open_answer(me, self.asked, message[2:], wall=wall)
        except WireError:
            return  # an Answer to another Ask
        tether = Description(KIND, b"stub") if received.answer.tether.kind else Description()
        bare = handshake.Open(
            answer_hash=hashlib.sha256(received.answer.encode()).digest(),
            random=self.entropy(32),
            tether=tether,
        )
        body = patched(bare.body(), payload)
        signed = received.answer.ask_hash + body
        plain = body + me.identity.signer.sign(signed, b"VeilNet/1 open")
        ref = message_ref(message)
        sealed = seal(
            self.crypto,
            received.answer.kem_public,
            plain,
            info=b"VeilNet/1 open seal",
            aad=ref,
            entropy=self.entropy,
        )
        opening = envelope(Kind.OPEN, ref + sealed)
        self.anchor.take_control(self.by.handle, opening, now=self.world.clock)

    def grants(self, payload: bytes) -> None:
        """A grant, patched inside, signed by Guardian and sealed: Guardian's bugs end here, too."""
        current = self.anchor.standing.grant
        guardian = self._signer(PLANE.guardian._signer)
        grant = replace(
            current,
            revision=current.revision + 1,
            certificate=sign_certificate(guardian, current.certificate),
        )
        plain = patched(grant.encode(), payload)
        public = self.me.standing.identity.kem.public
        signed = PUSH_BINDING + hashlib.sha256(public).digest() + plain
        signature = guardian.sign(signed, GRANT_CONTEXT)
        sealed = seal(
            self.crypto,
            public,
            guardian.public + signature + plain,
            info=GRANT_INFO,
            aad=PUSH_BINDING,
            entropy=self.entropy,
        )
        grant_message = envelope(Kind.GRANT, sealed)
        self.anchor.take_control(HANDLE, grant_message, now=self.world.clock)

    def _published(self, kind: Kind) -> bytes | None:
        for _, message in reversed(self.world.published):
            if message[1] == kind:
                return message
        return None


def patched(plain: bytes, patches: bytes) -> bytes:
    """Apply patches of 4 bytes: what (1) ‖ where (2) ‖ value (1).

    *where* counts from the end if *what* has its lowest bit set: what is of interest stands there,
    behind keys of thousands of bytes. The other bits: 0 replaces, 1 removes, 2 inserts, 3 cuts.
    """
    changed = bytearray(plain)
    for at in range(0, len(patches) - 3, 4):
        what, value = patches[at], patches[at + 3]
        where = int.from_bytes(patches[at + 1 : at + 3], "big") % (len(changed) + 1)
        if what & 1:
            where = len(changed) - where
        action = what >> 1 & 3
        if action == 0:
            changed[where : where + 1] = bytes((value,))
        elif action == 1:
            del changed[where : where + value]
        elif action == 2:
            changed[where:where] = bytes((value,))
        else:
            del changed[where:]
    return bytes(changed)


def ask_message(plane_key: bytes, salt: bytes, plain: bytes) -> bytes:
    """Seal an Ask's plain bytes as a member of the plane can (docs/protocol/handshake.md §1)."""
    head = envelope(Kind.ASK, salt)
    key = hkdf_expand(hkdf_extract(salt, plane_key), b"VeilNet/1 ask", 32)
    return head + AESGCM(key).encrypt(bytes(12), plain, head)


Operation = Callable[[Receiver, bytes], None]

_CHEAP: tuple[Operation, ...] = (
    Receiver.friend_sends,
    Receiver.relay_sends,
    Receiver.friend_says,
    Receiver.relay_says,
    Receiver.superframe_direct,
    Receiver.superframe_relayed,
    Receiver.route_to_me,
    Receiver.control,
    Receiver.burst,
    Receiver.packet_to_friend,
    Receiver.packet_to_stranger,
    Receiver.time_passes,
    Receiver.tether_closes,
)

# At the ends, so that the codes of kept programs go on to mean the same.
PACKETS: tuple[Operation, ...] = (*_CHEAP, Receiver.relay_floods)
HANDSHAKES: tuple[Operation, ...] = (
    *_CHEAP,
    Receiver.asks,
    Receiver.answers,
    Receiver.opens,
    Receiver.grants,
    Receiver.relay_floods,
)


def operation(of: Sequence[Operation], which: Operation, payload: bytes = b"") -> bytes:
    """Encode one operation of a program."""
    return bytes((of.index(which),)) + len(payload).to_bytes(2, "big") + payload
