"""Writes `suite1.json`: every message of the protocol, byte for byte, as today's code makes it.

    .venv/bin/python tests/vectors/make.py

Keys and chance are fixed: FakeCrypto and an entropy of one seed. FakeCrypto stands for ML-KEM-768
and ML-DSA-65 with their sizes and none of their security, so where a reader needs ML-KEM the
vectors give its shared secret, and where he needs ML-DSA the hash of what was signed.
tests/unit/test_vectors.py holds both the code and a second decoder to this file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from unittest import mock

import make_in_stream
import make_virtio
from make_values import (
    Values,
    answer_values,
    ask_values,
    case,
    certificate_values,
    grant_values,
    inband_values,
    login_values,
    open_values,
    revocations_values,
)

from conflux.anchor import handshake, identity
from conflux.anchor.affinity import team_salt, team_tag
from conflux.anchor.handshake import Secrets, Standing, StreamKeys, message_ref
from conflux.anchor.identity import PUSH_BINDING, Identity
from conflux.anchor.seal import ENCAPSULATED_BYTES, HybridKey, hkdf_extract
from conflux.anchor.stream import OutStream
from conflux.api import KEM_CIPHERTEXT_BYTES, IceServer, Layout, NodeId, Signer
from conflux.testing.fakes import FakeCrypto
from conflux.testing.packets import udp_packet
from conflux.testing.simnet.guardian import SimGuardian
from conflux.wire import features, inband
from conflux.wire.control import (
    Ask,
    AuthLevel,
    Description,
    Kind,
    Purpose,
    Target,
    TargetKind,
    envelope,
)
from conflux.wire.credentials import Revocations, Revoked, TeamKey
from conflux.wire.frame import HEADER_BYTES, IN_STREAM, OUTER, SIZE, MessageType, probe

FILE = Path(__file__).with_name("suite1.json")
WALL = 1_800_000_000
TOKEN = "a conflux token"

COMMENT = (
    "Every message of suite 1 (docs/protocol). Bytes are hex, in the order of the wire. `values` "
    "is what a decoder reads in `bytes`. Made by tests/vectors/make.py with FakeCrypto, whose "
    "'ML-KEM' and 'ML-DSA' have the right sizes only: `ml_kem_shared` is what the decapsulation "
    "of ML-KEM-768 gives, `x25519_private` the other half of an X-Wing key, `signed_sha256` the "
    "SHA-256 of what a signature covers. A MAC, tag, HKDF, AES-GCM, X25519 or X-Wing combiner "
    "here is the real one."
)


class Fixture:
    """One plane with Guardian, two nodes with a team or two in common, and a relay."""

    def __init__(self) -> None:
        self.crypto = FakeCrypto({"seed": 1})
        self.entropy = random.Random(1).randbytes
        self.guardian = SimGuardian(
            self.crypto, self.entropy, lambda: float(WALL), lambda tag, payload: None
        )
        self.a = self._enrol("a", ["10.77.0.2/16", "fd77::2/64"], ["blue", "ops", "red"])
        self.b = self._enrol("b", ["10.77.0.3/16"], ["green", "ops", "red"])

    @property
    def signer(self) -> Signer:
        return self.guardian._signer

    def _enrol(self, name: str, addresses: Sequence[str], teams: Sequence[str]) -> Standing:
        self.guardian.enrol(name, addresses=addresses, teams=teams)
        own = Identity(self.crypto, self.entropy)
        grant = self.guardian.admit(name, own)
        return Standing(self.crypto, self.entropy, own, self.guardian.key, grant)


# The sections of the file


def keys_values(keys: StreamKeys) -> Values:
    return {
        "key": keys.key.hex(),
        "iv": keys.iv.hex(),
        "stream_id": keys.stream_id.to_bytes(8, "big").hex(),
    }


def signed(message: bytes) -> Values:
    return {"signed_sha256": hashlib.sha256(message).hexdigest()}


def unsealing(key: HybridKey, sealed: bytes) -> Values:
    """What opens *sealed*, with ML-KEM's part done."""
    assert key._x25519 is not None
    ciphertext = sealed[:ENCAPSULATED_BYTES][:KEM_CIPHERTEXT_BYTES]
    return {
        "x_wing_public": key.public.hex(),
        "x25519_private": key._x25519.private_bytes_raw().hex(),
        "ml_kem_shared": key._kem.decapsulate(ciphertext).hex(),
    }


