"""Real IP packets to send through TUN devices: a kernel in between forwards only valid ones."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

PORT = 47_808
"""Destination port of every packet of the kit: tells them from a system's own chatter."""

_UDP = 17
_IPV4_HEADER = struct.Struct(">BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct(">IHBB16s16s")
_UDP_HEADER = struct.Struct(">HHHH")


def overhead_bytes(source: Address) -> int:
    """What the headers of `udp_packet` take of the MTU."""
    return 28 if source.version == 4 else 48


def udp_packet(
    source: Address, destination: Address, payload: bytes, *, source_port: int | None = None
) -> bytes:
    """Return a whole IP packet with correct checksums (RFC 791, RFC 8200, RFC 768).

    Packets of one *source_port*, which is PORT by default, are one flow.
    """
    port = PORT if source_port is None else source_port
    size = _UDP_HEADER.size + len(payload)
    pseudo = source.packed + destination.packed + struct.pack(">II", size, _UDP)
    bare = _UDP_HEADER.pack(port, PORT, size, 0) + payload
    # RFC 768: a checksum that comes out as zero is sent as all ones.
    sum_ = checksum(pseudo + bare) or 0xFFFF
    segment = _UDP_HEADER.pack(port, PORT, size, sum_) + payload
    if source.version == 6:
        header = _IPV6_HEADER.pack(6 << 28, size, _UDP, 64, source.packed, destination.packed)
        return header + segment
    fields = (0x45, 0, 20 + size, 0, 0x4000, 64, _UDP)
    plain = _IPV4_HEADER.pack(*fields, 0, source.packed, destination.packed)
    return _IPV4_HEADER.pack(*fields, checksum(plain), source.packed, destination.packed) + segment


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
