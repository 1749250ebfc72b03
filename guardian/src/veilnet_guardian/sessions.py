"""Logins of conflux: certificate, session, and the grant that answers (docs/protocol/login.md)."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from uuid import uuid4

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from conflux.anchor.identity import login_binding, sign_certificate, verify_login
from conflux.api import CryptoDriver, Signer, WireError
from conflux.wire.credentials import SALT_BYTES, Certificate, LoginRequest
from veilnet_guardian import confluxes, revocations, teams
from veilnet_guardian.database import Database, bump_revision
from veilnet_guardian.errors import Conflict, GuardianError, Unauthorized
from veilnet_guardian.grants import GrantMaker, Holding, grant_digest, team_keys
from veilnet_guardian.keys import Keys
from veilnet_guardian.models import (
    CertificateRecord,
    Conflux,
    LoginNonce,
    Session,
    State,
)

REPLACED_SESSION_S = 60
"""How long the Master still serves a session that a newer one replaced."""

NONCE_MEMORY_S = 600

KEEP_RECORDS_S = 7 * 86_400
"""How long certificates and sessions stay in the database after they ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a login is answered with: the session token and the sealed grant."""

    session: str
    sealed: bytes


class Logins:
    """Lets conflux in and out. `certificate_s` is the life of the certificates given out."""

    def __init__(self, db: Database, keys: Keys, maker: GrantMaker, *, certificate_s: int) -> None:
        self._db = db
        self._tokens = keys.tokens
        self._crypto: CryptoDriver = keys.crypto
        self._signer: Signer = keys.signer
        self._maker = maker
        self._certificate_s = certificate_s

    async def login(self, token: str, body: bytes, *, master_url: str, wall: float) -> Answer:
        """Check the request *body* of the conflux of *token* and give it a session.

        *wall* is in Unix seconds. Raises Unauthorized for the token, GuardianError for the
        request, Conflict if the request was seen before.
        """
        now = int(wall)
        async with self._db.read() as session:
            await confluxes.by_token(session, self._tokens, token, now=now)
        try:
            request = await asyncio.to_thread(verify_login, self._crypto, body, conflux_token=token)
        except WireError as error:
            raise GuardianError(f"login request refused: {error}") from None
        async with self._db.write() as session:
            # Once more: it may have been removed while the signature was checked.
            conflux = await confluxes.by_token(session, self._tokens, token, now=now)
            await self._use_nonce(session, request.nonce, now=now)
            revision = (await session.execute(select(State.revision))).scalar_one()
            login, holding = await self._admit(session, conflux, request, master_url, now=now)
            grant = self._maker.make(holding, revision=revision, time_ms=int(wall * 1000))
            login.grant_digest = grant_digest(grant)
            revoked = await revocations.of_plane(session, conflux.plane_id, now=now)
            grant = replace(grant, revoked=revoked)
        sealed = await asyncio.to_thread(self._maker.seal, grant, binding=login_binding(body))
        session_token = self._tokens.issue(
            "session", conflux.id, token_id=login.id, now=now, lifetime_s=self._certificate_s
        )
        return Answer(session=session_token, sealed=sealed)

    async def _use_nonce(self, session: AsyncSession, nonce: bytes, *, now: int) -> None:
        old = LoginNonce.seen_at <= now - NONCE_MEMORY_S
        await session.execute(delete(LoginNonce).where(old))
        if await session.get(LoginNonce, nonce) is not None:
            raise Conflict("login request was used before: make a new one")
        session.add(LoginNonce(nonce=nonce, seen_at=now))

    async def _admit(
        self,
        session: AsyncSession,
        conflux: Conflux,
        request: LoginRequest,
        master_url: str,
        *,
        now: int,
    ) -> tuple[Session, Holding]:
        """Certify the keys of *request*; the session before ends, and what has other keys."""
        await confluxes.end_sessions(session, conflux.id, now=now, cut_at=now + REPLACED_SESSION_S)
        await _forget_old(session, now=now)
        plane = await confluxes.plane_of(session, conflux)
        unsigned = Certificate(
            serial=await _next_serial(session),
            conflux_id=conflux.id.bytes,
            plane_id=plane.id.bytes,
            sign_public=request.sign_public,
            kem_public=request.kem_public,
            addresses=conflux.addresses_in(plane),
            not_before=now,
            not_after=now + self._certificate_s,
            salt=secrets.token_bytes(SALT_BYTES),
        )
        certificate = await asyncio.to_thread(sign_certificate, self._signer, unsigned)
        session.add(
            CertificateRecord(
                serial=certificate.serial,
                conflux_id=conflux.id,
                plane_id=plane.id,
                encoded=certificate.encode(),
                not_before=certificate.not_before,
                not_after=certificate.not_after,
                revoked_at=None,
            )
        )
        await session.flush()
        login = Session(
            id=uuid4(),
            conflux_id=conflux.id,
            serial=certificate.serial,
            master_url=master_url,
            grant_digest=b"",
            started_at=now,
            ended_at=None,
            cut_at=None,
        )
        session.add(login)
        await session.flush()
        await revocations.revoke_dead(session, conflux.id, now=now)
        held = await teams.held(session, Conflux.id == conflux.id)
        holding = Holding(
            certificate=certificate,
            plane_name=plane.name,
            plane_key=plane.key,
            teams=team_keys(held.get(conflux.id, [])),
            master_url=master_url,
        )
        return login, holding

    async def logout(self, token: str, *, now: int) -> None:
        """End the session of *token*, and its keys with it; fine if that is done already.

        Raises Unauthorized.
        """
        claim = self._tokens.read("session", token, now=now)
        async with self._db.write() as session:
            login = await session.get(Session, claim.token_id)
            if login is None:
                raise Unauthorized("session is not known here: it ended long ago")
            await _end(session, login, now=now)

    async def unregister(self, token: str, *, now: int) -> None:
        """Remove the conflux of *token*. Raises Unauthorized."""
        self._tokens.read("conflux", token, now=now)
        async with self._db.write() as session:
            conflux = await confluxes.by_token(session, self._tokens, token, now=now)
            await confluxes.remove(session, conflux, now=now)


async def _end(session: AsyncSession, login: Session, *, now: int) -> None:
    login.ended_at = now if login.ended_at is None else login.ended_at
    login.cut_at = now if login.cut_at is None else min(login.cut_at, now)
    await session.flush()
    await revocations.revoke_dead(session, login.conflux_id, now=now)
    await bump_revision(session)


async def _next_serial(session: AsyncSession) -> int:
    state = (await session.execute(select(State))).scalar_one()
    state.serial += 1
    return state.serial


async def _forget_old(session: AsyncSession, *, now: int) -> None:
    old = CertificateRecord.not_after <= now - KEEP_RECORDS_S
    await session.execute(delete(CertificateRecord).where(old))


async def dead_users(session: AsyncSession, *, now: int) -> dict[int, int]:
    """Serials that the Master must turn away by *now*, each with when its session began."""
    query = (
        select(Session.serial, CertificateRecord.not_before)
        .join(CertificateRecord, CertificateRecord.serial == Session.serial)
        .where(Session.cut_at <= now, CertificateRecord.not_after > now)
    )
    return {row.serial: row.not_before for row in await session.execute(query)}
