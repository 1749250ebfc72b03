"""Every parser of foreign bytes as a function of one input. What it may raise, it catches here.

Beyond "nothing else escapes" each codec is held to docs/protocol/encoding.md: every value has
exactly one encoding, so what decodes encodes to the same bytes again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from fuzz_receiver import HANDSHAKES, KIND, PACKETS, PLANE, Receiver, patched

from conflux.anchor import handshake
from conflux.api import Buffer, UsageError, WireError
from conflux.runtime.localapi import LocalApi
from conflux.runtime.token import fingerprint_of
from conflux.wire import checkpoint, fragment, icmp, inband, ip, mss
from conflux.wire.control import (
    Answer,
    Ask,
    AuthLevel,
    Description,
    Open,
    Purpose,
    Target,
    TargetKind,
    envelope,
    read_envelope,
)
from conflux.wire.credentials import Certificate, Grant, LoginRequest
from conflux.wire.frame import OUTER, MessageType, probe, read_outer, read_probe, records
from conflux_auth_guardian import answers, url
from conflux_tether_webrtc import association, description
from conflux_tether_webrtc.inbound import MOST_HELD_BYTES, Inbound
from conflux_tether_webrtc.outbound import Outbound

Entry = Callable[[bytes], None]


@dataclass(frozen=True)
class Fuzzed:
    """One target: what takes an input, and how long one may get."""

    entry: Entry
    max_bytes: int = 4_096


class Encodable(Protocol):
    def encode(self) -> bytes: ...


def same(decoded: Encodable, data: bytes) -> None:
    if decoded.encode() != data:
        raise AssertionError("decodes, but encodes to other bytes")


def fits(fact: object) -> None:
    if not fact:
        raise AssertionError("a value outside what its parser promises")


# The genuine messages that patches go into: their keys alone have thousands of bytes.

_ASKED = handshake.make_ask(
    PLANE.friend.standing,
    Target(TargetKind.ADDRESS, b"\x0a\x09\x00\x01"),
    purpose=Purpose.STREAM,
    auth_level=AuthLevel.CHECKPOINT,
    tether_kinds=(KIND, "webrtc"),
    avoid=(bytes(32), bytes(range(32))),
    wall=1_800_000_000.0,
)
_ANSWERED = handshake.make_answer(
    PLANE.me.standing,
    handshake.open_ask(PLANE.me.standing, _ASKED.message[2:], wall=1_800_000_000.0),
    PLANE.friend.peer,
    tether=Description(KIND, b"stub"),
    auth_level=AuthLevel.HANDSHAKE,
)
_OPENED = Open(
    answer_hash=bytes(32),
    random=bytes(range(32)),
    tether=Description(KIND, b"stub"),
    signature=bytes(3_309),
)
_LOGIN = PLANE.me.standing.identity.login_request(
    "token", time_ms=1_800_000_000_000, entropy=PLANE.entropy
)

GENUINE: Mapping[str, bytes] = MappingProxyType(
    {
        "ask": _ASKED.ask.encode(),
        "answer": _ANSWERED.answer.encode(),
        "open": _OPENED.encode(),
        "certificate": PLANE.me.standing.grant.certificate.encode(),
        "grant": PLANE.me.standing.grant.encode(),
        "login": _LOGIN.encode(),
    }
)


def codec(name: str, decode: Callable[[Buffer], Encodable]) -> Fuzzed:
    """First byte even: the rest as it is; odd: the rest patches a genuine message."""
    genuine = GENUINE[name]

    def entry(data: bytes) -> None:
        message = patched(genuine, data[1:]) if data and data[0] & 1 else data[1:]
        try:
            decoded = decode(message)
        except WireError:
            return
        same(decoded, message)

    return Fuzzed(entry, 16_384)


# Frames


def datagram(data: bytes) -> None:
    """A message of the datagram lane, as neighbour and relay read it."""
    message = memoryview(data)
    try:
        kind, hop_limit, label = read_outer(message)
        if kind is MessageType.DATA:
            return
        sequence, stamp_us = read_probe(message)
    except WireError:
        return
    again = bytearray(probe(kind, sequence, stamp_us))
    OUTER.pack_into(again, 0, data[0], hop_limit, 0, label)
    fits(again == data)


def superframe(data: bytes) -> None:
    """Records of a superframe: back to back, none beyond the end; then their packets."""
    whole, at = memoryview(data), 1
    try:
        for record, start, end in records(whole):
            fits(record == at and record < start < end <= len(data))
            at = end
            packet(bytes(whole[start:end]))
    except WireError:
        return
    fits(at == len(data))


def packet(data: bytes) -> None:
    """An IP packet: ends and flow; what a SYN, a fragment or an error of it would be."""
    view = memoryview(data)
    try:
        source, destination = ip.addresses(view)
    except WireError:
        return
    fits(len(source) == len(destination) in (4, 16))
    fits(0 <= ip.flow_hash(view) < 1 << 32)
    ip.is_unicast(destination)
    shortened(view)
    complained_about(view, destination)


def shortened(view: memoryview) -> None:
    """To 68 bytes, the least that IPv4 knows, and a SYN to what IPv6 needs at least."""
    lowered = mss.clamped(view, 1_280)
    fits(lowered is None or (len(lowered) == len(view) and lowered != view))
    try:
        parts = fragment.fragments(view, 68) if fragment.may_be_cut(view) else []
    except WireError:
        return
    fits(all(len(part) <= 68 and ip.addresses(memoryview(part)) for part in parts))


def complained_about(view: memoryview, source: bytes) -> None:
    may = icmp.may_be_answered(view)
    try:
        quoted = icmp.quoted_ends(view)
    except WireError:
        return
    fits(not (may and quoted))
    if may:
        for error in (
            icmp.too_big(view, source=source, mtu_bytes=1_280),
            icmp.host_unreachable(view, source=source),
        ):
            fits(icmp.quoted_ends(memoryview(error)) == ip.addresses(view))
            fits(not icmp.may_be_answered(memoryview(error)))


def in_band(data: bytes) -> None:
    try:
        message = inband.decode(data)
    except WireError:
        return
    same(message, data)


def packet_auth(data: bytes) -> None:
    try:
        message = checkpoint.decode(data)
    except WireError:
        return
    same(message, data)


def control(data: bytes) -> None:
    try:
        kind, body = read_envelope(data)
    except WireError:
        return
    fits(envelope(kind, body) == data)


# Plugins


def webrtc(data: bytes) -> None:
    for kind in description.Kind:
        try:
            decoded = description.decode(data, kind)
        except WireError:
            continue
        same(decoded, data)


_CHUNK = struct.Struct("!HBBBBH")


def sctp_data(data: bytes) -> None:
    """DATA and FORWARD TSN chunks behind DTLS. Ahead (2), flags, stream, sequence, what, size."""
    got: list[bytes] = []
    inbound = Inbound(
        0xFFFFFFF0, ordered_stream=1, deliver=lambda stream, ppid, message: got.append(message)
    )
    at = 0
    while at + _CHUNK.size <= len(data):
        ahead, flags, stream, sequence, what, size = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        tsn = 0xFFFFFFF0 + ahead & 0xFFFFFFFF
        try:
            if what & 1:
                inbound.forward(tsn)
            else:
                inbound.data(tsn, flags, stream, sequence, 53, data[at : at + size % 64])
                at += size % 64
        except WireError:
            return
        inbound.sack()
        fits(held_bytes(inbound) <= inbound._held_bytes <= MOST_HELD_BYTES)
    fits(sum(map(len, got)) <= len(data))


def held_bytes(inbound: Inbound) -> int:
    """What lies in it unfinished, counted anew."""
    runs = sum(run.size for run in inbound._by_first.values())
    return runs + sum(len(message) for _, message in inbound._early.values())


def sctp_sack(data: bytes) -> None:
    """SACKs for what was sent: cumulative (4), window (4), gaps (1), gap blocks (2 ‖ 2 each)."""
    outbound = Outbound(0xFFFFFFF0, peer_window=1 << 20)
    for at in range(8):
        outbound.send(bytes(3_000), at % 3, 53)
    outbound.send_reliable(bytes(3_000), 1, 53)
    now, at = 0.0, 0
    while at + 9 <= len(data):
        now += 0.05
        while outbound.packet(now):
            pass
        cumulative, window, gaps = struct.unpack_from("!LLB", data, at)
        at += 9
        blocks = list(
            struct.iter_unpack("!HH", data[at : at + gaps % 8 * 4][: (len(data) - at) & ~3])
        )
        at += gaps % 8 * 4
        outbound.on_sack(now, cumulative, window, blocks)
        outbound.forward_tsn(now)


def sctp_setup(data: bytes) -> None:
    """Chunks that set an association up: kind (1), flags (1), body."""
    if len(data) < 2 or data[0] not in association._SETUP:
        return
    make, parameters_at = association._SETUP[data[0]]
    body = data[2:]
    try:
        if parameters_at >= 0:
            association._check_parameters(body, parameters_at)
        make(data[1], body)
    except (WireError, struct.error):
        return


def guardian_answer(data: bytes) -> None:
    """What Guardian answers over HTTP: registration, login, the reason of a refusal."""
    fits(len(answers.detail(data)) <= 200)
    try:
        answer = answers.json_object(data)
    except ValueError:
        return
    for read in (answers.registration, answers.login):
        try:
            read(answer)
        except ValueError:
            continue


def guardian_url(data: bytes) -> None:
    try:
        found = url.base_url(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    fits(found.startswith(("http://", "https://")) and found.isprintable())


# What stands on this machine


def token(data: bytes) -> None:
    try:
        fingerprint = fingerprint_of(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    fits(len(fingerprint) == 32)


def local_api(data: bytes) -> None:
    api = LocalApi(Path("unused"), {"status": lambda: "up", "stop": lambda: None})
    reply = api._reply(data)
    fits(reply.keys() in ({"ok"}, {"error"}))


# The whole receive path


def receive(data: bytes) -> None:
    Receiver().run(data, PACKETS)


def shake_hands(data: bytes) -> None:
    Receiver().run(data, HANDSHAKES)


TARGETS: Mapping[str, Fuzzed] = MappingProxyType(
    {
        "datagram": Fuzzed(datagram, 64),
        "superframe": Fuzzed(superframe),
        "packet": Fuzzed(packet, 128),
        "inband": Fuzzed(in_band, 1_024),
        "control": Fuzzed(control),
        "packet_auth": Fuzzed(packet_auth, 16_384),
        "ask": codec("ask", Ask.decode),
        "answer": codec("answer", Answer.decode),
        "open": codec("open", Open.decode),
        "certificate": codec("certificate", Certificate.decode),
        "grant": codec("grant", Grant.decode),
        "login": codec("login", LoginRequest.decode),
        "webrtc": Fuzzed(webrtc),
        "sctp_data": Fuzzed(sctp_data),
        "sctp_sack": Fuzzed(sctp_sack, 1_024),
        "sctp_setup": Fuzzed(sctp_setup, 1_024),
        "guardian_answer": Fuzzed(guardian_answer, 1_024),
        "guardian_url": Fuzzed(guardian_url, 512),
        "token": Fuzzed(token, 1_024),
        "local_api": Fuzzed(local_api, 512),
        "receive": Fuzzed(receive, 2_048),
        "handshake": Fuzzed(shake_hands, 512),
    }
)
