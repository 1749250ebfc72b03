"""Teams: who may attach one, what holds one, and the new key that every removal brings.

Whatever leaves a team has seen its key. So each removal starts a new epoch with a fresh key, which
only those get that still hold the team.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Table, delete, func, insert, join, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian import names
from veilnet_guardian.database import bump_revision
from veilnet_guardian.errors import Conflict, Forbidden, Invalid, NotFound
from veilnet_guardian.keys import fresh_key
from veilnet_guardian.lookup import look_up
from veilnet_guardian.models import (
    Conflux,
    Invitation,
    Plane,
    Team,
    User,
    team_conflux,
    team_members,
    team_planes,
    team_users,
)
from veilnet_guardian.tokens import invitation, token_hash

INVITATION_S = 7 * 86_400

MAX_TEAMS = 100
"""On one conflux, user or plane: a grant with all of them stays well below 64 KiB."""

Holder = Conflux | User | Plane
"""What a team can be attached to."""


async def create(session: AsyncSession, name: str, owner: User, *, now: int) -> Team:
    """Raises Invalid, Conflict."""
    name = names.name(name, of="team name")
    taken = (Team.name == name) & (Team.owner_id == owner.id)
    if (await session.execute(select(Team.id).where(taken))).first():
        raise Conflict(f"team {name} exists already: take another name")
    team = Team(
        id=uuid4(),
        name=name,
        owner_id=owner.id,
        identity=False,
        epoch=1,
        key=fresh_key(),
        created_at=now,
    )
    session.add(team)
    await session.flush()
    return team


async def get(session: AsyncSession, name: str, *, user: User | None = None) -> Team:
    """Return a team of which *user* is owner or member; any for an operator (None).

    *name* may be its id. Raises NotFound, which does not tell whether somebody else has such a
    team, and Invalid if several are called so.
    """
    visible: ColumnElement[bool] = Team.identity.is_(False)
    if user is not None:
        visible &= _open_to(user)
    return await look_up(session, Team, name, visible=visible, user=user)


async def get_owned(session: AsyncSession, name: str, user: User) -> Team:
    """Raises NotFound, and Forbidden for a mere member."""
    team = await get(session, name, user=user)
    if team.owner_id != user.id:
        raise Forbidden(f"only the owner of team {name} can do this")
    return team


async def list_for(session: AsyncSession, user: User) -> list[Team]:
    query = (
        select(Team).where(Team.identity.is_(False), _open_to(user)).order_by(Team.name, Team.id)
    )
    return list((await session.execute(query)).scalars())


async def members(session: AsyncSession, team: Team) -> list[str]:
    """E-mail addresses of all that may attach *team*, its owner first."""
    owner = (await session.execute(select(User.email).where(User.id == team.owner_id))).scalar_one()
    query = (
        select(User.email)
        .join(team_members, team_members.c.user_id == User.id)
        .where(team_members.c.team_id == team.id)
        .order_by(User.email)
    )
    return [owner, *(await session.execute(query)).scalars()]


async def add_member(session: AsyncSession, team: Team, user: User) -> bool:
    """Let *user* attach *team*; False if it may already."""
    if user.id == team.owner_id:
        return False
    return await _link(session, team_members, team.id, user.id)


async def remove_member(session: AsyncSession, team: Team, user: User) -> None:
    """Take *user* out of *team*, and the team off all that is the user's. Raises NotFound."""
    if user.id == team.owner_id:
        raise Invalid(f"{user.email} owns team {team.name}: delete the team instead")
    if not await _unlink(session, team_members, team.id, [user.id]):
        raise NotFound(f"{user.email} is no member of team {team.name}")
    own_conflux = select(Conflux.id).where(Conflux.user_id == user.id)
    own_planes = select(Plane.id).where(Plane.owner_id == user.id)
    for table, ids in (
        (team_conflux, list((await session.execute(own_conflux)).scalars())),
        (team_planes, list((await session.execute(own_planes)).scalars())),
        (team_users, [user.id]),
    ):
        await _unlink(session, table, team.id, ids)
    await _new_epoch(session, [team])


async def attach(session: AsyncSession, team: Team, holder: Holder) -> bool:
    """Give *holder* the team's key; False if it holds it already.

    Raises Conflict, and then the transaction must not be kept.
    """
    table = _table(holder)
    if not await _link(session, table, team.id, holder.id):
        return False
    _, column = table.primary_key.columns
    count = select(func.count()).select_from(table).where(column == holder.id)
    if (await session.execute(count)).scalar_one() > MAX_TEAMS:
        raise Conflict(f"there are {MAX_TEAMS} teams attached already: detach one first")
    await bump_revision(session)
    return True


async def detach(session: AsyncSession, team: Team, holder: Holder) -> None:
    """Take the team from *holder*; all others get a new key. Raises NotFound."""
    if not await _unlink(session, _table(holder), team.id, [holder.id]):
        raise NotFound(f"team {team.name} is not attached there: nothing to detach")
    await _new_epoch(session, [team])


