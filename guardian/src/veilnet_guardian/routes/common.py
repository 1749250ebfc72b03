"""What endpoints need: Guardian, the bearer token, the user behind it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from veilnet_guardian.context import Guardian
from veilnet_guardian.errors import Unauthorized
from veilnet_guardian.models import User


def _without_nul(value: str) -> str:
    """No name has one, and PostgreSQL takes it as part of no text."""
    if "\0" in value:
        raise PydanticCustomError("nul", "a NUL character cannot be used: leave it out")
    return value


Text = Annotated[str, Field(max_length=300), AfterValidator(_without_nul)]


class Body(BaseModel):
    """A request's JSON. Unknown fields are refused: a misspelt one would be lost silently."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Every error."""

    detail: str = Field(description="One line on what is wrong and what to do.")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint that can refuse with *statuses*."""
    return {status: {"model": Problem} for status in sorted({*statuses, 401, 422})}


def guardian_of(request: Request) -> Guardian:
    guardian: Guardian = request.app.state.guardian
    return guardian


TheGuardian = Annotated[Guardian, Depends(guardian_of)]

_user_bearer = HTTPBearer(
    auto_error=False, scheme_name="User token", description="From POST /auth/login."
)
_registration_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="Registration token",
    description="From POST /auth/create/registration-token.",
)
_conflux_bearer = HTTPBearer(
    auto_error=False, scheme_name="Conflux token", description="From POST /conflux/register."
)
_session_bearer = HTTPBearer(
    auto_error=False, scheme_name="Session token", description="From POST /conflux/session/login."
)


def _token(found: HTTPAuthorizationCredentials | None, kind: str) -> str:
    if found is None or not found.credentials:
        raise Unauthorized(f"no {kind} token: send it as `Authorization: Bearer ...`")
    return found.credentials


def _registration_token(
    found: Annotated[HTTPAuthorizationCredentials | None, Depends(_registration_bearer)],
) -> str:
    return _token(found, "registration")


def _conflux_token(
    found: Annotated[HTTPAuthorizationCredentials | None, Depends(_conflux_bearer)],
) -> str:
    return _token(found, "conflux")


def _session_token(
    found: Annotated[HTTPAuthorizationCredentials | None, Depends(_session_bearer)],
) -> str:
    return _token(found, "session")


async def _user(
    guardian: TheGuardian,
    found: Annotated[HTTPAuthorizationCredentials | None, Depends(_user_bearer)],
) -> User:
    claim = guardian.keys.tokens.read("user", _token(found, "user"), now=guardian.now())
    async with guardian.db.read() as session:
        user = await session.get(User, claim.subject)
    if user is None:
        raise Unauthorized("the user of this token is gone: log in as another")
    return user


RegistrationBearer = Annotated[str, Depends(_registration_token)]
ConfluxBearer = Annotated[str, Depends(_conflux_token)]
SessionBearer = Annotated[str, Depends(_session_token)]
CurrentUser = Annotated[User, Depends(_user)]
