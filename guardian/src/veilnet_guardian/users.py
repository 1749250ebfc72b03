"""Users: who they are, and that they are who they say."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian import names
from veilnet_guardian.errors import Conflict, Invalid, NotFound
from veilnet_guardian.keys import fresh_key
from veilnet_guardian.models import Team, User

if TYPE_CHECKING:
    from pwdlib import PasswordHash

MIN_PASSWORD_CHARS = 10
MAX_PASSWORD_CHARS = 1_024
_HASHES_AT_ONCE = 2
"""argon2 takes 64 MiB a call."""


@cache
def _hasher() -> PasswordHash:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


def hash_password(password: str) -> str:
    """Return argon2id's PHC string. Takes tens of milliseconds. Raises Invalid."""
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise Invalid(
            f"the password has {len(password)} characters: "
            f"take {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS}"
        )
    return _hasher().hash(password)


class PasswordCheck:
    """Checks passwords in worker threads, few at once."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._decoy: str | None = None

    async def matches(self, user: User | None, password: str) -> bool:
        """Tell whether *password* is *user*'s. An unknown user costs the same time as a known."""
        async with self._room:
            return await asyncio.to_thread(self._matches, user, password)

    def _matches(self, user: User | None, password: str) -> bool:
        if user is not None:
            return _hasher().verify(password, user.password_hash)
        if self._decoy is None:
            self._decoy = _hasher().hash("a password that nobody has")
        _hasher().verify(password, self._decoy)
        return False


async def add(session: AsyncSession, email: str, password_hash: str, *, now: int) -> User:
    """Add a user with the identity team of its own. Raises Invalid, Conflict."""
    email = names.email(email)
    if await find(session, email) is not None:
        raise Conflict(f"user {email} exists already")
    user = User(id=uuid4(), email=email, password_hash=password_hash, created_at=now)
    session.add(user)
    await session.flush()
    identity = Team(
        id=uuid4(),
        # No clash with a team that people made: those names have no colon.
        name=f"user:{email}",
        owner_id=user.id,
        identity=True,
        epoch=1,
        key=fresh_key(),
        created_at=now,
    )
    session.add(identity)
    await session.flush()
    return user


async def find(session: AsyncSession, email: str) -> User | None:
    query = select(User).where(User.email == email.strip().lower())
    return (await session.execute(query)).scalar_one_or_none()


async def get(session: AsyncSession, email: str) -> User:
    """Raises NotFound."""
    user = await find(session, email)
    if user is None:
        raise NotFound(f"there is no user {email[:80]}: add it with `veilnet-guardian user add`")
    return user
