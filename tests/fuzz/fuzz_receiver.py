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
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fuzz_genuine import patched
from fuzz_world import (
    EPOCH_S,
    FRIEND,
    FRIENDS_MTU_BYTES,
    GSO,
    KIND,
    ME,
    PLANE,
    STRANGER,
    MadeAsk,
    Party,
    StubTether,
    StubWorld,
    made_ask,
)

from conflux.anchor import handshake
from conflux.anchor.handshake import Secrets, Standing, StreamKeys, message_ref
from conflux.anchor.identity import (
    GRANT_CONTEXT,
    GRANT_INFO,
    PUSH_BINDING,
    REVOCATIONS_CONTEXT,
    REVOCATIONS_INFO,
    address_tag,
    sign_certificate,
)
from conflux.anchor.merkle import Tree
from conflux.anchor.node import Anchor
from conflux.anchor.notary import CONTEXT, digest_of, digests_hash
from conflux.anchor.seal import PLANE_NONCE, hkdf_expand, hkdf_extract, plane_aead, seal
from conflux.anchor.step import Established
from conflux.anchor.stream import OutStream
from conflux.api import Layout, NodeId, Signer, WireError
from conflux.testing.fakes import EqualRouter, FakeCrypto
from conflux.testing.fakes.crypto import FakeSigner
from conflux.testing.packets import udp_packet
from conflux.testing.simnet.guardian import HANDLE
from conflux.wire import features, inband
from conflux.wire.checkpoint import AuthKind, Covered, Digests, Leaf, Wanted
from conflux.wire.codec import Writer
from conflux.wire.control import (
    VERSION,
    Answer,
    AuthLevel,
    Description,
    Kind,
    Open,
    Purpose,
    envelope,
)
from conflux.wire.credentials import Revocations, Revoked
from conflux.wire.frame import IN_STREAM, OUTER, SIZE
from conflux.wire.report import Report

MAX_OPERATIONS = 12
"""More make no new state that fewer cannot, and cost their time in every run."""

HOLDS = 0x80

THEIRS = StreamKeys(bytes(range(32)), bytes(range(12)), 0x1122334455667788)
OURS = StreamKeys(bytes(range(32, 64)), bytes(range(12)), 0x8877665544332211)
TRANSCRIPT = bytes(32)
ADDRESS_TAG = address_tag(PLANE.me.standing.grant.plane_key, ip_address(ME).packed)


