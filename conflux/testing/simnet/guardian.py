"""A Guardian in one object: certificates, team keys and their epochs, pushed grants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from conflux.anchor.identity import (
    PUSH_BINDING,
    GuardianKey,
    Identity,
    address_tag,
    control_prefix,
    node_tag,
    relay_tag,
    seal_grant,
    seal_revocations,
    sign_certificate,
)
from conflux.anchor.seal import Entropy
from conflux.api import TAG_BYTES, ControlCredentials, CryptoDriver
from conflux.wire.control import Kind, envelope
from conflux.wire.credentials import (
    ID_BYTES,
    SALT_BYTES,
    Certificate,
    Grant,
    Interface,
    Revoked,
    TeamKey,
)

HANDLE = bytes(TAG_BYTES)
"""Guardian's own handle on the control channel, which no node may use."""

VALID_S = 86_400
_Publish = Callable[[bytes, bytes], None]


@dataclass(slots=True)
class _Member:
    conflux_id: bytes
    addresses: Sequence[Interface]
    teams: set[str] = field(default_factory=set)
    identity: Identity | None = None
    serial: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    """Of each certificate under the present keys, by serial, when it ends."""
    revision: int = 0


class SimGuardian:
    """Issues what Guardian issues, signed and sealed by the kernel's own code.

    *wall* is Guardian's clock in Unix seconds; *publish(tag, payload)* reaches the nodes.
    """

    def __init__(
        self,
        crypto: CryptoDriver,
        entropy: Entropy,
        wall: Callable[[], float],
        publish: _Publish,
    ) -> None:
        self._crypto = crypto
        self._entropy = entropy
        self._wall = wall
        self._publish = publish
        self._signer = crypto.generate_signer()
        self._members: dict[str, _Member] = {}
        self._teams: dict[str, TeamKey] = {}
        self._serial = 0
        self._revoked: list[Revoked] = []
        self.key = GuardianKey(crypto, self._signer.public)
        self.plane_id = entropy(ID_BYTES)
        self.plane_key = entropy(32)
        self.valid_s = VALID_S
        """How long certificates live that are issued from now on."""

    def enrol(self, name: str, *, addresses: Sequence[str], teams: Sequence[str]) -> None:
        """Register a conflux; *addresses* come with the plane's prefix length."""
        conflux_id = hashlib.sha256(name.encode()).digest()[:ID_BYTES]
        self._members[name] = _Member(conflux_id, [ip_interface(a) for a in addresses], set(teams))

    def admit(self, name: str, identity: Identity) -> Grant:
        """Log a start of *name* in: a new serial, which outranks its earlier starts.

        What it got under other keys is revoked.
        """
        member = self._members[name]
        if member.identity is not None and member.identity is not identity:
            self.revoke(name)
        member.identity = identity
        self._new_serial(member)
        return self.grant(name, revoked=self._revoked)

    def grant(self, name: str, *, revoked: Sequence[Revoked] = ()) -> Grant:
        """A new revision of what *name* holds by now."""
        member = self._members[name]
        member.revision += 1
        wall = self._wall()
        return Grant(
            revision=member.revision,
            time_ms=int(wall * 1000),
            certificate=self.certificate(name),
            plane_name="sim",
            plane_key=self.plane_key,
            teams=[self.team(team) for team in sorted(member.teams)],
            control=self._credentials(member),
            revoked=tuple(sorted(revoked, key=lambda entry: entry.serial)),
        )

    def certificate(self, name: str, **changes: object) -> Certificate:
        """*name*'s certificate; *changes* make one that Guardian would never sign for it."""
        member = self._members[name]
        identity, wall = _logged_in(member), int(self._wall())
        bare = Certificate(
            serial=member.serial,
            conflux_id=member.conflux_id,
            plane_id=self.plane_id,
            sign_public=identity.signer.public,
            kem_public=identity.kem.public,
            addresses=member.addresses,
            not_before=wall,
            not_after=wall + self.valid_s,
            salt=self._entropy(SALT_BYTES),
        )
        return sign_certificate(self._signer, replace(bare, **changes))  # type: ignore[arg-type]

    def team(self, name: str) -> TeamKey:
        """The key of the team's current epoch."""
        if name not in self._teams:
            team_id = hashlib.sha256(name.encode()).digest()[:ID_BYTES]
            self._teams[name] = TeamKey(team_id=team_id, epoch=1, key=self._entropy(32), name=name)
        return self._teams[name]

    def attach(self, name: str, team: str) -> None:
        """Add *name* to *team* and push the grant that says so."""
        self._members[name].teams.add(team)
        self.push(name)

    def detach(self, name: str, team: str) -> None:
        """Remove *name*: those who remain get a new epoch, *name* a grant without the team."""
        self._members[name].teams.discard(team)
        old = self.team(team)
        self._teams[team] = replace(old, epoch=old.epoch + 1, key=self._entropy(32))
        for other, member in self._members.items():
            if team in member.teams or other == name:
                self.push(other)

    def renew(self, name: str) -> None:
        """Give *name* a new certificate for the keys that it has, of a higher serial."""
        self._new_serial(self._members[name])
        self.push(name)

    def revoke(self, name: str) -> None:
        """Take back every certificate of *name*'s present keys, and tell all nodes."""
        member = self._members[name]
        news = [Revoked(serial, ends) for serial, ends in sorted(member.ends.items())]
        member.ends.clear()
        self._revoked += news
        body = seal_revocations(
            self._signer,
            news,
            plane_id=self.plane_id,
            plane_key=self.plane_key,
            entropy=self._entropy,
        )
        for other in self._members.values():
            if other.identity is not None and other is not member:
                tag = node_tag(self.plane_key, other.identity.node_id)
                self._publish(tag, envelope(Kind.REVOCATIONS, body))

    def remove(self, name: str) -> None:
        """Delete *name*: it is revoked, and all that it had the keys of gets new ones."""
        self.revoke(name)
        for team in sorted(self._members[name].teams):
            self.detach(name, team)
        del self._members[name]

    def _new_serial(self, member: _Member) -> None:
        self._serial += 1
        member.serial = self._serial
        member.ends[member.serial] = int(self._wall()) + self.valid_s

    def push(self, name: str) -> None:
        """Send *name* its grant over the control channel."""
        member = self._members[name]
        if member.identity is None:
            return
        sealed = seal_grant(
            self._crypto,
            self._signer,
            self.grant(name),
            binding=PUSH_BINDING,
            entropy=self._entropy,
        )
        tag = node_tag(self.plane_key, member.identity.node_id)
        self._publish(tag, envelope(Kind.GRANT, sealed))

    def _credentials(self, member: _Member) -> ControlCredentials:
        handle = node_tag(self.plane_key, _logged_in(member).node_id)
        own = [address_tag(self.plane_key, address.packed) for address in member.addresses]
        return ControlCredentials(
            urls=["sim://master"],
            prefix=control_prefix(self.plane_key),
            handle=handle,
            tags=[handle, *own],
            shared_tag=relay_tag(self.plane_key),
            jwt="",
            seed="",
        )


def _logged_in(member: _Member) -> Identity:
    if member.identity is None:
        raise ValueError("this conflux has not logged in yet")
    return member.identity
