"""From what the database holds to what a node gets: `Grant`s, sealed and signed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from conflux.anchor.identity import (
    address_tag,
    control_prefix,
    node_id,
    node_tag,
    relay_tag,
    seal_grant,
    seal_revocations,
)
from conflux.api import ControlCredentials
from conflux.wire.credentials import Certificate, Grant, Revoked, TeamKey
from veilnet_guardian import teams
from veilnet_guardian.keys import Keys
from veilnet_guardian.models import CertificateRecord, Conflux, Plane, Session, Team


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """All of a live session that its grant is made of.

    `answered` is the digest of the grant that the login was answered with; empty at the login.
    """

    certificate: Certificate
    plane_name: str
    plane_key: bytes
    teams: Sequence[TeamKey]
    master_url: str
    answered: bytes = b""

    def __repr__(self) -> str:
        return f"Holding(serial={self.certificate.serial}, teams={list(self.teams)!r})"

    @property
    def subject(self) -> str:
        """Where on the control channel the node listens for grants, up to the sender's handle."""
        return f"{control_prefix(self.plane_key)}.{self._handle.hex()}"

    @property
    def _handle(self) -> bytes:
        return node_tag(self.plane_key, node_id(self.certificate.sign_public))


def team_keys(held: Sequence[Team]) -> tuple[TeamKey, ...]:
    return tuple(
        TeamKey(team_id=team.id.bytes, epoch=team.epoch, key=team.key, name=team.name)
        for team in held
    )


async def live_holdings(session: AsyncSession, *, now: int) -> dict[int, Holding]:
    """Of each session that is alive at *now*, by serial, what it holds."""
    alive = is_alive(now=now)
    query = (
        select(Session, CertificateRecord.encoded, Conflux.id, Plane)
        .join(CertificateRecord, CertificateRecord.serial == Session.serial)
        .join(Conflux, Conflux.id == Session.conflux_id)
        .join(Plane, Plane.id == Conflux.plane_id)
        .where(alive)
    )
    rows = (await session.execute(query)).all()
    with_session = select(Session.conflux_id).where(Session.ended_at.is_(None))
    held = await teams.held(session, Conflux.id.in_(with_session))
    return {
        login.serial: Holding(
            certificate=Certificate.decode(encoded),
            plane_name=plane.name,
            plane_key=plane.key,
            teams=team_keys(held.get(conflux_id, [])),
            master_url=login.master_url,
            answered=login.grant_digest,
        )
        for login, encoded, conflux_id, plane in rows
    }


async def removed_holdings(session: AsyncSession, serials: Iterable[int]) -> dict[int, Holding]:
    """Of those sessions of *serials* whose conflux was removed: a grant's makings without a team.

    Sessions of a conflux that is still there are left out: its node may have logged in anew with
    the keys of the old session, and would take the empty grant for its present one.
    """
    query = (
        select(Session, CertificateRecord.encoded)
        .join(CertificateRecord, CertificateRecord.serial == Session.serial)
        .where(Session.serial.in_(serials), Session.conflux_id.not_in(select(Conflux.id)))
    )
    found = {}
    for login, encoded in await session.execute(query):
        certificate = Certificate.decode(encoded)
        plane = await session.get(Plane, UUID(bytes=certificate.plane_id))
        if plane is not None:
            found[login.serial] = Holding(
                certificate=certificate,
                plane_name=plane.name,
                plane_key=plane.key,
                teams=(),
                master_url=login.master_url,
            )
    return found


def is_alive(*, now: int) -> ColumnElement[bool]:
    """Clause on a Session joined with its CertificateRecord."""
    return Session.ended_at.is_(None) & (CertificateRecord.not_after > now)


class GrantMaker:
    """Makes grants with Guardian's keys. Its calls take about a millisecond: for threads."""

    def __init__(self, keys: Keys) -> None:
        # Loaded here, since the calls come from threads that would otherwise race to load them.
        self._crypto, self._signer, self._master = keys.crypto, keys.signer, keys.master

    def make(self, holding: Holding, *, revision: int, time_ms: int) -> Grant:
        """The same *holding* always gives the same control credentials."""
        certificate, key = holding.certificate, holding.plane_key
        handle = node_tag(key, node_id(certificate.sign_public))
        control = ControlCredentials(
            urls=[holding.master_url],
            prefix=control_prefix(key),
            handle=handle,
            tags=[handle, *(address_tag(key, ip.packed) for ip in certificate.addresses)],
            shared_tag=relay_tag(key),
            jwt=self._master.node_jwt(certificate, key),
            seed=self._master.node_user(certificate.serial).seed,
        )
        return Grant(
            revision=revision,
            time_ms=time_ms,
            certificate=certificate,
            plane_name=holding.plane_name,
            plane_key=key,
            teams=holding.teams,
            control=control,
        )

    def seal(self, grant: Grant, *, binding: bytes) -> bytes:
        """Sign *grant* and seal it to its node."""
        return seal_grant(
            self._crypto, self._signer, grant, binding=binding, entropy=secrets.token_bytes
        )

    def seal_revocations(
        self, entries: Sequence[Revoked], *, plane_id: bytes, plane_key: bytes
    ) -> bytes:
        """Sign *entries* and seal them to the nodes of the plane."""
        return seal_revocations(
            self._signer,
            entries,
            plane_id=plane_id,
            plane_key=plane_key,
            entropy=secrets.token_bytes,
        )

    def digest(self, holding: Holding) -> bytes:
        """32 bytes that differ if and only if the grants differ in more than time."""
        return grant_digest(self.make(holding, revision=0, time_ms=0))


def grant_digest(grant: Grant) -> bytes:
    timeless = replace(grant, revision=0, time_ms=0, revoked=())
    return hashlib.sha256(timeless.encode()).digest()