class Receiver:
    """One node with a friend, who has streams and a tether with it, and a relay."""

    def __init__(self, level: AuthLevel = AuthLevel.HANDSHAKE) -> None:
        # Fresh coins for each input: the identities are made once, all else must repeat itself.
        self.crypto = FakeCrypto({"seed": 2})
        self.entropy = random.Random(2).randbytes
        self.level = level
        self.me = self._standing(PLANE.me)
        self.friend, self.stranger, self.relay = PLANE.friend, PLANE.stranger, PLANE.relay
        self.world = StubWorld()
        self.anchor = Anchor(
            self.me,
            self.world,
            EqualRouter(),
            tether_kinds=(KIND,),
            auth_level=level,
            now=0.0,
        )
        self.anchor.ingress.device_takes(GSO)
        self.tethers = [self._join(self.friend), self._join(self.relay)]
        self.out = OutStream(THEIRS, now=0.0)
        self.unsigned: dict[int, bytes] = {}
        self._befriend()
        self.world.go_on()
        self.asked: MadeAsk | None = None
        self.asks_made = 0
        self.by = self.friend

    @property
    def handle(self) -> bytes:
        return self.me.grant.control.handle

    # Set-up

    def _standing(self, party: Party) -> Standing:
        """What *party* holds, with this input's coins."""
        standing = party.standing
        identity = copy.copy(standing.identity)
        identity.signer = self._signer(identity.signer)
        return Standing(self.crypto, self.entropy, identity, standing.guardian, standing.grant)

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
            list(self.me.grant.teams),
            handshake.SUITE_1,
            self.level,
            Secrets(THEIRS, OURS, bytes(32), TRANSCRIPT),
            handshake.FEATURES | features.of_mtu(FRIENDS_MTU_BYTES),
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
        if superframe[0] != IN_STREAM:
            self.unsigned[self.out.counter] = digest_of(frame)
        return bytes(frame)

    def route_to_me(self, payload: bytes) -> None:
        """A genuine SETUP of the friend's, by the relay: its frames may come that way."""
        path = [party.standing.node_id for party in (self.friend, self.relay, PLANE.me)]
        self.relay_says(inband.Setup((payload + bytes(16))[:16], 90, path).encode())

    def relay_floods(self, payload: bytes) -> None:
        """A flooded message to be passed on, of any size: 2 bytes of it, then who, whom, what."""
        size, named = int.from_bytes(payload[:2], "big"), payload[2:] + bytes(48)
        message = (named[48:] + bytes(size))[:size]
        flood = inband.Flood(named[:16], 4, named[16:32], named[32:48], message)
        self.relay_says(flood.encode())

    def relay_seeks(self, payload: bytes) -> None:
        """A SEEK as it may come: bytes for whom, relays left, whom to avoid, which way it came; the
        first of a made-up node; its id."""
        whom, left, spared, way = (payload + bytes(4))[:4]
        ids = [party.standing.node_id for party in (PLANE.me, self.friend, self.stranger)]
        ids.append(NodeId(payload[4:5].ljust(32, b"n")))
        relay, target = self.relay.standing.node_id, ids[whom % 4]
        before = [node for node in ids[way % 4 :] if node not in (target, ids[0])][: way >> 2 & 3]
        path = [*before, relay]
        avoid = [node for bit, node in enumerate(ids) if spared >> bit & 1]
        seek_id = (payload[5:] + bytes(16))[:16]
        left = min(left % 5, 5 - len(path))
        self.relay_says(inband.Seek(seek_id, left, target, path, avoid).encode())

    def relay_finds(self, payload: bytes) -> None:
        """A FOUND for what the relay was last sent: over so many made-up relays, patched."""
        sought = self.tethers[1].sought
        if sought is None or not payload:
            return
        made_up = [NodeId(bytes((byte,)) * 32) for byte in payload[1:4][: payload[0] % 4]]
        path = [*sought.path, self.relay.standing.node_id, *made_up, sought.target]
        found = inband.Found(sought.seek_id, path).encode()
        self.relay_says(patched(found, payload[4:]))

    def me_seeks(self, payload: bytes) -> None:
        """This node looks for the friend or the stranger by itself."""
        party = self.stranger if payload[:1] < b"\x80" else self.friend
        relays = 2 + len(payload) % 3
        self.anchor.seeking.seek(
            party.standing.node_id, relays=relays, avoid=[], now=self.world.clock
        )

    def tether_closes(self, payload: bytes) -> None:
        self.tethers[len(payload) & 1].on_closed("closed")

    # What the friend can say inside the stream

    def friend_tells(self, payload: bytes) -> None:
        """Any control message."""
        self.superframe_direct(bytes((IN_STREAM, VERSION)) + payload)

    def friend_reports(self, payload: bytes) -> None:
        """A well-formed REPORT: the highest counter (1), then the bitmap below it."""
        highest = max(payload[0], 1) if payload else 1
        bitmap = bytearray(payload[1 : 2 + (highest >> 3)] or b"\0")
        bit = 1 << (highest & 7)
        bitmap[-1] = bitmap[-1] & bit - 1 | bit
        if len(bitmap) == (highest >> 3) + 1:
            bitmap[0] &= 0xFE
        report = Report(OURS.stream_id, highest, 0, bytes(bitmap)).encode()
        self.friend_tells(bytes((Kind.REPORT,)) + report)

    def friend_vouches(self, payload: bytes) -> None:
        """A leaf over all that the friend sent, patched, then signed. First byte odd: digests."""
        digests = list(self.unsigned.values())
        if not digests:
            return
        leaf = Leaf(TRANSCRIPT, THEIRS.stream_id, list(self.unsigned), digests_hash(digests))
        told = patched(leaf.encode(), payload[1:])
        signed = (1).to_bytes(2, "big") + Tree([told]).root
        signature = self._signer(self.friend.standing.identity.signer).sign(signed, CONTEXT)
        out = Writer().u8(AuthKind.CHECKPOINT).vec16(told).u16(0).u16(1).u8(0).raw(signature)
        inline = digests if payload[:1] and payload[0] & 1 else []
        out.u16(len(inline)).raw(b"".join(inline))
        self.friend_tells(out.done())

    def friend_gives_digests(self, payload: bytes) -> None:
        """Digests that were asked for: first counter (1), offsets."""
        first, offsets = (payload[0], payload[1:]) if payload else (1, b"\0")
        given = {first + at: self.unsigned.get(first + at, bytes(32)) for at in set(offsets)}
        if given:
            message = Digests(THEIRS.stream_id, first, dict(sorted(given.items())))
            self.friend_tells(message.encode()[1:])

    def friend_wants_digests(self, payload: bytes) -> None:
        first = max(payload[0], 1) if payload else 1
        counters = sorted({first + at for at in payload[1:]} or {first})
        self.friend_tells(Wanted(OURS.stream_id, first, counters).encode()[1:])

    def friend_acknowledges(self, payload: bytes) -> None:
        first = payload[0] if payload else 1
        self.friend_tells(Covered(OURS.stream_id, first).encode()[1:])

    # What the Master can do

    def control(self, payload: bytes) -> None:
        self.anchor.take_control(self.handle, self.friend.handle, payload, now=self.world.clock)

    # What this node's own user and time do

    def burst(self, payload: bytes) -> None:
        self.anchor.take_burst(memoryview(bytearray(payload)), now=self.world.clock)

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
        is_friend = payload[:1] >= b"\x80"
        self.by = self.friend if is_friend else self.stranger
        purpose = Purpose.TETHER if payload[:1] in (b"\x01", b"\x81") else Purpose.STREAM
        self.asks_made += 1
        self.asked = made_ask(is_friend, purpose, self.asks_made, self.world.clock)
        message = self.asked.pending.message
        plain = patched(self.asked.plain, payload[1:])
        if plain != self.asked.plain:
            message = ask_message(self.me.grant.plane_key, bytes(32), plain)
        self.anchor.take_control(ADDRESS_TAG, self.by.handle, message, now=self.world.clock)

    def answers(self, payload: bytes) -> None:
        """An Answer to this node's last Ask, patched inside, signed and sealed."""
        message = self._published(Kind.ASK)
        if message is None:
            return
        by = self.stranger if payload[:1] < b"\x80" else self.friend
        me, wall = self._standing(by), EPOCH_S + self.world.clock
        try:
            received = handshake.open_ask(me, message[2:], wall=wall)
            pending = handshake.make_answer(
                me,
                received,
                PLANE.me.peer,
                tether=Description(KIND, b"stub"),
                auth_level=self.level,
            )
        except WireError:
            return  # an Ask to somebody else, or an old one
        answer, body = pending.message, pending.answer.body()
        changed = patched(body, payload[1:])
        if changed != body:
            plain = changed + me.identity.signer.sign(
                pending.answer.ask_hash + changed, b"VeilNet/1 answer"
            )
            answer = self._sealed(Kind.ANSWER, message, received.ask.kem_public, plain)
        self.anchor.take_control(self.handle, by.handle, answer, now=self.world.clock)

    def opens(self, payload: bytes) -> None:
        """An Open to this node's last Answer, patched inside, signed and sealed."""
        message = self._published(Kind.ANSWER)
        if message is None or self.asked is None:
            return
        ref, sealed = message[2:18], message[18:]
        try:
            plain = self.asked.pending.key.open(sealed, info=b"VeilNet/1 answer seal", aad=ref)
        except WireError:
            return  # an Answer to another Ask
        answer = Answer.decode(plain)
        bare = Open(
            answer_hash=hashlib.sha256(plain).digest(),
            random=self.entropy(32),
            tether=Description(KIND, b"stub") if answer.tether.kind else Description(),
        )
        body = patched(bare.body(), payload)
        signer = self._signer(self.by.standing.identity.signer)
        signature = signer.sign(answer.ask_hash + body, b"VeilNet/1 open")
        opening = self._sealed(Kind.OPEN, message, answer.kem_public, body + signature)
        self.anchor.take_control(self.handle, self.by.handle, opening, now=self.world.clock)

    def _sealed(self, kind: Kind, to: bytes, public: bytes, plain: bytes) -> bytes:
        ref, info = message_ref(to), f"VeilNet/1 {kind.name.lower()} seal".encode()
        sealed = seal(self.crypto, public, plain, info=info, aad=ref, entropy=self.entropy)
        return envelope(kind, ref + sealed)

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
        public = self.me.identity.kem.public
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
        self.anchor.take_control(self.handle, HANDLE, grant_message, now=self.world.clock)

    def revokes(self, payload: bytes) -> None:
        """First byte: which parties' serials are in it. The rest patches what Guardian signs."""
        guardian, which = self._signer(PLANE.guardian._signer), (payload or b"\0")[0]
        parties = (self.friend, self.stranger, self.relay, PLANE.me)
        certificates = [party.standing.grant.certificate for party in parties]
        revoked = sorted(
            (certificate.serial, certificate.not_after)
            for number, certificate in enumerate(certificates)
            if which >> number & 1
        )
        bare = Revocations(
            plane_id=certificates[0].plane_id, revoked=[Revoked(*entry) for entry in revoked]
        )
        body = patched(bare.body(), payload[1:])
        salt = self.entropy(32)
        head = envelope(Kind.REVOCATIONS, salt)
        aead = plane_aead(self.me.grant.plane_key, salt, REVOCATIONS_INFO)
        plain = body + guardian.sign(body, REVOCATIONS_CONTEXT)
        message = head + aead.encrypt(PLANE_NONCE, plain, head)
        self.anchor.take_control(self.handle, HANDLE, message, now=self.world.clock)

    def _published(self, kind: Kind) -> bytes | None:
        for _, message in reversed(self.world.published):
            if message[1] == kind:
                return message
        return None


