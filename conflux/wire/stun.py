"""STUN Binding (RFC 8489) with what NAT behaviour discovery adds to it (RFC 5780), for `netcheck`.

Answers are believed under the 96 random bits of their transaction alone: nothing hangs on them but
what a person reads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from conflux.api import WireError

TRANSACTION_BYTES = 12
DEFAULT_PORT = 3_478
HEADER_BYTES = 20

_MAGIC = b"\x21\x12\xa4\x42"
_HEADER = struct.Struct(f"!HH4s{TRANSACTION_BYTES}s")
_ATTRIBUTE = struct.Struct("!HH")
_ADDRESS = struct.Struct("!xBH")
_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
_CHANGE_REQUEST, _XOR_MAPPED, _SOFTWARE, _OTHER = 0x0003, 0x0020, 0x8022, 0x802C
_CHANGE_IP, _CHANGE_PORT = 4, 2
_SOFTWARE_BYTES = 508
"""RFC 8489 §14.14 has at most 763; a multiple of 4 needs no padding."""

Address = tuple[IPv4Address | IPv6Address, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says. `other`: its alternate address and port, None if it has none."""

    is_success: bool
    mapped: Address | None = None
    other: Address | None = None


def request(
    transaction: bytes, *, change_ip: bool = False, change_port: bool = False, size: int = 0
) -> bytes:
    """Return a Binding request, of *size* bytes (a multiple of 4) if that is more than it needs.

    *change_ip*, *change_port*: the answer is to come from the alternate address, or port (RFC 5780
    §7.2). It is filled up with SOFTWARE, which any server may ignore (RFC 8489 §14).
    """
    body = b""
    if change_ip or change_port:
        flags = _CHANGE_IP * change_ip | _CHANGE_PORT * change_port
        body = _ATTRIBUTE.pack(_CHANGE_REQUEST, 4) + flags.to_bytes(4, "big")
    while (lacking := size - HEADER_BYTES - len(body)) >= _ATTRIBUTE.size:
        filled = min(lacking - _ATTRIBUTE.size, _SOFTWARE_BYTES)
        body += _ATTRIBUTE.pack(_SOFTWARE, filled) + b" " * filled
    return _HEADER.pack(_REQUEST, len(body), _MAGIC, transaction) + body


def answer(datagram: bytes, transaction: bytes) -> Answer | None:
    """Read the answer to *transaction*; None if *datagram* is none. Raises WireError."""
    if len(datagram) < HEADER_BYTES:
        return None
    kind, size, magic, found = _HEADER.unpack_from(datagram)
    if magic != _MAGIC or found != transaction or kind not in (_SUCCESS, _ERROR):
        return None
    if size != len(datagram) - HEADER_BYTES:
        raise WireError("STUN answer of another length than it says")
    mapped = other = None
    at = HEADER_BYTES
    while at + _ATTRIBUTE.size <= len(datagram):
        name, length = _ATTRIBUTE.unpack_from(datagram, at)
        at += _ATTRIBUTE.size
        value = datagram[at : at + length]
        if len(value) != length:
            raise WireError("STUN attribute of impossible length")
        if name == _XOR_MAPPED:
            mapped = mapped or _address(value, datagram[4:HEADER_BYTES])
        elif name == _OTHER:
            other = other or _address(value, bytes(16))
        at += length + (-length & 3)
    return Answer(kind == _SUCCESS, mapped, other)


def _address(value: bytes, mask: bytes) -> Address:
    """An address under *mask*: the header's for XOR-MAPPED-ADDRESS (RFC 8489 §14.2), or zeros."""
    if len(value) not in (8, 20):
        raise WireError("STUN address of impossible length")
    family, port = _ADDRESS.unpack_from(value)
    port ^= int.from_bytes(mask[:2], "big")
    packed = bytes(a ^ b for a, b in zip(value[4:], mask, strict=False))
    if (family, len(packed)) == (1, 4):
        return IPv4Address(packed), port
    if (family, len(packed)) == (2, 16):
        return IPv6Address(packed), port
    raise WireError("STUN address of an unknown family")
