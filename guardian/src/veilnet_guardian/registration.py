"""Registration tokens: what lets a new conflux in."""

from __future__ import annotations

import hmac
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian.errors import Invalid, NotFound, Unauthorized
from veilnet_guardian.models import Plane, RegistrationToken, User
from veilnet_guardian.tokens import Tokens, token_hash

DEFAULT_DAYS = 30
MAX_DAYS = 3_650


async def create(
    session: AsyncSession, tokens: Tokens, user: User, plane: Plane, *, days: int, now: int
) -> tuple[str, RegistrationToken]:
    """Return the token, which is never shown again, and its record. Raises Invalid."""
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"a registration token cannot live {days} days: take 1 to {MAX_DAYS}")
    token, hashed = tokens.registration()
    record = RegistrationToken(
        id=uuid4(),
        token_hash=hashed,
        user_id=user.id,
        plane_id=plane.id,
        created_at=now,
        expires_at=now + days * 86_400,
        revoked_at=None,
    )
    session.add(record)
    await session.flush()
    return token, record


async def redeem(session: AsyncSession, token: str, *, now: int) -> tuple[User, Plane]:
    """Return whom *token* registers for, and where. Raises Unauthorized saying what is wrong.

    Only the bearer of the 32 random bytes learns more than that the token is unknown.
    """
    hashed = token_hash(token)
    query = (
        select(RegistrationToken, User, Plane)
        .join(User, User.id == RegistrationToken.user_id)
        .join(Plane, Plane.id == RegistrationToken.plane_id)
        .where(RegistrationToken.token_hash == hashed)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None or not hmac.compare_digest(found[0].token_hash, hashed):
        raise Unauthorized("registration token is wrong: copy it again or create a new one")
    record, user, plane = found
    if record.revoked_at is not None:
        raise Unauthorized("registration token was revoked: create a new one")
    if record.expires_at <= now:
        raise Unauthorized("registration token has expired: create a new one")
    return user, plane


async def revoke(session: AsyncSession, token_id: UUID, user: User, *, now: int) -> None:
    """Make a token of *user*'s useless; fine if it is already. Raises NotFound."""
    record = await session.get(RegistrationToken, token_id)
    if record is None or record.user_id != user.id:
        raise NotFound("there is no such registration token: list them to see their ids")
    if record.revoked_at is None:
        record.revoked_at = now


async def list_for(session: AsyncSession, user: User) -> list[tuple[RegistrationToken, str]]:
    """*user*'s tokens, each with the name of its plane."""
    query = (
        select(RegistrationToken, Plane.name)
        .join(Plane, Plane.id == RegistrationToken.plane_id)
        .where(RegistrationToken.user_id == user.id)
        .order_by(RegistrationToken.created_at, RegistrationToken.id)
    )
    return [(record, name) for record, name in (await session.execute(query)).all()]
