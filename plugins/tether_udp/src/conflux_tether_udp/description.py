"""What the two ends tell each other: where each can be reached, and under which id.

    description = version (1) ‖ kind (1) ‖ id (8) ‖ count (1) ‖ candidate ...
    candidate   = type (1) ‖ family (1) ‖ address (4 | 16) ‖ port (2)

Integers are big-endian; the order of candidates is the order of preference among those of one type.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from conflux.api import WireError
from conflux_tether_udp.datagram import ID_BYTES

IpAddress = IPv4Address | IPv6Address

VERSION = 1
MAX_CANDIDATES = 16
ID_MARK = 0x80
"""Set in the first byte of every id: no datagram of ours looks like STUN (RFC 7983 §7)."""

_HEAD = struct.Struct(f"!BB{ID_BYTES}sB")
_TYPE = struct.Struct("!BB")
_PORT = struct.Struct("!H")


class Kind(enum.IntEnum):
    """Which side wrote it: neither can be handed back to its writer as the other's."""

    OFFER = 1
    ANSWER = 2


class CandidateType(enum.IntEnum):
    """RFC 8445 §5.1.1. The lower, the better."""

    HOST = 0
    SERVER_REFLEXIVE = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where an end may be reached; the address is one that a single host can have."""

    type: CandidateType
    address: IpAddress
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One end's side of a tether. `id` stands in front of every datagram to that end."""

    kind: Kind
    id: bytes
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        head = _HEAD.pack(VERSION, self.kind, self.id, len(self.candidates))
        return head + b"".join(map(_encode_candidate, self.candidates))


def decode(data: bytes, expected: Kind) -> Description:
    """Read what the far end wrote. Raises WireError, and nothing else, for anything amiss."""
    try:
        version, kind, own_id, count = _HEAD.unpack_from(data)
    except struct.error:
        raise WireError("description shorter than its fields") from None
    if version != VERSION:
        raise WireError("description of an unknown version")
    if kind != expected:
        raise WireError("description of the wrong kind")
    if not own_id[0] & ID_MARK:
        raise WireError("description with an impossible id")
    if count > MAX_CANDIDATES:
        raise WireError("description with too many candidates")
    candidates = []
    at = _HEAD.size
    for _ in range(count):
        candidate, at = _decode_candidate(data, at)
        candidates.append(candidate)
    if at != len(data):
        raise WireError("description longer than its fields")
    return Description(kind=expected, id=own_id, candidates=tuple(candidates))


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


def _encode_candidate(candidate: Candidate) -> bytes:
    address = candidate.address
    return _TYPE.pack(candidate.type, address.version) + address.packed + _PORT.pack(candidate.port)


def _decode_candidate(data: bytes, at: int) -> tuple[Candidate, int]:
    try:
        kind, version = _TYPE.unpack_from(data, at)
        size = _ADDRESS_BYTES.get(version, 0)
        start = at + _TYPE.size
        (port,) = _PORT.unpack_from(data, start + size)
    except struct.error:
        raise WireError("description shorter than its fields") from None
    if kind not in tuple(CandidateType):
        raise WireError("candidate of an unknown type")
    packed = data[start : start + size]
    if version == 4:
        address: IpAddress = IPv4Address(packed)
    elif version == 6:
        address = IPv6Address(packed)
    else:
        raise WireError("candidate of an unknown address family")
    if not port or not is_unicast(address):
        raise WireError("candidate that nobody can be reached at")
    return Candidate(CandidateType(kind), address, port), start + size + _PORT.size


_ADDRESS_BYTES = {4: 4, 6: 16}
