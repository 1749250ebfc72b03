"""The one STUN transaction that is needed: where do I appear to be? (RFC 8489, Binding)

Requests carry no attributes and answers are believed only under the transaction's 96 random bits.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from conflux.api import IceServer, Unavailable, WireError

TRANSACTION_BYTES = 12
MAGIC = b"\x21\x12\xa4\x42"
HEADER_BYTES = 20
DEFAULT_PORT = 3_478

_HEADER = struct.Struct(f"!HH4s{TRANSACTION_BYTES}s")
_ATTRIBUTE = struct.Struct("!HH")
_MAPPED = struct.Struct("!xBH")
_REQUEST, _SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS = 0x0020

# RFC 7064, RFC 7065
_URL = re.compile(
    r"(stun|stuns|turn|turns):(\[[0-9A-Fa-f:.]+\]|[^:?\[\]\s]+)(?::(\d{1,5}))?(?:\?transport=(udp|tcp))?"
)


@dataclass(frozen=True, slots=True)
class StunServer:
    host: str
    port: int


def server(ice: IceServer) -> StunServer | None:
    """Where *ice* answers Binding requests over UDP; None if it does not. Raises Unavailable."""
    match = _URL.fullmatch(ice.url)
    if match is None or not 0 < int(match[3] or DEFAULT_PORT) < 65_536:
        raise Unavailable(
            f"ICE server {ice.url!r} cannot be used: write stun:host:port or turn:host:port"
        )
    # A TURN server over UDP is a STUN server, too (RFC 8656 §3).
    if match[1] in ("stuns", "turns") or match[4] == "tcp":
        return None
    return StunServer(match[2].strip("[]"), int(match[3] or DEFAULT_PORT))


def request(transaction: bytes) -> bytes:
    """A Binding request under *transaction*, TRANSACTION_BYTES that nobody can guess."""
    return _HEADER.pack(_REQUEST, 0, MAGIC, transaction)


def transaction_of(datagram: bytes) -> bytes | None:
    """The transaction that *datagram* answers with success; None if it is no such answer."""
    if len(datagram) < HEADER_BYTES:
        return None
    kind, size, magic, transaction = _HEADER.unpack_from(datagram)
    is_answer = kind == _SUCCESS and magic == MAGIC and size == len(datagram) - HEADER_BYTES
    return transaction if is_answer else None


def mapped_address(datagram: bytes) -> tuple[IPv4Address | IPv6Address, int]:
    """Read an answer's XOR-MAPPED-ADDRESS (RFC 8489 §14.2). Raises WireError without a good one."""
    at = HEADER_BYTES
    while at + _ATTRIBUTE.size <= len(datagram):
        kind, size = _ATTRIBUTE.unpack_from(datagram, at)
        at += _ATTRIBUTE.size
        value = datagram[at : at + size]
        if len(value) != size:
            raise WireError("STUN attribute of impossible length")
        if kind == _XOR_MAPPED_ADDRESS:
            return _unmask(value, datagram[4:HEADER_BYTES])
        at += size + (-size & 3)
    raise WireError("STUN answer without an address")


def _unmask(value: bytes, mask: bytes) -> tuple[IPv4Address | IPv6Address, int]:
    if len(value) not in (8, 20):
        raise WireError("STUN address of impossible length")
    family, port = _MAPPED.unpack_from(value)
    packed = bytes(a ^ b for a, b in zip(value[4:], mask, strict=False))
    port ^= int.from_bytes(MAGIC[:2], "big")
    if (family, len(packed)) == (1, 4):
        return IPv4Address(packed), port
    if (family, len(packed)) == (2, 16):
        return IPv6Address(packed), port
    raise WireError("STUN address of an unknown family")