def frames() -> list[Values]:
    keys = StreamKeys(bytes(range(32)), bytes(range(12)), 0x1122334455667788)
    one, other = ip_address("10.77.0.2"), ip_address("10.77.0.3")
    six, sixth = ip_address("fd77::2"), ip_address("fd77::3")
    packet, packet6 = udp_packet(one, other, b"hello"), udp_packet(six, sixth, b"hello")
    told = bytes((IN_STREAM,)) + envelope(Kind.OPEN, b"not a genuine Open")
    goodbye = bytes((IN_STREAM,)) + envelope(Kind.GOODBYE, b"")
    contents: list[tuple[str, int, int, int, bytes, list[bytes]]] = [
        ("the worked example of frame.md", 1, 5, 0, b"", [bytes(range(20))]),
        ("two packets, over a second relay", 2, 3, 0xA1B2C3D4, b"", [packet, packet6]),
        ("no record: it confirms a handshake", 3, 5, 0, b"", []),
        ("a control message inside the stream", 0x1_0000_0001, 5, 0, told, []),
        ("Goodbye", 0x1_0000_0002, 5, 0, goodbye, []),
    ]
    made = []
    for comment, counter, hops, label, whole, packets in contents:
        records = b"".join(SIZE.pack(len(packet)) + packet for packet in packets)
        superframe = whole or bytes((Layout.BARE,)) + records
        stream = OutStream(keys, now=0.0)
        stream._counter = counter - 1
        frame = stream.seal(memoryview(superframe), now=0.0)
        OUTER.pack_into(frame, 0, 0x10, hops, 0, label)
        values = {
            "type": 0,
            "hop_limit": hops,
            "label": label,
            "stream_id": keys.stream_id.to_bytes(8, "big").hex(),
            "counter": counter,
            "superframe": superframe.hex(),
            "packets": [packet.hex() for packet in packets],
            "control": whole[1:].hex(),
        }
        made.append(case(comment, bytes(frame), values) | keys_values(keys))
    return made


def superframes() -> list[Values]:
    """One of layout virtio, with a record of each kind."""
    bodies = [*make_virtio.bodies().values()]
    whole = b"\x01" + b"".join(SIZE.pack(len(body)) + body for body in bodies)
    values = {"layout": 1, "packets": [body[10:].hex() for body in bodies]}
    return [case("virtio", whole, values)]


def probes() -> list[Values]:
    made = []
    for kind in (MessageType.PROBE, MessageType.PROBE_REPLY):
        values = {"type": int(kind), "hop_limit": 1, "label": 0, "sequence": 7, "stamp_us": 1 << 33}
        made.append(case(kind.name.lower(), probe(kind, 7, 1 << 33), values))
    return made


def in_band(f: Fixture) -> list[Values]:
    route = bytes(range(16))
    nodes = [f.a.node_id, f.b.node_id]
    messages: list[inband.Message] = [
        inband.Setup(route, 90, nodes),
        inband.SetupOk(route, 0xA1B2C3D4, [1_500, 20_000]),
        inband.SetupFailed(route, inband.Reason.NO_HANDSHAKE),
        inband.Teardown(route, inband.Reason.IDLE),
        inband.LabelUnknown(0xA1B2C3D4),
        inband.Flood(route, 4, bytes(16), bytes(range(16, 32)), b"\x01\x01a sealed message"),
        inband.Seek(route, 3, nodes[1], [nodes[0], node(0)], [node(1), node(2)]),
        inband.Found(route, [nodes[0], node(0), nodes[1]]),
    ]
    return [
        case(type(message).__name__, message.encode(), inband_values(message))
        for message in messages
    ]


def pseudonyms(f: Fixture) -> Values:
    plane_key = f.a.grant.plane_key
    four, six = ip_address("10.77.0.2").packed, ip_address("fd77::2").packed
    return {
        "comment": "control.md section 1, encoding.md section 2",
        "plane_key": plane_key.hex(),
        "prefix": identity.control_prefix(plane_key),
        "addresses": {
            address.hex(): identity.address_tag(plane_key, address).hex() for address in (four, six)
        },
        "ml_dsa_public": f.a.identity.signer.public.hex(),
        "node_id": f.a.node_id.hex(),
        "node_tag": identity.node_tag(plane_key, f.a.node_id).hex(),
        "relay_tag": identity.relay_tag(plane_key).hex(),
    }