def ask_message(plane_key: bytes, salt: bytes, plain: bytes) -> bytes:
    """Seal an Ask's plain bytes as a member of the plane can (docs/protocol/handshake.md §1)."""
    head = envelope(Kind.ASK, salt)
    key = hkdf_expand(hkdf_extract(salt, plane_key), b"VeilNet/1 ask", 32)
    return head + AESGCM(key).encrypt(bytes(12), plain, head)


Operation = Callable[[Receiver, bytes], None]

# New ones go to the ends, so that the codes of kept programs go on to mean the same.

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

_SEEKS = (Receiver.relay_seeks, Receiver.relay_finds, Receiver.me_seeks)
PACKETS: tuple[Operation, ...] = (
    *_CHEAP,
    Receiver.relay_floods,
    Receiver.friend_tells,
    Receiver.friend_reports,
    *_SEEKS,
)
HANDSHAKES: tuple[Operation, ...] = (
    *_CHEAP,
    Receiver.asks,
    Receiver.answers,
    Receiver.opens,
    Receiver.grants,
    Receiver.relay_floods,
    Receiver.friend_tells,
    *_SEEKS,
    Receiver.revokes,
)
SIGNED: tuple[Operation, ...] = (
    Receiver.superframe_direct,
    Receiver.superframe_relayed,
    Receiver.route_to_me,
    Receiver.packet_to_friend,
    Receiver.time_passes,
    Receiver.tether_closes,
    Receiver.friend_vouches,
    Receiver.friend_gives_digests,
    Receiver.friend_wants_digests,
    Receiver.friend_acknowledges,
    Receiver.friend_reports,
    Receiver.friend_tells,
)


def operation(of: Sequence[Operation], which: Operation, payload: bytes = b"") -> bytes:
    """Encode one operation of a program."""
    return bytes((of.index(which),)) + len(payload).to_bytes(2, "big") + payload
