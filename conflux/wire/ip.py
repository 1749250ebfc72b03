"""Just enough of IPv4 (RFC 791) and IPv6 (RFC 8200) to see where a packet wants to go."""

from __future__ import annotations

import zlib

from conflux.api import WireError

_PORTS = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite: ports come first


def addresses(packet: memoryview) -> tuple[bytes, bytes]:
    """Return (source, destination), 4 or 16 bytes each. Raises WireError if it is not IP."""
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= 20:
        return bytes(packet[12:16]), bytes(packet[16:20])
    if version == 6 and size >= 40:
        return bytes(packet[8:24]), bytes(packet[24:40])
    raise WireError("not an IP packet")


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
