"""Records of layout VIRTIO: what their headers may say, and doing in software what they ask for.

    body := virtio_net_hdr (10) ‖ packet          a record without its size field

    check      a header that a peer made, before a kernel sees it
    tidy       a header that the own kernel made, before a peer sees it
    segments   a body as the packets that it stands for, with whole checksums
    split      a body as smaller ones

docs/protocol/frame.md §3.1 and §3.2 have what a header may say and what it means. NEEDS_CSUM is the
kernel's CHECKSUM_PARTIAL: the field holds the sum of the pseudo-header, and whoever cuts up or
delivers the packet adds all from csum_start on (Virtio 1.2 §5.1.6.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from conflux.api import Buffer, Gso, WireError
from conflux.wire import ip
from conflux.wire.checksum import checksum, pseudo_header_sum

HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; both csum fields count bytes."""
NO_HEADER = bytes(HEADER.size)

NEEDS_CSUM = 1
ECN = 0x80
"""The gso_type bit of TCP segments of which the first alone carries CWR (RFC 3168 §6.1.2)."""

MIN_GSO_SIZE = 32
"""Less payload a packet is not sent as one record: what a peer has us make stays bounded."""
MAX_SEGMENTS = 2_048
"""Packets in one body, whoever made it. Of what may be sent, gso_size allows no more."""

_NONE, _TCPV4, _TCPV6, _UDP_L4 = (int(kind) for kind in Gso)
_KINDS = {
    _TCPV4: (4, ip.TCP),
    _TCPV4 | ECN: (4, ip.TCP),
    _TCPV6: (6, ip.TCP),
    _TCPV6 | ECN: (6, ip.TCP),
}
"""IP version and protocol of each gso_type; UDP_L4 is of both versions."""
_CHECKSUM_AT = {ip.TCP: 16, ip.UDP: 6}
_LEAST_HEADER = {ip.TCP: 20, ip.UDP: 8}
_CWR, _FIN_PSH = 0x0080, 0x0009
_WORD = struct.Struct(">H")


def check(body: memoryview) -> int:
    """Return the `Gso` of a body whose packet `ip.addresses` took for IP, as a plain number.

    Raises WireError unless the header is one that `tidy` makes: kernels have been crashed by
    others, and a checksum that is put where none belongs would change an address.
    """
    header = bytes(body[: HEADER.size])
    if header == NO_HEADER or _is_usual(header, body):
        return _NONE
    flags, gso_type, header_bytes, gso_size, start, offset = _unpack(body)
    packet = body[HEADER.size :]
    if flags != NEEDS_CSUM:
        raise WireError("virtio header with other flags")
    if gso_type == _NONE:
        protocol, at = _transport(packet)
        is_sized = not header_bytes and not gso_size
    else:
        protocol, at, headers, _ = _cut(packet, gso_type, gso_size)
        is_sized = header_bytes == headers and MIN_GSO_SIZE <= gso_size < len(packet) - headers
    if not is_sized:
        raise WireError("virtio header with impossible sizes")
    if (start, offset) != (at, _CHECKSUM_AT[protocol]):
        raise WireError("virtio header with a checksum elsewhere")
    return gso_type & ~ECN


def tidy(body: memoryview) -> bool:
    """Make, in place, the header that the own kernel gave into one that `check` takes.

    *body* is one whose packet `ip.addresses` took for IP. False if there is no such header: then
    `segments` has to do what the body asks for. Raises WireError if that is impossible.
    """
    header = bytes(body[: HEADER.size])
    if header == NO_HEADER or _is_usual(header, body):
        return True
    flags, gso_type, _, gso_size, start, offset = _unpack(body)
    if gso_type != _NONE:
        return _tidy_many(body, flags, gso_type, gso_size)
    if not flags & NEEDS_CSUM:
        body[: HEADER.size] = NO_HEADER  # it may have said that the checksum was looked at
        return True
    HEADER.pack_into(body, 0, NEEDS_CSUM, _NONE, 0, 0, start, offset)
    try:
        check(body)
    except WireError:
        # That of a packet inside the packet: tunnels leave the inner one to the device.
        packet = body[HEADER.size :]
        if start < (40 if packet[0] >> 4 == 6 else max((packet[0] & 0x0F) * 4, 20)):
            raise
        _complete(packet, start, offset)
        body[: HEADER.size] = NO_HEADER
    return True