def credentials(f: Fixture) -> Values:
    plain = f.a.grant.certificate
    portal = identity.sign_certificate(
        f.signer,
        replace(plain, portal=True, networks=[ip_network("192.0.2.0/24"), ip_network("fd01::/48")]),
    )
    rich = replace(
        f.a.grant,
        certificate=portal,
        control=replace(f.a.grant.control, jwt="a.b.c", seed="SU", ca_pem="-----BEGIN"),
        ice_servers=[IceServer(url="turn:192.0.2.9:3478", username="u", credential="ü")],
        networks=[ip_network("198.51.100.0/24")],
        revoked=[Revoked(3, WALL + 60), Revoked(2**40, WALL + 86_400)],
    )
    request = f.a.identity.login_request(TOKEN, time_ms=WALL * 1000, entropy=f.entropy)
    binding = identity.login_binding(request.encode())
    sealed = identity.seal_grant(f.crypto, f.signer, rich, binding=binding, entropy=f.entropy)
    again = Fixture()  # the same plane, whose chance nothing else hangs on
    pushed = identity.seal_grant(
        again.crypto, again.signer, rich, binding=PUSH_BINDING, entropy=again.entropy
    )
    public = f.a.identity.kem.public
    return {
        "certificates": [
            case(comment, c.encode(), certificate_values(c)) | signed(c.body())
            for comment, c in (
                ("a node", plain),
                ("a portal", portal),
                ("the portal, without its addresses", portal.bare()),
            )
        ],
        "grant": case("everything that a grant can hold", rich.encode(), grant_values(rich)),
        "login": case("of that node", request.encode(), login_values(request))
        | signed(request.body())
        | {"token": TOKEN, "binding": binding.hex()},
        "sealed_grant": {
            "comment": "the answer to that login: login.md section 3",
            "bytes": sealed.hex(),
            "guardian_public": f.signer.public.hex(),
            "guardian_fingerprint": identity.guardian_fingerprint(f.signer.public).hex(),
        }
        | unsealing(f.a.identity.kem, sealed)
        | signed(binding + hashlib.sha256(public).digest() + rich.encode()),
        "pushed_grant": {
            "comment": "one that answers no login, as it comes over the control channel",
            "message": envelope(Kind.GRANT, pushed).hex(),
        }
        | unsealing(f.a.identity.kem, pushed)
        | signed(PUSH_BINDING + hashlib.sha256(public).digest() + rich.encode()),
        "tokens": tokens(f),
    }


def tokens(f: Fixture) -> Values:
    """login.md: what carries the fingerprint. The JWT's signature is Guardian's own affair."""
    fingerprint = identity.guardian_fingerprint(f.signer.public)
    claims = json.dumps({"gkf": base64url(fingerprint)}).encode()
    return {
        "registration": "vnr_" + base64url(bytes(range(32)) + fingerprint),
        "conflux": ".".join((base64url(b"{}"), base64url(claims), base64url(b"signature"))),
        "fingerprint": fingerprint.hex(),
    }


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def features_said() -> list[Values]:
    said = [
        ("nothing: an older node", 0, 1_500),
        ("9,000 bytes", features.of_mtu(9_000), 9_000),
        ("1,280 bytes, beside bits that are not given out", features.of_mtu(1_280) | 0xFFFF, 1_280),
        ("less than IPv6 needs", features.of_mtu(576), 1_280),
    ]
    assert all(features.mtu_of(bits) == mtu_bytes for _, bits, mtu_bytes in said)
    return [
        {"comment": comment, "features": bits, "mtu_bytes": mtu_bytes}
        for comment, bits, mtu_bytes in said
    ]


