"""Just enough of IPv4 (RFC 791) and IPv6 (RFC 8200) to see where a packet wants to go."""

from __future__ import annotations

import struct
import zlib

from conflux.api import WireError

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

_PORTS = frozenset({TCP, UDP, 33, 132, 136})  # and DCCP, SCTP, UDP-Lite: ports come first


def addresses(packet: memoryview) -> tuple[bytes, bytes]:
    """Return (source, destination), 4 or 16 bytes each. Raises WireError if it is not IP."""
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= 20:
        places = _ENDS4
    elif version == 6 and size >= 40:
        places = _ENDS6
    else:
        raise WireError("not an IP packet")
    ends: tuple[bytes, bytes] = places.unpack_from(packet)
    return ends


_ENDS4, _ENDS6 = struct.Struct("12x4s4s"), struct.Struct("8x16s16s")


def transport(packet: memoryview) -> tuple[int, int] | None:
    """Return (protocol, where its header begins), behind IPv4 options and IPv6 extensions.

    None for a fragment other than the first, which has no such header. *packet* is one that
    `addresses` took for IP. Raises WireError if it ends before that place.
    """
    if packet[0] >> 4 == 4:
        at = (packet[0] & 0x0F) * 4
        if not 20 <= at <= len(packet):
            raise WireError("IPv4 header of an impossible size")
        return None if packet[6] & 0x1F or packet[7] else (packet[9], at)
    protocol, at, size = packet[6], 40, len(packet)
    while protocol in _EXTENSIONS:
        if at + 8 > size:
            raise WireError("packet ends within its IPv6 extension headers")
        if protocol == _FRAGMENT:
            if packet[at + 2] or packet[at + 3] & 0xF8:
                return None
            length = 8
        else:
            length = 8 * (packet[at + 1] + 1)
        protocol, at = packet[at], at + length
    if at > size:
        raise WireError("packet ends within its IPv6 extension headers")
    return protocol, at


_FRAGMENT = 44
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, 60})
"""Hop-by-hop and destination options, routing, fragment (RFC 8200 §4): what a host looks behind."""


def is_unicast(address: bytes) -> bool:
    """Tell whether *address* can belong to one host."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and any(address) and address != _LOOPBACK6


def flow_hash(packet: memoryview) -> int:
    """Return 32 bits that are the same for all packets of one flow (RFC 6437 §2 without labels).

    *packet* is one that `addresses` took for IP. Fragments (RFC 791 §3.2) hash by their addresses
    alone, since only the first has ports.
    """
    if packet[0] >> 4 == 4:
        header = (packet[0] & 0x0F) * 4
        key = bytes(packet[12:20]) + bytes(packet[9:10])
        fragment = (packet[6] & 0x3F) | packet[7]
        if packet[9] in _PORTS and not fragment:
            key += bytes(packet[header : header + 4])
        return zlib.crc32(key)
    key = bytes(packet[6:7]) + bytes(packet[8:40])
    if packet[6] in _PORTS:
        key += bytes(packet[40:44])
    return zlib.crc32(key)


_LOOPBACK6 = bytes(15) + b"\x01"
