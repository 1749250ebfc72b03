"""What Guardian signs: certificates, grants, revocations; and the login request of a node.

Layouts: docs/protocol/login.md. Only bytes here; keys and signatures are anchor/identity's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from itertools import pairwise
from typing import Any

from conflux.api import (
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    TAG_BYTES,
    Buffer,
    ControlCredentials,
    IceServer,
    WireError,
)
from conflux.wire.codec import Reader, Writer

VERSION = 1
ID_BYTES = 16
KEY_BYTES = 32
HASH_BYTES = 32
SALT_BYTES = 32
HYBRID_PUBLIC_BYTES = 1_216
"""X-Wing: ML-KEM-768 (1,184) and X25519 (32)."""

MAX_REVOKED = 800
"""In one message of revocations: it stays within 16 KiB."""
_SCOPE = b"VeilNet/1 scope\x00"

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Guardian's word on who a node is. Times are Unix seconds, `not_after` exclusive.

    Among certificates of one `conflux_id` the highest `serial` wins. `signature` is Guardian's,
    over `body`, in which a hash stands for addresses and networks: `bare` shows only that, under
    the same signature. `salt` keeps them from being guessed.
    """

    serial: int
    conflux_id: bytes
    plane_id: bytes
    sign_public: bytes
    kem_public: bytes
    addresses: Sequence[Interface]
    networks: Sequence[Network] = ()
    portal: bool = False
    not_before: int
    not_after: int
    salt: bytes = bytes(SALT_BYTES)
    hidden: bytes = b""
    """The hash that stands for addresses and networks, if they are not shown."""
    signature: bytes = b""

    def bare(self) -> Certificate:
        """The same certificate without addresses and networks."""
        return replace(self, addresses=(), networks=(), salt=b"", hidden=self._scope_hash())

    def body(self) -> bytes:
        """The bytes that `signature` covers."""
        return self._head().raw(self._scope_hash(), HASH_BYTES).done()

    def encode(self) -> bytes:
        out = self._head().u8(not self.hidden).raw(self.hidden or self._scope())
        return out.raw(self.signature, SIGNATURE_BYTES).done()

    def _head(self) -> Writer:
        out = Writer().u8(VERSION).u64(self.serial)
        out.raw(self.conflux_id, ID_BYTES).raw(self.plane_id, ID_BYTES)
        out.raw(self.sign_public, SIGN_PUBLIC_BYTES).raw(self.kem_public, HYBRID_PUBLIC_BYTES)
        return out.u8(self.portal).u64(self.not_before).u64(self.not_after)

    def _scope(self) -> bytes:
        out = Writer().raw(self.salt, SALT_BYTES).u8(len(self.addresses))
        for address in self.addresses:
            out.vec8(address.packed).u8(address.network.prefixlen)
        out.u8(len(self.networks))
        for network in self.networks:
            out.vec8(network.network_address.packed).u8(network.prefixlen)
        return out.done()

    def _scope_hash(self) -> bytes:
        return self.hidden or hashlib.sha256(_SCOPE + self._scope()).digest()

    @classmethod
    def decode(cls, data: Buffer) -> Certificate:
        take = Reader(data)
        _version(take)
        certificate = cls(
            serial=take.u64(),
            conflux_id=take.raw(ID_BYTES),
            plane_id=take.raw(ID_BYTES),
            sign_public=take.raw(SIGN_PUBLIC_BYTES),
            kem_public=take.raw(HYBRID_PUBLIC_BYTES),
            portal=_flag(take),
            not_before=take.u64(),
            not_after=take.u64(),
            **_read_scope(take),
            signature=take.raw(SIGNATURE_BYTES),
        )
        take.end()
        return certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamKey:
    """One team's key of one epoch. The key proves membership: it never leaves in the clear."""

    team_id: bytes
    epoch: int
    key: bytes
    name: str

    def __repr__(self) -> str:
        return f"TeamKey(name={self.name!r}, epoch={self.epoch})"


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that counts no more, and when it ends by itself, in Unix seconds."""

    serial: int
    not_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """Certificates of a plane that Guardian took back, by ascending serial.

    They add up: a message takes nothing back, so their order and their repeats do not matter.
    `signature` is Guardian's, over `body`.
    """

    plane_id: bytes
    revoked: Sequence[Revoked]
    signature: bytes = b""

    def body(self) -> bytes:
        out = Writer().u8(VERSION).raw(self.plane_id, ID_BYTES)
        return _write_revoked(out, self.revoked).done()

    def encode(self) -> bytes:
        return Writer().raw(self.body()).raw(self.signature, SIGNATURE_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> Revocations:
        take = Reader(data)
        _version(take)
        revocations = cls(
            plane_id=take.raw(ID_BYTES),
            revoked=_read_revoked(take, at_most=MAX_REVOKED),
            signature=take.raw(SIGNATURE_BYTES),
        )
        take.end()
        return revocations


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """All that Guardian gives a node: in the answer to a login, and again when it changes.

    `revision` only grows within a session; a grant with an older one is stale. `time_ms` is
    Guardian's clock, Unix milliseconds. `networks` are portal networks in reach. `revoked` are the
    plane's revoked certificates: all of them in the answer to a login, none later.
    """

    revision: int
    time_ms: int
    certificate: Certificate
    plane_name: str
    plane_key: bytes
    teams: Sequence[TeamKey]
    control: ControlCredentials
    ice_servers: Sequence[IceServer] = ()
    networks: Sequence[Network] = ()
    revoked: Sequence[Revoked] = ()

    def __repr__(self) -> str:
        return f"Grant(revision={self.revision}, teams={list(self.teams)!r})"

    def encode(self) -> bytes:
        out = Writer().u8(VERSION).u64(self.revision).u64(self.time_ms)
        out.vec16(self.certificate.encode())
        out.text8(self.plane_name).raw(self.plane_key, KEY_BYTES)
        out.u16(len(self.teams))
        for team in self.teams:
            out.raw(team.team_id, ID_BYTES).u32(team.epoch).raw(team.key, KEY_BYTES)
            out.text8(team.name)
        _write_control(out, self.control)
        out.u8(len(self.ice_servers))
        for server in self.ice_servers:
            out.text16(server.url).text16(server.username).text16(server.credential)
        out.u16(len(self.networks))
        for network in self.networks:
            out.vec8(network.network_address.packed).u8(network.prefixlen)
        return _write_revoked(out, self.revoked).done()

    @classmethod
    def decode(cls, data: Buffer) -> Grant:
        take = Reader(data)
        _version(take)
        grant = cls(
            revision=take.u64(),
            time_ms=take.u64(),
            certificate=Certificate.decode(take.vec16()),
            plane_name=take.text8(),
            plane_key=take.raw(KEY_BYTES),
            teams=tuple(_team(take) for _ in range(take.u16())),
            control=_read_control(take),
            ice_servers=tuple(
                IceServer(url=take.text16(), username=take.text16(), credential=take.text16())
                for _ in range(take.u8())
            ),
            networks=tuple(_network(take) for _ in range(take.u16())),
            revoked=_read_revoked(take),
        )
        take.end()
        return grant


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """A node's new keys, bound to the conflux token that travels beside it and to a moment.

    `signature` is made with the key of `sign_public`, over `body`: it proves that key.
    """

    token_digest: bytes
    nonce: bytes
    time_ms: int
    sign_public: bytes
    kem_public: bytes
    signature: bytes = b""

    def body(self) -> bytes:
        out = Writer().u8(VERSION).raw(self.token_digest, KEY_BYTES).raw(self.nonce, KEY_BYTES)
        out.u64(self.time_ms)
        out.raw(self.sign_public, SIGN_PUBLIC_BYTES).raw(self.kem_public, HYBRID_PUBLIC_BYTES)
        return out.done()

    def encode(self) -> bytes:
        return Writer().raw(self.body()).raw(self.signature, SIGNATURE_BYTES).done()

    @classmethod
    def decode(cls, data: Buffer) -> LoginRequest:
        take = Reader(data)
        _version(take)
        request = cls(
            token_digest=take.raw(KEY_BYTES),
            nonce=take.raw(KEY_BYTES),
            time_ms=take.u64(),
            sign_public=take.raw(SIGN_PUBLIC_BYTES),
            kem_public=take.raw(HYBRID_PUBLIC_BYTES),
            signature=take.raw(SIGNATURE_BYTES),
        )
        take.end()
        return request


def _write_control(out: Writer, control: ControlCredentials) -> None:
    out.u8(len(control.urls))
    for url in control.urls:
        out.text16(url)
    out.text8(control.prefix).raw(control.handle, TAG_BYTES)
    out.u8(len(control.tags))
    for tag in control.tags:
        out.raw(tag, TAG_BYTES)
    out.raw(control.shared_tag, TAG_BYTES)
    out.text16(control.jwt).text8(control.seed).text16(control.ca_pem)


def _read_control(take: Reader) -> ControlCredentials:
    return ControlCredentials(
        urls=tuple(take.text16() for _ in range(take.u8())),
        prefix=take.text8(),
        handle=take.raw(TAG_BYTES),
        tags=tuple(take.raw(TAG_BYTES) for _ in range(take.u8())),
        shared_tag=take.raw(TAG_BYTES),
        jwt=take.text16(),
        seed=take.text8(),
        ca_pem=take.text16(),
    )


def _write_revoked(out: Writer, revoked: Sequence[Revoked]) -> Writer:
    out.u16(len(revoked))
    for entry in revoked:
        out.u64(entry.serial).u64(entry.not_after)
    return out


def _read_revoked(take: Reader, *, at_most: int = 0xFFFF) -> tuple[Revoked, ...]:
    count = take.u16()
    if count > at_most:
        raise WireError("list too long")
    revoked = tuple(Revoked(take.u64(), take.u64()) for _ in range(count))
    if any(one.serial >= other.serial for one, other in pairwise(revoked)):
        raise WireError("serials do not ascend")
    return revoked


def _version(take: Reader) -> None:
    if take.u8() != VERSION:
        raise WireError("unknown version")


def _read_scope(take: Reader) -> dict[str, Any]:
    """What a certificate shows: addresses and networks, or the hash that stands for them."""
    if not _flag(take):
        return {"addresses": (), "salt": b"", "hidden": take.raw(HASH_BYTES)}
    return {
        "salt": take.raw(SALT_BYTES),
        "addresses": tuple(_interface(take) for _ in range(take.u8())),
        "networks": tuple(_network(take) for _ in range(take.u8())),
    }


def _flag(take: Reader) -> bool:
    value = take.u8()
    if value > 1:
        raise WireError("a flag is 0 or 1")
    return value == 1


def _team(take: Reader) -> TeamKey:
    return TeamKey(
        team_id=take.raw(ID_BYTES), epoch=take.u32(), key=take.raw(KEY_BYTES), name=take.text8()
    )


def _interface(take: Reader) -> Interface:
    try:
        return ip_interface((take.vec8(), take.u8()))
    except ValueError:
        raise WireError("not an address with a prefix length") from None


def _network(take: Reader) -> Network:
    try:
        return ip_network((take.vec8(), take.u8()))
    except ValueError:
        raise WireError("not a network") from None