async def held(session: AsyncSession, which: ColumnElement[bool]) -> dict[UUID, list[Team]]:
    """Of each conflux that *which* selects: all teams whose keys it has, by name, none twice."""
    own = join(team_conflux, Team, team_conflux.c.team_id == Team.id)
    of_plane = join(team_planes, Team, team_planes.c.team_id == Team.id)
    of_user = join(team_users, Team, team_users.c.team_id == Team.id)
    found: dict[UUID, dict[UUID, Team]] = {}
    for source, link in (
        (own, team_conflux.c.conflux_id == Conflux.id),
        (of_plane, team_planes.c.plane_id == Conflux.plane_id),
        (of_user, team_users.c.user_id == Conflux.user_id),
        (Team, (Team.owner_id == Conflux.user_id) & Team.identity.is_(True)),
    ):
        query = select(Conflux.id, Team).select_from(Conflux).join(source, link).where(which)
        for conflux_id, team in await session.execute(query):
            found.setdefault(conflux_id, {})[team.id] = team
    return {
        conflux_id: sorted(by_id.values(), key=lambda team: (team.name, team.id))
        for conflux_id, by_id in found.items()
    }


async def attached_to(session: AsyncSession, conflux: Conflux) -> list[Team]:
    """The teams of *conflux*'s own."""
    query = (
        select(Team)
        .join(team_conflux, team_conflux.c.team_id == Team.id)
        .where(team_conflux.c.conflux_id == conflux.id)
        .order_by(Team.name, Team.id)
    )
    return list((await session.execute(query)).scalars())


async def outdate(session: AsyncSession, conflux: Conflux) -> None:
    """Start new epochs of all that *conflux*, which is about to go, has the keys of."""
    everything = await held(session, Conflux.id == conflux.id)
    await _new_epoch(session, everything.get(conflux.id, []))


async def remove(session: AsyncSession, team: Team) -> None:
    """Delete *team*: whatever held it loses it."""
    await session.delete(team)
    await bump_revision(session)


async def invite(session: AsyncSession, team: Team, email: str, *, now: int) -> tuple[str, int]:
    """Return an invitation's token, for its inviter to pass on, and when it ends.

    Raises Invalid. Whether *email* is a user of this Guardian is not told.
    """
    token, hashed = invitation()
    expires_at = now + INVITATION_S
    email = names.email(email)
    stale = or_(
        Invitation.expires_at <= now,
        (Invitation.team_id == team.id) & (Invitation.email == email),
    )
    await session.execute(delete(Invitation).where(stale))
    session.add(
        Invitation(
            id=uuid4(), team_id=team.id, email=email, token_hash=hashed, expires_at=expires_at
        )
    )
    return token, expires_at


async def accept(session: AsyncSession, token: str, user: User, *, now: int) -> Team:
    """Make *user* a member by an invitation made out to it. Raises NotFound."""
    hashed = token_hash(token)
    query = select(Invitation).where(Invitation.token_hash == hashed)
    found = (await session.execute(query)).scalar_one_or_none()
    usable = (
        found is not None
        and hmac.compare_digest(found.token_hash, hashed)
        and found.email == user.email
        and found.expires_at > now
    )
    if found is None or not usable:
        raise NotFound("the invitation is wrong, used, out of date or for another user: ask anew")
    team = (await session.execute(select(Team).where(Team.id == found.team_id))).scalar_one()
    await session.delete(found)
    await add_member(session, team, user)
    return team


def _open_to(user: User) -> ColumnElement[bool]:
    mine = select(team_members.c.team_id).where(team_members.c.user_id == user.id)
    return or_(Team.owner_id == user.id, Team.id.in_(mine))


def _table(holder: Holder) -> Table:
    if isinstance(holder, Conflux):
        return team_conflux
    return team_users if isinstance(holder, User) else team_planes


async def _link(session: AsyncSession, table: Table, team_id: UUID, other: UUID) -> bool:
    _, column = table.primary_key.columns
    query = select(column).where(table.c.team_id == team_id, column == other)
    if (await session.execute(query)).first():
        return False
    await session.execute(insert(table).values({"team_id": team_id, column.name: other}))
    return True


async def _unlink(session: AsyncSession, table: Table, team_id: UUID, others: list[UUID]) -> bool:
    _, column = table.primary_key.columns
    doomed = (table.c.team_id == team_id) & column.in_(others)
    found = (await session.execute(select(column).where(doomed))).first()
    await session.execute(delete(table).where(doomed))
    return found is not None


async def _new_epoch(session: AsyncSession, teams: Iterable[Team]) -> None:
    for team in teams:
        team.epoch += 1
        team.key = fresh_key()
    await session.flush()
    await bump_revision(session)
