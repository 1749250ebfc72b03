"""Writes the genuine seeds of tests/fuzz/corpus: what a simulated network sends, and programs.

.venv/bin/python tests/fuzz/seeds.py
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import fuzz_udp  # noqa: E402
from fuzz_genuine import GENUINE  # noqa: E402
from fuzz_receiver import (  # noqa: E402
    HANDSHAKES,
    HOLDS,
    PACKETS,
    SIGNED,
    Operation,
    Receiver,
    operation,
)
from fuzz_world import FRIEND, ME  # noqa: E402

from conflux.api import Buffer  # noqa: E402
from conflux.testing.packets import SYN, ip_packet, tcp_packet, udp_packet  # noqa: E402
from conflux.testing.simnet import SimNetwork, chain  # noqa: E402
from conflux.testing.simnet.underlay import SimTether  # noqa: E402
from conflux.testing.virtio import virtio_body  # noqa: E402
from conflux.wire import checkpoint, icmp, ip  # noqa: E402
from conflux.wire.control import Kind as ControlKind  # noqa: E402
from conflux.wire.control import envelope  # noqa: E402
from conflux.wire.frame import IN_STREAM, SIZE  # noqa: E402
from conflux_tether_udp import control as udp_control  # noqa: E402
from conflux_tether_udp import description as udp_description  # noqa: E402
from conflux_tether_webrtc.description import (  # noqa: E402
    CandidateType,
    Description,
    Endpoint,
    Kind,
)

Seed = tuple[str, bytes]
CODECS = ("ask", "answer", "open", "certificate", "grant", "login", "revocations")
LONGEST_CONTROL_SEED = 4_096


class Recorded:
    """A relayed conversation, and then one whose Master is silent: one message of each kind."""

    def __init__(self) -> None:
        self.datagrams: dict[int, bytes] = {}
        self.reliable: dict[tuple[int, int], bytes] = {}
        genuine = SimTether.send_reliable

        def send_reliable(tether: SimTether, message: Buffer) -> bool:
            self.reliable.setdefault((message[0], len(message)), bytes(message))
            return genuine(tether, message)

        SimTether.send_reliable = send_reliable  # type: ignore[method-assign]
        try:
            self._seek()
            self.network = self._converse()
        finally:
            SimTether.send_reliable = genuine  # type: ignore[method-assign]

    def _seek(self) -> None:
        made = chain(SimNetwork(seed=7), 2)
        made.left.ping(made.right)
        made.network.run(5.0)

    def _converse(self) -> SimNetwork:
        network = SimNetwork(seed=7)
        network.on_datagram = lambda _, __, message: (
            self.datagrams.setdefault(message[0] & 0x0F, message) and None
        )
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        network.block(left, right)
        network.add_node("one")
        left.ping(right)
        network.run(5.0)
        network.channel.is_down = True
        left.ping(network.add_node("late", teams=["ops"]))
        network.run(5.0)
        network.nodes["one"].stop()
        network.run(100.0)
        return network


def of_wire() -> Iterator[Seed]:
    recorded = Recorded()
    for message in recorded.datagrams.values():
        yield "datagram", message[:64]
    for message in recorded.reliable.values():
        if len(message) <= 1_024:
            yield "inband", message
    kinds = {message.kind: message.payload for message in recorded.network.channel.messages}
    for payload in kinds.values():
        yield "control", payload[:LONGEST_CONTROL_SEED]
    for name in CODECS:
        yield name, b"\x00" + GENUINE[name]
        yield name, b"\x01"


def of_packet_auth() -> Iterator[Seed]:
    leaf = checkpoint.Leaf(bytes(32), 7, [1, 2, 5], bytes(32))
    signature, digests = bytes(3_309), [bytes(checkpoint.DIGEST_BYTES)] * 3
    messages = (
        checkpoint.Checkpoint(leaf, 0, 2, [bytes(32)], signature, digests),
        checkpoint.Covered(7, 1),
        checkpoint.Wanted(7, 1, [1, 5]),
        checkpoint.Digests(7, 1, {1: digests[0], 5: digests[0]}),
    )
    for message in messages:
        yield "packet_auth", message.encode()


def of_vectors() -> Iterator[Seed]:
    """What the second decoder is to agree upon, its number in `fuzz_second` before it."""
    vectors = json.loads((FOLDER.parent / "vectors" / "suite1.json").read_bytes())
    raw = {
        0: vectors["inband"],
        1: vectors["packet_auth"]["messages"],
        2: vectors["reports"],
        3: vectors["probes"],
        4: vectors["superframes"],
    }
    names = {"inband": 0, "packet_auth": 1, "report": 2, "outer": 3, "superframe": 4, "envelope": 5}
    for number, cases in raw.items():
        for case in cases:
            yield "second", bytes((number,)) + bytes.fromhex(case["bytes"])
    for case in vectors["reports"]:
        yield "report", bytes.fromhex(case["bytes"])
    for case in vectors["refused"]:
        number, data = names.get(case["message"]), bytes.fromhex(case["bytes"])
        if number is not None and len(data) < LONGEST_CONTROL_SEED:
            yield "second", bytes((number,)) + data
    for case in vectors["virtio"]:
        yield "second", bytes((12,)) + bytes.fromhex(case["bytes"])
    for number in (*range(6, 12), 13):
        yield "second", bytes((number,))
        yield "second", bytes((number, 0, 0, 0, 2))
        yield "second", bytes((number, 7, 0, 0, 0))


def packets() -> Iterator[bytes]:
    four = ip_address("10.9.0.2"), ip_address("10.9.0.1")
    six = ip_address("fd00::2"), ip_address("fd00::1")
    for ends in (four, six):
        yield udp_packet(*ends, b"hello")
    tcp = bytearray(udp_packet(*four, bytes(20)))
    tcp[9], tcp[6] = 6, 0x20
    yield bytes(tcp)
    for ends in (four, six):
        about = memoryview(udp_packet(*ends, b"hello"))
        yield icmp.too_big(about, source=ends[1].packed, mtu_bytes=1_280)
        yield icmp.host_unreachable(about, source=ends[1].packed)
        yield tcp_packet(*ends, flags=SYN, options=b"\x01\x02\x04\x23\x28\x01\x04\x02")
    yield ip_packet(*four, ip.UDP, bytes(100), may_be_cut=True)
    options = bytearray(ip_packet(*four, ip.UDP, b"\x94\x04\x00\x00" + bytes(90), may_be_cut=True))
    options[0] = 0x46
    yield bytes(options)
    yield ip_packet(*six, 0, b"\x2c" + bytes(7) + b"\x06\x00\x00\x01" + bytes(24))


def record(packet: bytes) -> bytes:
    return SIZE.pack(len(packet)) + packet


def of_packets() -> Iterator[Seed]:
    for packet in packets():
        yield "packet", packet
        yield "superframe", b"\x00" + record(packet)
        yield "superframe", b"\x01" + record(bytes(10) + packet)
        yield "virtio", bytes(10) + packet
    yield "superframe", b"\x00" + b"".join(map(record, packets()))


def virtio_bodies(*, is_ours: bool = False) -> Iterator[bytes]:
    for one, other in ((FRIEND, ME), ("fd00::2", "fd00::1")):
        ends = [ip_address(one), ip_address(other)][:: -1 if is_ours else 1]
        for made in (tcp_packet(*ends, bytes(300), flags=0x99), udp_packet(*ends, bytes(300))):
            yield virtio_body(made)
            yield virtio_body(made, gso_size=100, ecn=True)


def of_offload() -> Iterator[Seed]:
    for body in virtio_bodies():
        yield "virtio", body
        yield "superframe", b"\x01" + record(body)


def of_udp() -> Iterator[Seed]:
    candidates = (
        udp_description.Candidate(udp_description.CandidateType(0), ip_address("192.0.2.1"), 4_000),
        udp_description.Candidate(udp_description.CandidateType(1), ip_address("2001:db8::1"), 9),
    )
    for kind in udp_description.Kind:
        described = udp_description.Description(kind=kind, id=b"\x80id-here", candidates=candidates)
        yield "udp_description", described.encode()
    items = (
        udp_control.Challenge(bytes(8)),
        udp_control.Response(bytes(8)),
        udp_control.Report(100, 90, 80, 5, 300, 7, 0, 4),
        udp_control.Segment(0, udp_control.FIRST | udp_control.LAST, b"whole"),
        udp_control.Ack(1, b"\x05"),
        udp_control.Nack(bytes(5) + b"\x09", 0b101),
        udp_control.Close(),
    )
    for item in items:
        yield "udp_items", item.encode()
    yield "udp_items", b"".join(item.encode() for item in items) + bytes(20)
    mapped = bytes.fromhex("0020 0008 0001 a147 e112a643") + bytes.fromhex("8022 0003 61626300")
    yield "udp_stun", mapped
    yield "stun", mapped + bytes.fromhex("802c 0008 0001 0d97 c0000202")
    yield "stun", bytes.fromhex("802c 0014 0002 0d97") + bytes(16)
    yield "udp_stun", bytes.fromhex("8022 0003 61626300 0020 0014 0002 a147") + bytes(16)
    raw, batch, said, probe, message, answer, later, send, reliable, elsewhere = range(10)
    opened = [(answer, b"\0"), (later, b"\1\0"), (answer, b"\0")]
    yield "udp_hop", udp_program(*opened, (send, b"\x9c\x40"), (later, b"\4\0"))
    yield "udp_hop", udp_program(*opened, *[(said, item.encode()) for item in items])
    yield "udp_hop", udp_program(*opened, (elsewhere, b"\1x"), (answer, b"\1"), (send, b"\0\1"))
    yield "udp_hop", udp_program(*opened, (message, b"\x20\0\1\1"), (message, b"\x20\0\1\0"))
    lossy = (message, b"\x20\0\1\1"), (message, b"\x20\0\0\0"), (later, b"\0\x28")
    yield "udp_hop", udp_program(*opened, *lossy, *lossy)
    asked = [(said, udp_control.Nack(bytes(5) + bytes((n,)), 3).encode()) for n in range(4, 12)]
    yield "udp_hop", udp_program(*opened, *asked, *[(send, b"\x9c\x40")] * 4, *asked)
    yield "udp_hop", udp_program((raw, b"\0" + bytes(40)), (batch, b"\5\0\7\1" + bytes(60)))
    segment = udp_control.Segment(1, udp_control.LAST, b"later").encode()
    out = (reliable, bytes(3_000)), (said, segment), (later, b"\x20\0")
    yield "udp_hop", udp_program(*opened, *out)
    yield "udp_hop", udp_program(*opened, (probe, b"\2" + items[0].encode()), (later, b"\xff\xff"))


def udp_program(*steps: tuple[int, bytes]) -> bytes:
    return b"".join(fuzz_udp.STEP.pack(what, len(data)) + data for what, data in steps)


def of_plugins() -> Iterator[Seed]:
    candidates = (
        Endpoint(CandidateType.HOST, 2_130_706_431, ip_address("192.0.2.1"), 4_000),
        Endpoint(CandidateType.RELAYED, 1, ip_address("2001:db8::1"), 65_535),
    )
    for kind in Kind:
        described = Description(
            kind=kind,
            ufrag="abcd",
            password="a" * 22,
            fingerprint=bytes(range(32)),
            candidates=candidates,
        )
        yield "webrtc", described.encode()
    chunk = bytes.fromhex("0001 03 00 00 00 0005") + b"first"
    ordered = bytes.fromhex("0002 02 01 00 00 0003 616263 0003 01 01 00 00 0003 646566")
    yield "sctp_data", chunk + ordered
    yield "sctp_data", bytes.fromhex("0005 03 01 01 00 0001 61 0004 00 00 00 01 0000")
    yield "sctp_sack", bytes.fromhex("fffffff2 00100000 01 0002 0004 fffffff8 00100000 00")
    yield "sctp_setup", bytes.fromhex("01 00 00000001 00100000 00ff 00ff 00000001 c0000004")
    yield "sctp_setup", bytes.fromhex("04 00 00010008 01020304")
    yield "sctp_setup", bytes.fromhex("0a 00 01020304")
    data = bytes.fromhex("00 03 0015 fffffff1 0001 0000 00000035") + b"first" + bytes(3)
    sack = bytes.fromhex("03 00 0014 fffffff1 00100000 0001 0000 0002 0002")
    forward = bytes.fromhex("c0 00 0008 fffffff4")
    for packet in (data, sack, forward, data + sack, bytes.fromhex("06 00 0004")):
        yield "sctp_packet", packet
    for which in (b"k", b"c", b"s", b"p"):
        yield "crypto", which
        yield "crypto", which + bytes(range(64))
    yield "nats_subject", b"v1.ab." + b"0123456789abcdef" * 2
    yield "nats_subject", b"v1.cd.*"
    yield from of_udp()
    registered = {
        "conflux_id": "c",
        "conflux_token": "t",
        "tag": "",
        "plane": "p",
        "address": "10.9.0.1/24",
        "teams": ["ops"],
        "ignored_teams": [],
    }
    logged_in = {"session": "s", "grant": base64.b64encode(b"sealed").decode()}
    for answer in (registered, logged_in, {"detail": "no\x1b[31m"}, [], {"teams": {}}):
        yield "guardian_answer", json.dumps(answer).encode()
    for base in ("https://guardian.example:8443/", "http://[fd00::1]", "http://localhost:1"):
        yield "guardian_url", base.encode()
    claims = json.dumps({"gkf": base64.urlsafe_b64encode(bytes(32)).decode()}).encode()
    yield "token", b"e30." + base64.urlsafe_b64encode(claims).rstrip(b"=") + b".c2ln"
    saved = {"guardian": "https://g", "conflux_token": "t", "conflux_id": "c", "tag": ""}
    yield "membership", json.dumps(saved).encode()
    yield "membership", b'{"guardian": 1}'
    yield "config", b'mtu_bytes = 1400\ntun_name = "conflux0"\n[plugins]\nrouter = "static"\n'
    yield "config", b"[plugin.tether.webrtc]\nx = [1, {y = 2}]\n"
    for line in (b'{"verb": "status"}\n', b'{"verb": []}', b"[[[[", b'{"verb": 1e9999}'):
        yield "local_api", line


def programs() -> Iterator[Seed]:
    recorded = Recorded()
    reliable, datagrams = recorded.reliable.values(), recorded.datagrams.values()
    packet = udp_packet(ip_address(FRIEND), ip_address(ME), b"hello")

    def step(which: str, payload: bytes = b"", *, holds: bool = False) -> bytes:
        encoded = bytearray(operation(PACKETS, getattr(Receiver, which), payload))
        encoded[0] |= HOLDS if holds else 0
        return bytes(encoded)

    for message in datagrams:
        yield "receive", step("friend_sends", message[:64]) + step("relay_sends", message[:64])
    for message in reliable:
        yield "receive", step("relay_says", message[:300]) + step("friend_says", message[:300])
    yield "receive", step("superframe_direct", b"\x00" + record(packet))
    for theirs, ours in zip(virtio_bodies(), virtio_bodies(is_ours=True), strict=True):
        came = step("superframe_direct", b"\x01" + record(theirs))
        yield "receive", came + step("burst", b"\x01" + record(ours))
    yield "receive", step("superframe_direct", bytes((IN_STREAM, 1, 1)) + bytes(60))
    yield (
        "receive",
        step("superframe_direct", bytes((IN_STREAM,)) + envelope(ControlKind.GOODBYE, b"")),
    )
    yield "receive", step("relay_floods", b"\x00\x50" + bytes(range(48)) + b"\x01\x01")
    for whom in range(4):
        seek = step("relay_seeks", bytes((whom, 4, whom << 1, 5, 9)) + b"an id")
        yield "receive", seek + step("relay_finds", b"\x01\x07") + seek
    mine = step("me_seeks", b"\x00") + step("relay_finds", b"\x02\x07\x08")
    yield "receive", mine + step("time_passes", b"\x08") + step("relay_finds", b"\x00")
    relayed = step("route_to_me") + step("superframe_relayed", b"\x00" + record(packet))
    yield "receive", relayed + step("tether_closes", b"\x00") + step("time_passes", b"\x28")
    yield "receive", step("control", b"\x01\x01" + bytes(80))
    out = step("packet_to_stranger", b"hi") + step("packet_to_friend", b"hi")
    yield "receive", out + step("time_passes", b"\xff\xff") + step("packet_to_friend", b"again")
    yield "receive", step("burst", b"\x00" + record(udp_packet(*ends(), b"out")))

    def shake(which: str, payload: bytes = b"") -> bytes:
        return operation(HANDSHAKES, getattr(Receiver, which), payload)

    for who in (b"\x00", b"\x01", b"\x80", b"\x81"):
        yield "handshake", shake("asks", who) + shake("opens") + shake("time_passes", b"\x04")
        ask = shake("packet_to_stranger", b"hi") + shake("answers", who)
        yield "handshake", ask + shake("time_passes", b"\x30") + shake("packet_to_stranger", b"2")
    yield "handshake", shake("grants") + shake("grants", b"\x01\x00\x03\x05")
    revoked = shake("packet_to_friend", b"hi") + shake("revokes", b"\x01")
    yield "handshake", revoked + shake("packet_to_friend", b"hi") + shake("revokes", b"\x0e\x00")


def of_signed() -> Iterator[Seed]:
    packet = b"\x00" + record(udp_packet(ip_address(FRIEND), ip_address(ME), b"hello"))

    def step(which: Operation, payload: bytes = b"") -> bytes:
        return operation(SIGNED, which, payload)

    sent = step(Receiver.superframe_direct, packet) * 2
    out = step(Receiver.packet_to_friend, b"hi") + step(Receiver.time_passes, b"\x08")
    for level in (b"\x00", b"\x01"):
        yield "signed", level + sent + step(Receiver.friend_vouches, b"\x01")
        yield "signed", level + sent + step(Receiver.friend_vouches, b"\x00\x00\x00\x30\xff")
        asked = step(Receiver.friend_vouches) + step(Receiver.friend_gives_digests, b"\x01\x00\x01")
        yield "signed", level + sent + asked + step(Receiver.superframe_direct, packet)
        yield "signed", level + out + step(Receiver.friend_wants_digests, b"\x01\x00")
        yield "signed", level + out + step(Receiver.friend_acknowledges, b"\x01") + out
        yield "signed", level + out + step(Receiver.friend_reports, b"\x03\xff") + out
        yield "signed", level + sent + step(Receiver.time_passes, b"\x18")
        yield "signed", level + step(Receiver.friend_tells, b"\x10" + bytes(40))


def ends() -> tuple:
    return ip_address(ME), ip_address(FRIEND)


def main() -> None:
    for former in (FOLDER / "corpus").glob("*/seed-*"):
        former.unlink()
    wire = of_wire, of_packet_auth, of_vectors, of_packets, of_offload
    makers = (*wire, of_plugins, programs, of_signed)
    for target, seed in (pair for make in makers for pair in make()):
        folder = FOLDER / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed-{hashlib.sha256(seed).hexdigest()[:12]}").write_bytes(seed)


if __name__ == "__main__":
    main()
