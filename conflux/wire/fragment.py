"""Fragmentation of IPv4 packets (RFC 791 §2.3, §3.2). IPv6 leaves it to the source alone."""

from __future__ import annotations

import struct

from conflux.api import WireError
from conflux.wire.checksum import checksum

_MORE_FRAGMENTS, _OFFSET = 0x2000, 0x1FFF
_END, _NO_OPERATION, _COPIED = 0, 1, 0x80
"""RFC 791 §3.1: two options of one byte, and the bit of those that every fragment carries."""


def may_be_cut(packet: memoryview) -> bool:
    """Tell whether *packet*, which `ip.addresses` took for IP, is IPv4 without DF."""
    return packet[0] >> 4 == 4 and not packet[6] & 0x40


def fragments(packet: memoryview, mtu_bytes: int) -> list[bytes]:
    """Cut an IPv4 packet, which may be a fragment itself, so that no part exceeds *mtu_bytes*.

    The parts keep the identification, so that they are put together where it is (RFC 6864 §4).
    *mtu_bytes* is at least 68 (RFC 791 §3.2). Raises WireError for a malformed header.
    """
    header_bytes, (total,) = (packet[0] & 0x0F) * 4, struct.unpack_from(">H", packet, 2)
    if not 20 <= header_bytes <= total <= len(packet):
        raise WireError("IPv4 packet of an impossible size")
    data = packet[header_bytes:total]
    (field,) = struct.unpack_from(">H", packet, 6)
    header, later = bytes(packet[:header_bytes]), b""
    parts, at, is_last = [], 0, False
    while not is_last:
        room = mtu_bytes - len(header)
        is_last = len(data) - at <= room
        end = len(data) if is_last else at + (room & ~7)
        offset = (field & _OFFSET) + at // 8
        if offset > _OFFSET:
            raise WireError("IPv4 fragment beyond the largest packet")
        flags = field & _MORE_FRAGMENTS if is_last else _MORE_FRAGMENTS
        parts.append(_part(header, flags | offset, data[at:end]))
        if not is_last:
            header = later = later or _header_of_later(packet[:header_bytes])
        at = end
    return parts


def _part(header: bytes, field: int, data: memoryview) -> bytes:
    part = bytearray(header)
    struct.pack_into(">H", part, 2, len(header) + len(data))
    struct.pack_into(">H", part, 6, field)
    struct.pack_into(">H", part, 10, 0)
    struct.pack_into(">H", part, 10, checksum(part))
    return bytes(part) + data


def _header_of_later(header: memoryview) -> bytes:
    """The header of all fragments but the first: with the options alone that are to be copied."""
    options, at = b"", 20
    while at < len(header) and header[at] != _END:
        if header[at] == _NO_OPERATION:
            at += 1
            continue
        size = header[at + 1] if at + 1 < len(header) else 0
        if size < 2 or at + size > len(header):
            raise WireError("malformed IPv4 option")
        if header[at] & _COPIED:
            options += header[at : at + size]
        at += size
    options += bytes(-len(options) % 4)
    return bytes((0x40 | (20 + len(options)) // 4,)) + header[1:20] + options