def revocations(f: Fixture) -> Values:
    plane_key = f.a.grant.plane_key
    entries = [Revoked(7, WALL + 3_600), Revoked(9, WALL + 7_200)]
    plane_id = f.a.grant.certificate.plane_id
    body = identity.seal_revocations(
        f.signer, entries, plane_id=plane_id, plane_key=plane_key, entropy=f.entropy
    )
    opened = f.a.guardian.open_revocations(body, plane_id=plane_id, plane_key=plane_key)
    made = case("login.md section 5", opened.encode(), revocations_values(opened))
    return (
        made
        | {"message": envelope(Kind.REVOCATIONS, body).hex(), "plane_key": plane_key.hex()}
        | signed(opened.body())
    )


def shake_hands(
    f: Fixture,
    comment: str,
    purpose: Purpose,
    target: Target,
    *,
    mtus: tuple[int, int] | None = None,
) -> Values:
    """With *mtus* the two nodes say what their interfaces carry."""
    said = [features.of_mtu(mtu_bytes) for mtu_bytes in mtus] if mtus else [0, 0]
    pending = handshake.make_ask(
        f.a,
        target,
        purpose=purpose,
        auth_level=AuthLevel.CHECKPOINT,
        tether_kinds=("webrtc", "sim"),
        avoid=(bytes(range(32)),),
        wall=float(WALL),
        features=said[0],
    )
    received = handshake.open_ask(f.b, pending.message[2:], wall=float(WALL))
    answered = handshake.make_answer(
        f.b,
        received,
        f.b.verify(received.ask, float(WALL)),
        tether=Description("webrtc", b"an offer"),
        auth_level=AuthLevel.STRICT,
        features=said[1],
    )
    accepted = handshake.open_answer(f.a, pending, answered.message[2:], wall=float(WALL))
    with mock.patch.object(handshake, "hkdf_extract", wraps=hkdf_extract) as extract:
        opening_message, secrets = handshake.make_open(
            f.a, accepted, tether=Description("webrtc", b"an answer")
        )
    salt, ikm = extract.call_args.args
    unseal_answer = unsealing(pending.key, answered.message[18:])
    unseal_open = unsealing(answered.key, opening_message[18:])
    opening, theirs = handshake.open_open(f.b, answered, opening_message[2:])
    assert theirs == secrets
    ask, answer = pending.ask, answered.answer
    return {
        "comment": comment,
        "plane_key": f.a.grant.plane_key.hex(),
        "teams_of_a": teams(f.a.grant.teams),
        "teams_of_b": teams(f.b.grant.teams),
        "ask": {
            "message": pending.message.hex(),
            "reference": message_ref(pending.message).hex(),
            "values": ask_values(ask),
            "core_hash": hashlib.sha256(ask.core()).hexdigest(),
            "hash": hashlib.sha256(ask.encode()).hexdigest(),
            "tags": {
                team.name: team_tag(team.key, hashlib.sha256(ask.core()).digest()).hex()
                for team in f.a.grant.teams
            },
        },
        "answer": {
            "message": answered.message.hex(),
            "reference": message_ref(answered.message).hex(),
            "values": answer_values(answer),
            "hash": hashlib.sha256(answer.encode()).hexdigest(),
            "common_teams": [team.name for team in sorted_teams(accepted.teams)],
        }
        | unseal_answer
        | signed(answer.ask_hash + answer.body()),
        "open": {
            "message": opening_message.hex(),
            "values": open_values(opening),
            "hash": hashlib.sha256(opening.encode()).hexdigest(),
        }
        | unseal_open
        | signed(answer.ask_hash + opening.body()),
        "keys": {
            "team_salt": team_salt(accepted.teams).hex(),
            "transcript": ikm[64:].hex(),
            "prk": hkdf_extract(salt, ikm).hex(),
        }
        | secrets_values(secrets),
        "first_frame": first_frame(secrets),
    }


def secrets_values(secrets: Secrets) -> Values:
    return {
        "ask_to_answer": keys_values(secrets.ask_to_answer),
        "answer_to_ask": keys_values(secrets.answer_to_ask),
        "tether": secrets.tether.hex(),
    }


def first_frame(secrets: Secrets) -> Values:
    """B's, which confirms: an empty superframe over the new tether."""
    frame = OutStream(secrets.answer_to_ask, now=0.0).seal(memoryview(b"\x00"), now=0.0)
    OUTER.pack_into(frame, 0, 0x10, 5, 0, 0)
    assert len(frame) == HEADER_BYTES + 1 + 16
    return {
        "comment": "from B to A, counter 1, an empty superframe",
        "bytes": frame.hex(),
        "nonce": (int.from_bytes(secrets.answer_to_ask.iv, "big") ^ 1).to_bytes(12, "big").hex(),
    }


