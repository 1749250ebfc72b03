"""Every parser of foreign bytes as a function of one input. What it may raise, it catches here.

Beyond "nothing else escapes" each codec is held to docs/protocol/encoding.md: every value has
exactly one encoding, so what decodes encodes to the same bytes again; and to what the second
decoder of tests/vectors says of the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import fuzz_plugins
import fuzz_udp
from fuzz_genuine import GENUINE, patched
from fuzz_plugins import fits
from fuzz_receiver import HANDSHAKES, PACKETS, SIGNED, Receiver
from fuzz_second import agree

from conflux.api import Buffer, WireError
from conflux.wire import checkpoint, fragment, icmp, inband, ip, mss, segment, stun
from conflux.wire.control import (
    Answer,
    Ask,
    AuthLevel,
    Open,
    envelope,
    read_envelope,
)
from conflux.wire.credentials import Certificate, Grant, LoginRequest, Revocations
from conflux.wire.frame import OUTER, MessageType, probe, read_outer, read_probe, records
from conflux.wire.report import Report

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


def virtio(data: bytes) -> None:
    """A record of layout virtio, of a peer or the own kernel: what is taken is cut up, bounded."""
    body = memoryview(bytearray(data))
    try:
        ip.addresses(body[segment.HEADER.size :])
        may_be_sent = segment.tidy(body)
    except WireError:
        may_be_sent = False
    is_taken = takes(segment.check, data)
    fits(not may_be_sent or takes(segment.check, bytes(body)))
    try:
        packets = segment.segments(memoryview(data))
    except WireError:
        fits(not is_taken)
        return
    fits(sum(map(len, packets)) <= len(data) + 120 * len(packets))
    fits(len(packets) <= (1 + len(data) // segment.MIN_GSO_SIZE if is_taken else 2_048))
    fits(segment.segment_bytes(memoryview(data)) == max(map(len, packets)))
    if is_taken:
        parts = segment.split(memoryview(data), 1_000)
        fits(all(takes(segment.check, part) for part in parts))
        fits(packets == [p for part in parts for p in segment.segments(memoryview(part))])


def takes(check: Callable[[memoryview], object], body: bytes) -> bool:
    try:
        ip.addresses(memoryview(body)[segment.HEADER.size :])
        check(memoryview(body))
    except WireError:
        return False
    return True


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


def report(data: bytes) -> None:
    try:
        message = Report.decode(data)
    except WireError:
        return
    same(message, data)
    fits(message.has(message.highest) and 0 <= message.first <= message.highest)


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


# The whole receive path


def receive(data: bytes) -> None:
    Receiver().run(data, PACKETS)


def shake_hands(data: bytes) -> None:
    Receiver().run(data, HANDSHAKES)


def signed(data: bytes) -> None:
    """First byte odd: strict."""
    if data:
        level = AuthLevel.STRICT if data[0] & 1 else AuthLevel.CHECKPOINT
        Receiver(level).run(data[1:], SIGNED)


def stun_answer(data: bytes) -> None:
    """What `netcheck` is answered: as it comes, and as the body of a fitting header."""
    head = struct.pack("!HH4s12s", 0x0101, len(data), b"\x21\x12\xa4\x42", bytes(12))
    for datagram in (data, head + data):
        try:
            found = stun.answer(datagram, bytes(12))
        except WireError:
            continue
        fits(found is None or found.mapped is None or 0 <= found.mapped[1] < 65_536)


PROGRAM_BYTES = 1_024

TARGETS: Mapping[str, Fuzzed] = MappingProxyType(
    {
        "datagram": Fuzzed(datagram, 64),
        "superframe": Fuzzed(superframe, 1_024),
        "virtio": Fuzzed(virtio, 1_024),
        "packet": Fuzzed(packet, 128),
        "inband": Fuzzed(in_band, 1_024),
        "control": Fuzzed(control),
        "report": Fuzzed(report, 1_100),
        "packet_auth": Fuzzed(packet_auth, 16_384),
        "ask": codec("ask", Ask.decode),
        "answer": codec("answer", Answer.decode),
        "open": codec("open", Open.decode),
        "certificate": codec("certificate", Certificate.decode),
        "grant": codec("grant", Grant.decode),
        "login": codec("login", LoginRequest.decode),
        "revocations": codec("revocations", Revocations.decode),
        "second": Fuzzed(agree),
        "stun": Fuzzed(stun_answer, 256),
        "webrtc": Fuzzed(fuzz_plugins.webrtc),
        "sctp_data": Fuzzed(fuzz_plugins.sctp_data, 512),
        "sctp_sack": Fuzzed(fuzz_plugins.sctp_sack, 384),
        "sctp_setup": Fuzzed(fuzz_plugins.sctp_setup, 1_024),
        "sctp_packet": Fuzzed(fuzz_plugins.sctp_packet, 512),
        "udp_description": Fuzzed(fuzz_udp.description_of_peers, 512),
        "udp_items": Fuzzed(fuzz_udp.items, 1_400),
        "udp_stun": Fuzzed(fuzz_udp.stun_answer, 256),
        "udp_hop": Fuzzed(fuzz_udp.hop, 2_048),
        "guardian_answer": Fuzzed(fuzz_plugins.guardian_answer, 1_024),
        "guardian_url": Fuzzed(fuzz_plugins.guardian_url, 512),
        "nats_subject": Fuzzed(fuzz_plugins.nats_subject, 128),
        "crypto": Fuzzed(fuzz_plugins.crypto, 3_400),
        "token": Fuzzed(fuzz_plugins.token, 1_024),
        "local_api": Fuzzed(fuzz_plugins.local_api, 512),
        "membership": Fuzzed(fuzz_plugins.membership, 4_096),
        "config": Fuzzed(fuzz_plugins.config, 4_096),
        "receive": Fuzzed(receive, PROGRAM_BYTES),
        "handshake": Fuzzed(shake_hands, PROGRAM_BYTES),
        "signed": Fuzzed(signed, PROGRAM_BYTES),
    }
)
