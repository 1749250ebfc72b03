"""Certificates that are taken back: which, and when nodes are told (docs/protocol/login.md §5).

login, logout, removal ──► revoke_dead ──► database ──► News ──► every node of the plane
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from conflux.wire.credentials import Certificate, Revoked
from veilnet_guardian.database import bump_revision
from veilnet_guardian.models import CertificateRecord, Session

REPEATS_S = (0.0, 1.0, 5.0, 60.0, 300.0, 1_800.0)
"""When nodes are told, counted from the revocation; after that every EVERY_S."""
EVERY_S = 3_600.0

MAX_IN_GRANT = 65_535
"""In the answer to a login; of more than these, the ones that end last."""


async def revoke_dead(session: AsyncSession, conflux_id: UUID, *, now: int) -> None:
    """Revoke each certificate of a conflux whose key is not that of a live session of it.

    What was renewed under the same keys stays good: peers that know the former certificate only
    must not drop whoever has just renewed it.
    """
    of_conflux = (CertificateRecord.conflux_id == conflux_id) & (CertificateRecord.not_after > now)
    alive = (
        select(CertificateRecord.encoded)
        .join(Session, Session.serial == CertificateRecord.serial)
        .where(of_conflux, Session.ended_at.is_(None))
    )
    keys = {Certificate.decode(row).sign_public for row in await session.scalars(alive)}
    unrevoked = select(CertificateRecord).where(of_conflux, CertificateRecord.revoked_at.is_(None))
    dead = [
        record
        for record in await session.scalars(unrevoked)
        if Certificate.decode(record.encoded).sign_public not in keys
    ]
    for record in dead:
        record.revoked_at = now
    if dead:
        await bump_revision(session)


async def by_plane(session: AsyncSession, *, now: int) -> dict[bytes, list[Revoked]]:
    """All revoked certificates that have not ended, by the id of their plane."""
    query = select(
        CertificateRecord.plane_id, CertificateRecord.serial, CertificateRecord.not_after
    ).where(CertificateRecord.revoked_at.is_not(None), CertificateRecord.not_after > now)
    found: dict[bytes, list[Revoked]] = defaultdict(list)
    for plane_id, serial, not_after in await session.execute(query):
        found[plane_id.bytes].append(Revoked(serial, not_after))
    return found


async def of_plane(session: AsyncSession, plane_id: UUID, *, now: int) -> list[Revoked]:
    """What the answer to a login holds, by serial."""
    query = (
        select(CertificateRecord.serial, CertificateRecord.not_after)
        .where(
            CertificateRecord.plane_id == plane_id,
            CertificateRecord.revoked_at.is_not(None),
            CertificateRecord.not_after > now,
        )
        .order_by(CertificateRecord.not_after.desc())
        .limit(MAX_IN_GRANT)
    )
    entries = [Revoked(serial, ends) for serial, ends in await session.execute(query)]
    return sorted(entries, key=lambda entry: entry.serial)


@dataclass(slots=True)
class _Batch:
    """What was revoked at one time, by serial; `due` are the times that are left."""

    entries: dict[int, Revoked]
    due: list[float]


@dataclass(slots=True)
class _OfPlane:
    known: set[int] = field(default_factory=set)
    batches: list[_Batch] = field(default_factory=list)


class News:
    """What each plane's nodes are to be told, and when. Pure: *now* is an argument.

    Nodes add up what they are told, so that only news must be sent; all of it goes out again now
    and then, since the control channel may lose a message and a node may be away.
    """

    def __init__(self) -> None:
        self._planes: dict[bytes, _OfPlane] = {}

    def sweep(self, revoked: Mapping[bytes, Iterable[Revoked]], *, now: float) -> None:
        """Take in all that is revoked, by plane; forget what is not any more, since it ended."""
        for plane_id in self._planes.keys() - revoked.keys():
            del self._planes[plane_id]
        for plane_id, entries in revoked.items():
            held = {entry.serial: entry for entry in entries}
            plane = self._planes.setdefault(plane_id, _OfPlane())
            for batch in plane.batches:
                batch.entries = {s: e for s, e in batch.entries.items() if s in held}
            plane.batches = [batch for batch in plane.batches if batch.entries]
            news = {serial: entry for serial, entry in held.items() if serial not in plane.known}
            if news:
                plane.batches.append(_Batch(news, _times(now)))
            plane.known = set(held)

    def resend(self, *, now: float) -> None:
        """Begin again with all of it: the connection broke."""
        for plane in self._planes.values():
            for batch in plane.batches:
                batch.due = _times(now)

    def due(self, *, now: float) -> dict[bytes, list[Revoked]]:
        """What is to be sent now, by plane, each by serial."""
        found = {}
        for plane_id, plane in self._planes.items():
            entries = [
                entry
                for batch in plane.batches
                if batch.due[0] <= now
                for entry in batch.entries.values()
            ]
            if entries:
                found[plane_id] = sorted(entries, key=lambda entry: entry.serial)
        return found

    def sent(self, plane_id: bytes, *, now: float) -> None:
        for batch in self._planes[plane_id].batches:
            batch.due = [at for at in batch.due if at > now] or [now + EVERY_S]


def _times(now: float) -> list[float]:
    return [now + wait_s for wait_s in REPEATS_S]
