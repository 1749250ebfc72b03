"""Users' logins and their registration tokens."""

from __future__ import annotations

from uuid import UUID, uuid4

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from veilnet_guardian import planes, registration, users
from veilnet_guardian.errors import Unauthorized
from veilnet_guardian.limiter import login_keys
from veilnet_guardian.routes.common import Body, CurrentUser, Text, TheGuardian, refusals
from veilnet_guardian.tokens import USER_TOKEN_S

router = APIRouter(prefix="/auth", tags=["auth"])


class Login(Body):
    email: Text
    password: str = Field(max_length=users.MAX_PASSWORD_CHARS, repr=False)


class LoggedIn(BaseModel):
    token: str = Field(description="User token, a JWT.")
    expires_at: int = Field(description="Unix seconds.")


@router.post("/login", responses=refusals(429))
async def log_in(guardian: TheGuardian, request: Request, login: Login) -> LoggedIn:
    """Exchange e-mail address and password for a user token that lives an hour."""
    now, email = guardian.now(), login.email.strip().lower()
    keys = login_keys(email, request.client.host if request.client else "")
    guardian.limiter.check(keys, now=guardian.monotonic())
    # Counted before the slow check and forgotten if it passes: guesses side by side count too.
    guardian.limiter.failed(keys, now=guardian.monotonic())
    async with guardian.db.read() as session:
        user = await users.find(session, email)
    if not await guardian.passwords.matches(user, login.password) or user is None:
        raise Unauthorized("e-mail address or password is wrong: try again")
    guardian.limiter.passed(keys)
    token = guardian.keys.tokens.issue(
        "user", user.id, token_id=uuid4(), now=now, lifetime_s=USER_TOKEN_S
    )
    return LoggedIn(token=token, expires_at=now + USER_TOKEN_S)


class NewRegistrationToken(Body):
    plane: Text = Field(description="Name of a plane of yours or a common one.")
    days: int = Field(default=registration.DEFAULT_DAYS, ge=1, le=registration.MAX_DAYS)


class RegistrationTokenInfo(BaseModel):
    id: UUID
    plane: str
    created_at: int = Field(description="Unix seconds.")
    expires_at: int = Field(description="Unix seconds.")
    revoked_at: int | None = Field(description="Unix seconds; null while it is good.")


class RegistrationTokenMade(RegistrationTokenInfo):
    token: str = Field(description="Shown this once; Guardian keeps a hash only.")


@router.post("/create/registration-token", status_code=201, responses=refusals(404))
async def create_registration_token(
    guardian: TheGuardian, user: CurrentUser, wanted: NewRegistrationToken
) -> RegistrationTokenMade:
    """Make a token with which any number of conflux can register as yours until it expires."""
    async with guardian.db.write() as session:
        plane = await planes.get(session, wanted.plane, user=user)
        token, record = await registration.create(
            session, guardian.keys.tokens, user, plane, days=wanted.days, now=guardian.now()
        )
    return RegistrationTokenMade(
        token=token,
        id=record.id,
        plane=plane.name,
        created_at=record.created_at,
        expires_at=record.expires_at,
        revoked_at=None,
    )


@router.delete("/revoke/registration-token", status_code=204, responses=refusals(404))
async def revoke_registration_token(guardian: TheGuardian, user: CurrentUser, id: UUID) -> None:  # noqa: A002  # the query parameter's name
    """Make a token useless. What registered with it stays."""
    async with guardian.db.write() as session:
        await registration.revoke(session, id, user, now=guardian.now())


@router.get("/list/registration-token", responses=refusals())
async def list_registration_tokens(
    guardian: TheGuardian, user: CurrentUser
) -> list[RegistrationTokenInfo]:
    """List your tokens, expired and revoked ones too."""
    async with guardian.db.read() as session:
        found = await registration.list_for(session, user)
    return [
        RegistrationTokenInfo(
            id=record.id,
            plane=plane,
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
        )
        for record, plane in found
    ]
