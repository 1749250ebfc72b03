"""What the two ends tell each other: ICE credentials, DTLS fingerprint, candidates.

    description = version(1) kind(1) ufrag<1..> pwd<1..> fingerprint(32) count(1) candidate*
    candidate   = type(1) priority(4) family(1) address(4 | 16) port(2)

Integers are big-endian, `<1..>` is a run behind one byte of length. All else of an SDP (RFC 8839,
RFC 8841) is fixed: component 1, UDP, SHA-256 fingerprints (RFC 8122), the offerer controls ICE and
is the DTLS server, SCTP port 5000.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from conflux.api import MAX_DESCRIPTION_BYTES, WireError

IpAddress = IPv4Address | IPv6Address

VERSION = 1
MAX_CANDIDATES = 16
FINGERPRINT_BYTES = 32

# RFC 8839 §5.4; the upper bounds are ours, far below the RFC's 256.
_UFRAG = re.compile(rb"[a-zA-Z0-9+/]{4,64}")
_PASSWORD = re.compile(rb"[a-zA-Z0-9+/]{22,128}")

_CANDIDATE = struct.Struct("!BLB")
_PORT = struct.Struct("!H")


class Kind(enum.IntEnum):
    """Which side wrote it: neither can be handed back to its writer as the other's."""

    OFFER = 1
    ANSWER = 2


class CandidateType(enum.IntEnum):
    """RFC 8445 §5.1.1. Peer-reflexive candidates are found, never told."""

    HOST = 0
    SERVER_REFLEXIVE = 1
    RELAYED = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place where an end may be reached; the address is one that a unicast peer can have."""

    type: CandidateType
    priority: int
    address: IpAddress
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One end's side of a tether. The password proves nothing but the reading of this text."""

    kind: Kind
    ufrag: str
    password: str
    fingerprint: bytes
    candidates: tuple[Endpoint, ...]

    def encode(self) -> bytes:
        parts = [
            bytes((VERSION, self.kind)),
            _run(self.ufrag.encode("ascii")),
            _run(self.password.encode("ascii")),
            self.fingerprint,
            bytes((len(self.candidates),)),
            *map(_encode_candidate, self.candidates),
        ]
        return b"".join(parts)


def decode(data: bytes, expected: Kind) -> Description:
    """Read what the far end wrote. Raises WireError, and nothing else, for anything amiss."""
    if len(data) > MAX_DESCRIPTION_BYTES:
        raise WireError("description longer than allowed")
    reader = _Reader(data)
    if reader.u8() != VERSION:
        raise WireError("description of an unknown version")
    if reader.u8() != expected:
        raise WireError("description of the wrong kind")
    ufrag = reader.text(_UFRAG)
    password = reader.text(_PASSWORD)
    fingerprint = reader.take(FINGERPRINT_BYTES)
    count = reader.u8()
    if count > MAX_CANDIDATES:
        raise WireError("description with too many candidates")
    candidates = tuple(_decode_candidate(reader) for _ in range(count))
    reader.end()
    return Description(
        kind=expected,
        ufrag=ufrag,
        password=password,
        fingerprint=fingerprint,
        candidates=candidates,
    )


def is_unicast(address: IpAddress) -> bool:
    """Whether one host can have *address* as its own on the network.

    False for unspecified ("this network" as a whole), multicast, reserved (which holds the limited
    broadcast), IPv4 addresses dressed as IPv6, and link-local IPv6, which says nothing without a
    scope. A directed broadcast looks like any other address; the kernel refuses to send to it from
    a socket without SO_BROADCAST, which ours never set.
    """
    if address.is_multicast or address.is_unspecified:
        return False
    if isinstance(address, IPv4Address):
        return not (address.is_reserved or address.packed[0] == 0)
    return not (address.ipv4_mapped or address.is_link_local)


def _run(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def _encode_candidate(candidate: Endpoint) -> bytes:
    address = candidate.address
    return (
        _CANDIDATE.pack(candidate.type, candidate.priority, address.version)
        + address.packed
        + _PORT.pack(candidate.port)
    )


def _decode_candidate(reader: _Reader) -> Endpoint:
    kind, priority, version = _CANDIDATE.unpack(reader.take(_CANDIDATE.size))
    address: IpAddress
    if version == 4:
        address = IPv4Address(reader.take(4))
    elif version == 6:
        address = IPv6Address(reader.take(16))
    else:
        raise WireError("candidate of an unknown address family")
    (port,) = _PORT.unpack(reader.take(_PORT.size))
    if kind not in tuple(CandidateType):
        raise WireError("candidate of an unknown type")
    if not port or not is_unicast(address):
        raise WireError("candidate that nobody can be reached at")
    return Endpoint(CandidateType(kind), priority, address, port)


class _Reader:
    """Takes fields off the front."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise WireError("description shorter than its fields")
        return self._data[start : self._at]

    def u8(self) -> int:
        return self.take(1)[0]

    def text(self, pattern: re.Pattern[bytes]) -> str:
        value = self.take(self.u8())
        if not pattern.fullmatch(value):
            raise WireError("ICE credentials outside RFC 8839")
        return value.decode("ascii")

    def end(self) -> None:
        if self._at != len(self._data):
            raise WireError("description longer than its fields")
