"""Planes and teams by what people call them: a name, or the id where a name does not tell.

Names belong to their owners. Two users may use the same one and never learn of each other.
"""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian.errors import Invalid, NotFound
from veilnet_guardian.models import Plane, Team, User

T = TypeVar("T", Plane, Team)

MAX_NAMED = 5


async def look_up(
    session: AsyncSession,
    kind: type[T],
    name_or_id: str,
    *,
    visible: ColumnElement[bool],
    user: User | None,
) -> T:
    """Return the one of *visible* that is called so: *user*'s own, else a common one, else another.

    Raises NotFound, and Invalid where several are left.
    """
    word = "plane" if kind is Plane else "team"
    try:
        which = kind.id == UUID(name_or_id)
    except ValueError:
        which = kind.name == name_or_id
    query = select(kind, User.email).outerjoin(User, User.id == kind.owner_id)
    rows = (await session.execute(query.where(which, visible).order_by(User.email))).all()
    found = [(row[0], row[1]) for row in rows]
    if user is not None:
        own = [(one, email) for one, email in found if one.owner_id == user.id]
        common = [(one, email) for one, email in found if one.owner_id is None]
        found = own or common or found
    if not found:
        raise NotFound(f"there is no {word} {name_or_id[:80]}: create it or check its name")
    if len(found) > 1:
        ids = ", ".join(f"{one.id} of {email or 'all'}" for one, email in found[:MAX_NAMED])
        raise Invalid(f"several {word}s are called {name_or_id[:80]}: name one by its id, {ids}")
    return found[0][0]
