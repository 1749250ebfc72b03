"""The Internet checksum (RFC 1071) of IPv4 headers, ICMP, TCP and UDP."""

from __future__ import annotations

from conflux.api import Buffer


def checksum(data: Buffer, initial: int = 0) -> int:
    """Return the 16-bit checksum of *data*, big-endian words, padded by a zero byte.

    *initial* is added before: the sum of what is covered besides, such as a pseudo-header's.
    """
    # The one's complement sum of 16-bit words is the whole number modulo 65,535, since
    # 65,536 = 1 modulo that; only a sum that is not zero and yet a multiple of it stays 0xFFFF.
    number = int.from_bytes(data, "big")
    if len(data) % 2:
        number <<= 8
    total = number + initial
    return ~(total % 0xFFFF or (0xFFFF if total else 0)) & 0xFFFF


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, size: int) -> int:
    """Return what *initial* has to be for a TCP, UDP or ICMPv6 segment of *size* bytes.

    Of IPv4 (RFC 9293 §3.1) and IPv6 (RFC 8200 §8.1): the two differ in nothing that is summed.
    """
    return (
        int.from_bytes(source, "big") % 0xFFFF
        + int.from_bytes(destination, "big") % 0xFFFF
        + protocol
        + size
    )