def teams(held: Sequence[TeamKey]) -> dict[str, str]:
    return {team.name: team.key.hex() for team in held}


def sorted_teams(held: Sequence[TeamKey]) -> list[TeamKey]:
    return sorted(held, key=lambda team: team.name)


def refused(f: Fixture) -> list[Values]:
    """One bad message for each thing that a decoder must not let pass."""
    certificate = f.a.grant.certificate.encode()
    flag_at = 1 + 8 + 32 + 1952 + 1216
    shown_at = flag_at + 17
    address_at = shown_at + 1 + 32 + 1
    bad: list[tuple[str, str, bytes]] = [
        ("certificate", "version 2", b"\x02" + certificate[1:]),
        ("certificate", "a byte more", certificate + b"\x00"),
        ("certificate", "a byte less", certificate[:-1]),
        ("certificate", "flag 2", spliced(certificate, flag_at, b"\x02")),
        ("certificate", "shown 2", spliced(certificate, shown_at, b"\x02")),
        ("certificate", "addresses, but not shown", spliced(certificate, shown_at, b"\x00")),
        ("certificate", "prefix of 33 bits", spliced(certificate, address_at + 5, b"\x21")),
        ("certificate", "address of 5 bytes", spliced(certificate, address_at, b"\x05")),
        ("network", "a bit behind the prefix", b"\x04\xc0\x00\x02\x01\x18"),
        ("inband", "unknown kind", b"\x09" + bytes(16)),
        ("inband", "kind 0", b"\x00"),
        ("inband", "nothing", b""),
        ("inband", "path of one node", b"\x01" + bytes(16) + b"\x00\x5a\x01" + bytes(32)),
        ("inband", "path with a loop", b"\x01" + bytes(16) + b"\x00\x5a\x02" + bytes(64)),
        ("inband", "path of seven nodes", long_path()),
        ("inband", "five round trips", b"\x02" + bytes(20) + b"\x05" + bytes(20)),
        ("inband", "reason 0", b"\x03" + bytes(16) + b"\x00"),
        ("inband", "reason 7", b"\x04" + bytes(16) + b"\x07"),
        ("inband", "a tail", b"\x05" + bytes(5)),
        ("inband", "five relays left", b"\x06" + bytes(16) + b"\x05" + bytes(34)),
        ("inband", "more relays than a route has", seek(4, path=2)),
        ("inband", "target on the path", seek(1, path=2, target=1)),
        ("inband", "no source", seek(4, path=0)),
        ("inband", "seventeen to avoid", seek(1, path=1, avoid=17)),
        ("inband", "found next door", b"\x08" + bytes(16) + b"\x02" + bytes(32) + b"\x01" * 32),
        ("envelope", "version 2", b"\x02\x01" + bytes(40)),
        ("envelope", "kind 0", b"\x01\x00" + bytes(40)),
        ("envelope", "kind 8", b"\x01\x08" + bytes(40)),
        ("envelope", "one byte", b"\x01"),
        ("revocations", "version 2", b"\x02" + bytes(18 + 3309)),
        ("revocations", "a serial twice", revoking([5, 5])),
        ("revocations", "serials that descend", revoking([5, 4])),
        ("revocations", "801 serials", revoking(range(801))),
        ("outer", "version 2", b"\x20\x05" + bytes(6)),
        ("outer", "type 3", b"\x13\x05" + bytes(6)),
        ("outer", "reserved bits", b"\x10\x05\x00\x01" + bytes(4)),
        ("outer", "seven bytes", b"\x10\x05" + bytes(5)),
        ("probe", "19 bytes", b"\x11\x01" + bytes(17)),
        ("probe", "21 bytes", b"\x11\x01" + bytes(19)),
        ("superframe", "nothing", b""),
        ("superframe", "layout 2", b"\x02"),
        ("superframe", "half a size", b"\x00\x00"),
        ("superframe", "record beyond the end", b"\x00\x00\x15" + bytes(20)),
        ("superframe", "packet of 19 bytes", b"\x00\x00\x13" + bytes(19)),
        ("superframe", "virtio with 19 bytes", b"\x01\x00\x1d" + bytes(29)),
        *make_virtio.bad(),
        ("open", "description of 4,097 bytes", long_description()),
        ("open", "driver's name is not UTF-8", bytes(64) + b"\x01\xff\x00\x00" + bytes(3309)),
        ("ask", "7 team tags", asked(f, tags=[bytes(16)] * 7)),
        ("ask", "136 team tags", asked(f, tags=[bytes(16)] * 136)),
        ("ask", "17 nodes to avoid", asked(f, avoid=[bytes(32)] * 17)),
        ("ask", "target node of 16 bytes", asked(f, target=Target(TargetKind.NODE, bytes(16)))),
        ("ask", "any relay with a value", asked(f, target=Target(TargetKind.ANY_RELAY, b"\x00"))),
        ("ask", "target address of 5 bytes", asked(f, target=Target(TargetKind.ADDRESS, bytes(5)))),
    ]
    bad += make_in_stream.refused()
    return [{"message": message, "comment": why, "bytes": data.hex()} for message, why, data in bad]


