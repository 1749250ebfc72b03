"""Real IP packets to send through TUN devices: a kernel in between forwards only valid ones."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

PORT = 47_808
"""Destination port of every packet of the kit: tells them from a system's own chatter."""

_TCP, _UDP = 6, 17
_IPV4_HEADER = struct.Struct(">BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct(">IHBB16s16s")
_UDP_HEADER = struct.Struct(">HHHH")
_TCP_HEADER = struct.Struct(">HHIIBBHHH")


def overhead_bytes(source: Address) -> int:
    """What the headers of `udp_packet` take of the MTU."""
    return 28 if source.version == 4 else 48


def udp_packet(
    source: Address,
    destination: Address,
    payload: bytes,
    *,
    source_port: int | None = None,
    may_be_cut: bool = False,
) -> bytes:
    """Return a whole IP packet with correct checksums (RFC 791, RFC 8200, RFC 768).

    Packets of one *source_port*, which is PORT by default, are one flow. *may_be_cut*: IPv4
    without DF.
    """
    port = PORT if source_port is None else source_port
    size = _UDP_HEADER.size + len(payload)
    bare = _UDP_HEADER.pack(port, PORT, size, 0) + payload
    # RFC 768: a checksum that comes out as zero is sent as all ones.
    sum_ = checksum(pseudo_header(source, destination, _UDP, size) + bare) or 0xFFFF
    segment = _UDP_HEADER.pack(port, PORT, size, sum_) + payload
    return ip_packet(source, destination, _UDP, segment, may_be_cut=may_be_cut)


SYN, ACK = 0x02, 0x10  # RFC 9293 §3.1


def tcp_packet(
    source: Address,
    destination: Address,
    payload: bytes = b"",
    *,
    flags: int = ACK,
    options: bytes = b"",
) -> bytes:
    """Return a whole IP packet with one TCP segment; *options* fill whole words (RFC 9293 §3.1)."""

    def header(sum_: int) -> bytes:
        offset = (_TCP_HEADER.size + len(options)) // 4 << 4
        return _TCP_HEADER.pack(PORT, PORT, 1, 1, offset, flags, 65_535, sum_, 0) + options

    bare = header(0) + payload
    sum_ = checksum(pseudo_header(source, destination, _TCP, len(bare)) + bare)
    return ip_packet(source, destination, _TCP, header(sum_) + payload)


def ip_packet(
    source: Address,
    destination: Address,
    protocol: int,
    payload: bytes,
    *,
    may_be_cut: bool = False,
) -> bytes:
    """Return *payload* behind an IPv4 or IPv6 header without options or extensions."""
    if source.version == 6:
        header = (6 << 28, len(payload), protocol, 64, source.packed, destination.packed)
        return _IPV6_HEADER.pack(*header) + payload
    fields = (0x45, 0, 20 + len(payload), 0, 0 if may_be_cut else 0x4000, 64, protocol)
    plain = _IPV4_HEADER.pack(*fields, 0, source.packed, destination.packed)
    return _IPV4_HEADER.pack(*fields, checksum(plain), source.packed, destination.packed) + payload


def pseudo_header(source: Address, destination: Address, protocol: int, size: int) -> bytes:
    """What a checksum covers besides a segment of *size* bytes.

    That of IPv6 (RFC 8200 §8.1), which sums up to the same as that of IPv4 (RFC 9293 §3.1).
    """
    return source.packed + destination.packed + struct.pack(">II", size, protocol)


def udp_payload(packet: bytes, source: Address, destination: Address) -> bytes | None:
    """Return what `udp_packet` was given, None for any other packet.

    Hop limit and checksums are not looked at: a kernel that forwards lowers the one, and leaves
    the other to an offload (Virtio 1.2 §5.1.6.2).
    """
    ends = source.packed + destination.packed
    if source.version == 4:
        if len(packet) < 28 or packet[0] != 0x45 or packet[9] != _UDP or packet[12:20] != ends:
            return None
        segment = packet[20:]
    else:
        if len(packet) < 48 or packet[0] >> 4 != 6 or packet[6] != _UDP or packet[8:40] != ends:
            return None
        segment = packet[40:]
    _, port, size, _ = _UDP_HEADER.unpack_from(segment)
    if port != PORT or size != len(segment):
        return None
    return segment[_UDP_HEADER.size :]


def checksum(data: bytes) -> int:
    """The Internet checksum of *data* (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
