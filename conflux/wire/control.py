"""Messages of the control channel: the envelope, and what stands inside Ask, Answer and Open.

Layouts and order of checks: docs/protocol/handshake.md. Only bytes here; anchor/handshake seals,
signs and checks.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from conflux.api import (
    MAX_CONTROL_BYTES,
    MAX_DESCRIPTION_BYTES,
    SIGNATURE_BYTES,
    Buffer,
    WireError,
)
from conflux.wire.codec import Reader, Writer
from conflux.wire.credentials import HASH_BYTES, HYBRID_PUBLIC_BYTES, KEY_BYTES, Certificate

VERSION = 1
MAX_HANDSHAKE_BYTES = 16_384
REF_BYTES = 16
TEAM_TAG_BYTES = 16
TEAM_TAGS_MULTIPLE = 8
MAX_TEAM_TAGS = 128
MAX_AVOID = 16


E = TypeVar("E", bound=enum.IntEnum)


class Kind(enum.IntEnum):
    ASK = 1
    ANSWER = 2
    OPEN = 3
    GRANT = 4
    GOODBYE = 5
    """Inside a stream only, without a body: the sender stops and forgets its keys."""
    REPORT = 6
    """Inside a stream only: what has arrived."""
    REVOCATIONS = 7
    """From Guardian only: certificates that count no more."""


class Purpose(enum.IntEnum):
    STREAM = 1
    """Streams both ways, and a tether if the two can have one."""
    TETHER = 2
    """A tether only: to relay for others."""


class TargetKind(enum.IntEnum):
    ADDRESS = 1
    NODE = 2
    ANY_RELAY = 3


class AuthLevel(enum.IntEnum):
    """How packets are vouched for; the stricter end decides."""

    HANDSHAKE = 0
    CHECKPOINT = 1
    STRICT = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: an address (4 or 16 bytes), a NodeId, or nobody in particular."""

    kind: TargetKind
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Description:
    """One end of a tether to be: the driver's name and its bytes; an empty kind for none."""

    kind: str = ""
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`core` is everything but the team tags, which prove team keys over its hash."""

    nonce: bytes
    time_ms: int
    purpose: Purpose
    target: Target
    certificate: Certificate
    kem_public: bytes
    suites: Sequence[int]
    auth_level: AuthLevel
    features: int
    tether_kinds: Sequence[str]
    avoid: Sequence[bytes] = ()
    team_tags: Sequence[bytes] = ()

    def core(self) -> bytes:
        out = Writer().raw(self.nonce, REF_BYTES).u64(self.time_ms).u8(self.purpose)
        out.u8(self.target.kind).vec8(self.target.value)
        out.vec16(self.certificate.encode()).raw(self.kem_public, HYBRID_PUBLIC_BYTES)
        out.u8(len(self.suites))
        for suite in self.suites:
            out.u16(suite)
        out.u8(self.auth_level).u32(self.features)
        out.u8(len(self.tether_kinds))
        for kind in self.tether_kinds:
            out.text8(kind)
        out.u8(len(self.avoid))
        for node in self.avoid:
            out.raw(node, KEY_BYTES)
        return out.done()

    def encode(self) -> bytes:
        return Writer().vec16(self.core()).vec16(b"".join(self.team_tags)).done()

    @classmethod
    def decode(cls, data: Buffer) -> Ask:
        whole = Reader(data)
        take, tags = Reader(whole.vec16()), whole.vec16()
        whole.end()
        if len(tags) % (TEAM_TAG_BYTES * TEAM_TAGS_MULTIPLE):
            raise WireError("team tags are not padded")
        if len(tags) > MAX_TEAM_TAGS * TEAM_TAG_BYTES:
            raise WireError("too many team tags")
        ask = cls(
            nonce=take.raw(REF_BYTES),
            time_ms=take.u64(),
            purpose=_enum(Purpose, take.u8()),
            target=_target(take),
            certificate=Certificate.decode(take.vec16()),
            kem_public=take.raw(HYBRID_PUBLIC_BYTES),
            suites=[take.u16() for _ in range(take.u8())],
            auth_level=_enum(AuthLevel, take.u8()),
            features=take.u32(),
            tether_kinds=[take.text8() for _ in range(take.u8())],
            avoid=[take.raw(KEY_BYTES) for _ in range(_at_most(take.u8(), MAX_AVOID))],
            team_tags=_split(tags, TEAM_TAG_BYTES),
        )
        take.end()
        return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`signature` covers the Ask's hash and `body`; `mac` proves all common team keys at once."""

    ask_hash: bytes
    suite: int
    auth_level: AuthLevel
    features: int
    certificate: Certificate
    kem_public: bytes
    random: bytes
    team_tags: Sequence[bytes]
    mac: bytes
    tether: Description
    signature: bytes = b""

    def claims(self) -> bytes:
        """What `mac` covers: all that stands before it."""
        out = Writer().raw(self.ask_hash, HASH_BYTES)
        out.u16(self.suite).u8(self.auth_level).u32(self.features)
        out.vec16(self.certificate.encode()).raw(self.kem_public, HYBRID_PUBLIC_BYTES)
        out.raw(self.random, KEY_BYTES).vec16(b"".join(self.team_tags))
        return out.done()

    def body(self) -> bytes:
        out = Writer().raw(self.claims()).raw(self.mac, HASH_BYTES)
        return _write_description(out, self.tether).done()

    def encode(self) -> bytes:
        return Writer().raw(self.body()).raw(self.signature, SIGNATURE_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> Answer:
        take = Reader(data)
        answer = cls(
            ask_hash=take.raw(HASH_BYTES),
            suite=take.u16(),
            auth_level=_enum(AuthLevel, take.u8()),
            features=take.u32(),
            certificate=Certificate.decode(take.vec16()),
            kem_public=take.raw(HYBRID_PUBLIC_BYTES),
            random=take.raw(KEY_BYTES),
            team_tags=_split(take.vec16(), TEAM_TAG_BYTES),
            mac=take.raw(HASH_BYTES),
            tether=_read_description(take),
            signature=take.raw(SIGNATURE_BYTES),
        )
        take.end()
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """`signature` covers the hashes of Ask and Answer, and `body`."""

    answer_hash: bytes
    random: bytes
    tether: Description
    signature: bytes = b""

    def body(self) -> bytes:
        out = Writer().raw(self.answer_hash, HASH_BYTES).raw(self.random, KEY_BYTES)
        return _write_description(out, self.tether).done()

    def encode(self) -> bytes:
        return Writer().raw(self.body()).raw(self.signature, SIGNATURE_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> Open:
        take = Reader(data)
        opening = cls(
            answer_hash=take.raw(HASH_BYTES),
            random=take.raw(KEY_BYTES),
            tether=_read_description(take),
            signature=take.raw(SIGNATURE_BYTES),
        )
        take.end()
        return opening


def envelope(kind: Kind, body: bytes) -> bytes:
    return bytes((VERSION, kind)) + body


def read_envelope(message: bytes) -> tuple[Kind, bytes]:
    """Return (kind, body). Raises WireError for another version, kind or an impossible size."""
    if len(message) < 2 or message[0] != VERSION:
        raise WireError("unknown version of control message")
    kind = _enum(Kind, message[1])
    if len(message) > (MAX_CONTROL_BYTES if kind is Kind.GRANT else MAX_HANDSHAKE_BYTES):
        raise WireError("control message too large")
    return kind, message[2:]


def _write_description(out: Writer, description: Description) -> Writer:
    return out.text8(description.kind).vec16(description.data)


def _read_description(take: Reader) -> Description:
    description = Description(take.text8(), take.vec16())
    if len(description.data) > MAX_DESCRIPTION_BYTES:
        raise WireError("description of a tether too large")
    return description


def _target(take: Reader) -> Target:
    target = Target(_enum(TargetKind, take.u8()), take.vec8())
    sizes = {TargetKind.ADDRESS: (4, 16), TargetKind.NODE: (KEY_BYTES,)}
    if len(target.value) not in sizes.get(target.kind, (0,)):
        raise WireError("target of a wrong length")
    return target


def _split(data: bytes, size: int) -> list[bytes]:
    if len(data) % size:
        raise WireError("list of a broken length")
    return [data[at : at + size] for at in range(0, len(data), size)]


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise WireError("list too long")
    return value


def _enum(kind: type[E], value: int) -> E:
    try:
        return kind(value)
    except ValueError:
        raise WireError("unknown value") from None