def segments(body: memoryview) -> list[bytes]:
    """Return the packets that *body* stands for, as Linux cuts them up. Raises WireError.

    At most MAX_SEGMENTS, each a copy of the headers with lengths, IPv4 identification, sequence
    number, flags and checksums of its own.
    """
    flags, gso_type, _, gso_size, start, offset = _unpack(body)
    packet = body[HEADER.size :]
    if gso_type != _NONE:
        cut = _cut(packet, gso_type, gso_size)
        return [piece for piece, _ in _pieces(packet, cut, gso_size, finish=True)]
    if flags & NEEDS_CSUM:
        whole = bytearray(packet)
        _complete(memoryview(whole), start, offset)
        return [bytes(whole)]
    return [bytes(packet)]


def split(body: memoryview, limit_bytes: int) -> list[bytes]:
    """Return bodies of at most *limit_bytes* that stand for the same packets, if that can be.

    *body* is one that `check` takes. A single packet is never cut: what holds one alone may be
    longer. Raises WireError.
    """
    _, gso_type, _, gso_size, _, _ = _unpack(body)
    if gso_type == _NONE or len(body) <= limit_bytes:
        return [bytes(body)]
    packet = body[HEADER.size :]
    cut = _cut(packet, gso_type, gso_size)
    room = limit_bytes - HEADER.size - cut.header_bytes
    step = max(room // gso_size, 1) * gso_size
    csum = cut.at, _CHECKSUM_AT[cut.protocol]
    many = HEADER.pack(NEEDS_CSUM, gso_type, cut.header_bytes, gso_size, *csum)
    single = HEADER.pack(NEEDS_CSUM, _NONE, 0, 0, *csum)
    return [
        (many if payload > gso_size else single) + piece
        for piece, payload in _pieces(packet, cut, step, finish=False)
    ]


def segment_bytes(body: memoryview) -> int:
    """Return the length of the longest packet that *body* stands for. Raises WireError.

    That is what counts against the MTU of a path, not the body's own length.
    """
    _, gso_type, _, gso_size, _, _ = _unpack(body)
    packet = body[HEADER.size :]
    if gso_type == _NONE:
        return len(packet)
    cut = _cut(packet, gso_type, gso_size)
    return min(cut.header_bytes + gso_size, len(packet))


class _Cut(NamedTuple):
    """How a packet is cut up: where its transport header begins and its payload does."""

    protocol: int
    at: int
    header_bytes: int
    gso_size: int


def _unpack(body: memoryview) -> tuple[int, int, int, int, int, int]:
    try:
        return HEADER.unpack_from(body)
    except struct.error:
        raise WireError("record without a virtio header") from None


def _usual_headers() -> Iterator[tuple[bytes, tuple[int, int, int, int]]]:
    """What a kernel says of nearly every TCP or UDP packet: (first byte, where the protocol, what,
    least length of the body) by header."""
    for first, at, protocol_at in ((0x45, 20, 9), (0x60, 40, 6)):
        for protocol, offset in _CHECKSUM_AT.items():
            least = HEADER.size + at + _LEAST_HEADER[protocol]
            header = HEADER.pack(NEEDS_CSUM, _NONE, 0, 0, at, offset)
            yield header, (first, HEADER.size + protocol_at, protocol, least)


_USUAL = dict(_usual_headers())


def _is_usual(header: bytes, body: memoryview) -> bool:
    """Tell in one look-up whether *header* asks for the checksum of a plain TCP or UDP packet."""
    usual = _USUAL.get(header)
    if usual is None:
        return False
    first, protocol_at, protocol, least = usual
    if len(body) < least or body[protocol_at] != protocol:
        return False
    version = body[HEADER.size]
    if first == 0x60:
        return version >> 4 == 6
    return version == first and not (body[16] & 0x3F or body[17])  # no fragment


def _transport(packet: memoryview) -> tuple[int, int]:
    """Return (protocol, where its header begins): TCP or UDP, no fragment, and all there."""
    if len(packet) >= _PLAIN_BYTES:
        first, fragment, protocol4 = _PLAIN4.unpack_from(packet)
        if first == 0x45 and protocol4 in _CHECKSUM_AT and not fragment & 0x3FFF:
            return protocol4, 20
        if first >> 4 == 6 and packet[6] in _CHECKSUM_AT:
            return packet[6], 40
    return _transport_behind_more(packet)


_PLAIN4 = struct.Struct(">B5xHxB")
"""Of an IPv4 header: version and length, flags and fragment offset, protocol."""
_PLAIN_BYTES = 40 + max(_LEAST_HEADER.values())
"""So long a packet has all of its transport header, where that follows a plain IP header."""


def _transport_behind_more(packet: memoryview) -> tuple[int, int]:
    """The same for what is short or has options, extension headers, or no such protocol at all."""
    ip.addresses(packet)
    found = ip.transport(packet)
    is_first = packet[0] >> 4 == 4 and packet[6] & 0x20
    if found is None or found[0] not in _CHECKSUM_AT or is_first:
        raise WireError("virtio header of a packet without such a checksum")
    protocol, at = found
    if len(packet) < at + _LEAST_HEADER[protocol]:
        raise WireError("packet ends within its transport header")
    return found


def _cut(packet: memoryview, gso_type: int, gso_size: int) -> _Cut:
    """Check that *packet* is what *gso_type* says, and whole."""
    protocol, at = _transport(packet)
    version, size = packet[0] >> 4, len(packet)
    if _KINDS.get(gso_type) != (version, protocol) and (gso_type, protocol) != (_UDP_L4, ip.UDP):
        raise WireError("virtio header of another protocol")
    header_bytes = at + (8 if protocol == ip.UDP else (packet[at + 12] >> 4) * 4)
    (said,) = _WORD.unpack_from(packet, 2 if version == 4 else 4)
    if header_bytes < at + _LEAST_HEADER[protocol]:
        raise WireError("virtio header of a packet that cannot be cut up")
    if said != (size if version == 4 else size - 40):
        raise WireError("packet of another length than it says")
    payload = size - header_bytes
    if payload < 1 or gso_size < 1 or payload > gso_size * MAX_SEGMENTS:
        raise WireError("virtio header with impossible sizes")
    return _Cut(protocol, at, header_bytes, gso_size)


def _tidy_many(body: memoryview, flags: int, gso_type: int, gso_size: int) -> bool:
    packet = body[HEADER.size :]
    cut = _cut(packet, gso_type, gso_size)
    if not flags & NEEDS_CSUM:
        _seed(packet, cut)
    csum = cut.at, _CHECKSUM_AT[cut.protocol]
    if len(packet) <= cut.header_bytes + gso_size:  # one packet: as many, Linux would drop it
        HEADER.pack_into(body, 0, NEEDS_CSUM, _NONE, 0, 0, *csum)
        return True
    HEADER.pack_into(body, 0, NEEDS_CSUM, gso_type, cut.header_bytes, gso_size, *csum)
    return gso_size >= MIN_GSO_SIZE


def _complete(packet: memoryview, start: int, offset: int) -> None:
    """Put the checksum of all from *start* on where it belongs. The field holds what came before.

    A checksum of zero is sent as all ones, as Linux does for any protocol and RFC 768 wants it.
    """
    field = start + offset
    if field + 2 > len(packet):
        raise WireError("virtio header with a checksum beyond the packet")
    _WORD.pack_into(packet, field, checksum(packet[start:]) or 0xFFFF)


def _seed(packet: memoryview, cut: _Cut) -> None:
    """Put the pseudo-header's sum where the checksum belongs."""
    total = pseudo_header_sum(*ip.addresses(packet), cut.protocol, len(packet) - cut.at)
    _WORD.pack_into(packet, cut.at + _CHECKSUM_AT[cut.protocol], total % 0xFFFF)


class _Head:
    """The headers of a packet that is cut up, and the sums of all in them that stays the same.

    Sums are of 16-bit words modulo 65,535 (conflux/wire/checksum.py): each piece adds what is its
    own. In Python a header is cheaper written in one go than field by field.
    """

    def __init__(self, packet: memoryview, cut: _Cut) -> None:
        self.protocol, self.at, self.size, self.gso_size = cut
        self.is_ipv4 = packet[0] >> 4 == 4
        self.bytes = bytearray(packet[: self.size])
        head, at = self.bytes, self.at
        # The sum of the pseudo-header as the sender left it, without the length.
        seed: int = _WORD.unpack_from(head, at + _CHECKSUM_AT[self.protocol])[0]
        self.pseudo_sum = seed - (len(packet) - at)
        _, self.identification, self.middle, _ = _IPV4_VARIES.unpack_from(head, 2)
        if self.is_ipv4:
            _IPV4_VARIES.pack_into(head, 2, 0, 0, self.middle, 0)
            self.network_sum = _sum(head[: (head[0] & 0x0F) * 4])
        if self.protocol == ip.TCP:
            self.sequence, self.ack, self.flags, self.window, _ = _TCP_VARIES.unpack_from(
                head, at + 4
            )
            _TCP_VARIES.pack_into(head, at + 4, 0, self.ack, 0, self.window, 0)
        else:
            _UDP_VARIES.pack_into(head, at + 4, 0, 0)
        self.transport_sum = self.pseudo_sum + _sum(head[at:])

    def write(self, done: int, payload: memoryview, *, is_last: bool, finish: bool) -> bytearray:
        """Return the headers for *payload*, before which *done* bytes of payload went.

        Finished they have a checksum, else the pseudo-header's sum in its place. The buffer is
        the same each time.
        """
        head, at = self.bytes, self.at
        length = self.size + len(payload)
        if self.is_ipv4:
            number = self.identification + done // self.gso_size & 0xFFFF
            sum_ = self.network_sum + length + number
            _IPV4_VARIES.pack_into(head, 2, length, number, self.middle, _complement(sum_))
        else:
            _WORD.pack_into(head, 4, length - 40)
        length -= at
        sum_ = self.transport_sum + length + _sum(payload) if finish else 0
        if self.protocol == ip.UDP:
            # RFC 768: no checksum is zero.
            value = (_complement(sum_ + length) or 0xFFFF) if finish else self.seed(length)
            _UDP_VARIES.pack_into(head, at + 4, length, value)
            return head
        sequence = self.sequence + done & 0xFFFFFFFF
        flags = self.flags if is_last else self.flags & ~_FIN_PSH
        flags = flags & ~_CWR if done else flags
        sum_ += (sequence >> 16) + (sequence & 0xFFFF) + flags
        value = _complement(sum_) if finish else self.seed(length)
        _TCP_VARIES.pack_into(head, at + 4, sequence, self.ack, flags, self.window, value)
        return head

    def seed(self, length: int) -> int:
        """The sum of the pseudo-header of a transport header and payload of *length* bytes."""
        return (self.pseudo_sum + length) % 0xFFFF


_IPV4_VARIES = struct.Struct(">HHIH")
"""From byte 2 of an IPv4 header: length, identification, four bytes that stay, checksum."""
_TCP_VARIES = struct.Struct(">IIHHH")
"""From byte 4 of a TCP header: sequence, acknowledgement, flags, window, checksum."""
_UDP_VARIES = struct.Struct(">HH")
"""From byte 4 of a UDP header: length, checksum."""


def _sum(data: Buffer) -> int:
    """Return the sum of big-endian words, modulo 65,535; an odd byte counts as a high one."""
    number = int.from_bytes(data, "big") % 0xFFFF
    return number << 8 if len(data) % 2 else number


def _complement(sum_: int) -> int:
    return 0xFFFF - (sum_ % 0xFFFF or 0xFFFF)


def _pieces(
    packet: memoryview, cut: _Cut, step: int, *, finish: bool
) -> Iterator[tuple[bytes, int]]:
    """Cut *packet* at multiples of *step* bytes of payload; yield (piece, its payload's length)."""
    head, size = _Head(packet, cut), len(packet)
    for begin in range(cut.header_bytes, size, step):
        payload = packet[begin : begin + step]
        is_last = begin + step >= size
        headers = head.write(begin - cut.header_bytes, payload, is_last=is_last, finish=finish)
        yield b"".join((headers, payload)), len(payload)
