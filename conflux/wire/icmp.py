"""ICMP errors (RFC 792, RFC 4443): about which packets, what they say, whom they quote."""

from __future__ import annotations

import struct

from conflux.api import WireError
from conflux.wire import ip
from conflux.wire.checksum import checksum, pseudo_header_sum

_HEADER = struct.Struct(">BBHI")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")

_QUERIES = frozenset({0, 8, 13, 14, 15, 16, 17, 18, 42, 43})
"""ICMPv4 types that are no errors (IANA, "ICMP Type Numbers"); an unknown one may be an error."""
_FIRST_ICMPV6_QUERY = 128  # RFC 4443 §2.1
_REDIRECT6 = 137

_MAX_IPV4_ERROR_BYTES = 576  # RFC 1812 §4.3.2.3
_MAX_IPV6_ERROR_BYTES = 1_280  # RFC 4443 §2.4 (c)


def may_be_answered(packet: memoryview) -> bool:
    """Tell whether an error about *packet*, which `ip.addresses` took for IP, may be sent at all.

    Not about errors, later fragments, what was sent to or from more than one host, or what is cut
    short: RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e).
    """
    if not all(map(ip.is_unicast, ip.addresses(packet))):
        return False
    try:
        found = ip.transport(packet)
    except WireError:
        return False
    if found is None:
        return False
    protocol, at = found
    is_icmp = protocol == (ip.ICMP if packet[0] >> 4 == 4 else ip.ICMPV6)
    return not is_icmp or (at < len(packet) and not _is_error(packet, at))


def too_big(packet: memoryview, *, source: bytes, mtu_bytes: int) -> bytes:
    """Return the packet that tells *packet*'s sender that the next hop carries *mtu_bytes*.

    IPv4: destination unreachable, fragmentation needed (RFC 1191 §4); IPv6: Packet Too Big (RFC
    4443 §3.2). *source*, of the same family, is who says so.
    """
    if packet[0] >> 4 == 4:
        return _icmpv4(packet, source, 3, 4, mtu_bytes)
    return _icmpv6(packet, source, 2, 0, mtu_bytes)


def host_unreachable(packet: memoryview, *, source: bytes) -> bytes:
    """Return the packet that tells *packet*'s sender that its destination cannot be reached now.

    IPv4: type 3 code 1 (RFC 792); IPv6: type 1 code 3, address unreachable (RFC 4443 §3.1).
    """
    if packet[0] >> 4 == 4:
        return _icmpv4(packet, source, 3, 1, 0)
    return _icmpv6(packet, source, 1, 3, 0)


def quoted_ends(packet: memoryview) -> tuple[bytes, bytes] | None:
    """Return (source, destination) of the packet that an ICMP error is about; None for no error.

    *packet* is one that `ip.addresses` took for IP. Raises WireError for an error that ends before
    it names them, and for whatever ends within its own headers.
    """
    found = ip.transport(packet)
    if found is None:
        return None
    protocol, at = found
    if protocol != (ip.ICMP if packet[0] >> 4 == 4 else ip.ICMPV6):
        return None
    if at >= len(packet):
        raise WireError("ICMP without a header")
    return ip.addresses(packet[at + _HEADER.size :]) if _is_error(packet, at) else None


def _is_error(packet: memoryview, at: int) -> bool:
    if packet[0] >> 4 == 4:
        return packet[at] not in _QUERIES
    return packet[at] < _FIRST_ICMPV6_QUERY or packet[at] == _REDIRECT6


def _icmpv4(packet: memoryview, source: bytes, kind: int, code: int, rest: int) -> bytes:
    quote = bytes(packet[: _MAX_IPV4_ERROR_BYTES - _IPV4.size - _HEADER.size])
    destination = bytes(packet[12:16])
    # Precedence "internetwork control" (RFC 1812 §4.3.2.5); never cut, so it needs no identity.
    fields = (0x45, 0xC0, _IPV4.size + _HEADER.size + len(quote), 0, 0x4000, 64, ip.ICMP)
    sum_ = checksum(_IPV4.pack(*fields, 0, source, destination))
    header = _IPV4.pack(*fields, sum_, source, destination)
    sum_ = checksum(_HEADER.pack(kind, code, 0, rest) + quote)
    return header + _HEADER.pack(kind, code, sum_, rest) + quote


def _icmpv6(packet: memoryview, source: bytes, kind: int, code: int, rest: int) -> bytes:
    quote = bytes(packet[: _MAX_IPV6_ERROR_BYTES - _IPV6.size - _HEADER.size])
    destination, size = bytes(packet[8:24]), _HEADER.size + len(quote)
    header = _IPV6.pack(6 << 28, size, ip.ICMPV6, 64, source, destination)
    initial = pseudo_header_sum(source, destination, ip.ICMPV6, size)
    sum_ = checksum(_HEADER.pack(kind, code, 0, rest) + quote, initial)
    return header + _HEADER.pack(kind, code, sum_, rest) + quote