def spliced(data: bytes, at: int, byte: bytes) -> bytes:
    return data[:at] + byte + data[at + 1 :]


def node(number: int) -> NodeId:
    return NodeId(bytes((number,)) * 32)


def counted(numbers: range) -> bytes:
    """A list of nodes: how many, then each."""
    return bytes((len(numbers),)) + b"".join(map(node, numbers))


def revoking(serials: Sequence[int]) -> bytes:
    entries = [Revoked(serial, WALL) for serial in serials]
    return Revocations(plane_id=bytes(16), revoked=entries, signature=bytes(3_309)).encode()


def long_path() -> bytes:
    return b"\x01" + bytes(16) + b"\x00\x5a" + counted(range(7))


def seek(relays_left: int, *, path: int, target: int = 99, avoid: int = 0) -> bytes:
    head = b"\x07" + bytes(16) + bytes((relays_left,)) + node(target)
    return head + counted(range(path)) + counted(range(50, 50 + avoid))


def long_description() -> bytes:
    return bytes(64) + b"\x00" + (4_097).to_bytes(2, "big") + bytes(4_097 + 3_309)


def asked(
    f: Fixture,
    *,
    tags: Sequence[bytes] = (),
    avoid: Sequence[bytes] = (),
    target: Target = Target(TargetKind.ANY_RELAY),  # noqa: B008 (frozen)
) -> bytes:
    return Ask(
        nonce=bytes(16),
        time_ms=0,
        purpose=Purpose.TETHER,
        target=target,
        certificate=f.a.grant.certificate,
        kem_public=bytes(1_216),
        suites=[1],
        auth_level=AuthLevel.HANDSHAKE,
        features=0,
        tether_kinds=[],
        avoid=avoid,
        team_tags=tags,
    ).encode()


def build() -> Values:
    """Make the whole file anew; the same on every machine."""
    f = Fixture()
    address = Target(TargetKind.ADDRESS, ip_interface("10.77.0.3/16").packed)
    sealed = frames()
    return {
        "comment": COMMENT,
        "made_by": "tests/vectors/make.py",
        "suite": 1,
        "frames": sealed,
        "superframes": superframes(),
        "virtio": make_virtio.good(),
        "probes": probes(),
        "inband": in_band(f),
        "features": features_said(),
        "pseudonyms": pseudonyms(f),
        "credentials": credentials(f),
        "handshakes": [
            shake_hands(f, "streams and a tether; two teams in common", Purpose.STREAM, address),
            shake_hands(
                f, "a tether alone, with any relay", Purpose.TETHER, Target(TargetKind.ANY_RELAY)
            ),
            shake_hands(
                f,
                "streams between interfaces of 9,000 and 1,500 bytes",
                Purpose.STREAM,
                address,
                mtus=(9_000, 1_500),
            ),
        ],
        "reports": make_in_stream.reports(),
        "packet_auth": make_in_stream.packet_auth(f.a, sealed),
        "refused": refused(f),
        "revocations": revocations(f),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
