"""Conflux: how one comes to be, is found, and goes."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian import names, planes, revocations, teams
from veilnet_guardian.errors import Conflict, Invalid, NotFound, Unauthorized
from veilnet_guardian.models import (
    Conflux,
    Plane,
    Session,
    Team,
    User,
    team_conflux,
)
from veilnet_guardian.settings import MAX_CONFLUX
from veilnet_guardian.tokens import Tokens, token_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A new conflux, its token, and what became of its teams."""

    conflux: Conflux
    plane: Plane
    token: str
    teams: list[str]
    ignored_teams: list[str]


async def create(
    session: AsyncSession,
    tokens: Tokens,
    user: User,
    plane: Plane,
    *,
    tag: str = "",
    cidr: str = "",
    team_names: Iterable[str] = (),
    attempt: str = "",
    limit: int = MAX_CONFLUX,
    now: int,
) -> Registered:
    """Add a conflux of *user* in *plane*. Teams that the user cannot attach are ignored.

    *cidr*: the addresses that it shall have, parted by a comma. *attempt*: a random value of the
    asker's own; a request that repeats one gets what the first one made, and one that asks for
    something else under it replaces that. Raises Invalid or Conflict for the tag, an address, a
    team, or if *user* has *limit* conflux already.
    """
    names_once = list(dict.fromkeys(team_names))
    asked = _digest_of(plane, tag, cidr, names_once)
    conflux = await _made_by(session, user, attempt) if attempt else None
    if conflux is not None and conflux.asked != asked:
        await remove(session, conflux, now=now)
        await session.flush()
        conflux = None
    if conflux is None:
        await _check_room(session, user, limit)
        conflux = await _add(session, user, plane, tag, cidr, now=now)
        conflux.attempt, conflux.asked = token_hash(attempt) if attempt else None, asked
    attached, ignored = await _attach(session, user, conflux, names_once)
    # The same for the same conflux, each time.
    token = tokens.issue("conflux", conflux.id, token_id=conflux.token_id, now=conflux.created_at)
    return Registered(
        conflux=conflux, plane=plane, token=token, teams=attached, ignored_teams=ignored
    )


async def _add(
    session: AsyncSession, user: User, plane: Plane, tag: str, cidr: str, *, now: int
) -> Conflux:
    conflux_id = uuid4()
    addresses = await planes.allocate(session, plane, cidr)
    conflux = Conflux(
        id=conflux_id,
        tag=names.name(tag, of="tag") if tag else f"conflux-{conflux_id.hex[:8]}",
        user_id=user.id,
        plane_id=plane.id,
        address4=str(addresses[4]) if 4 in addresses else None,
        address6=str(addresses[6]) if 6 in addresses else None,
        token_id=uuid4(),
        created_at=now,
    )
    session.add(conflux)
    await session.flush()
    return conflux


async def _attach(
    session: AsyncSession, user: User, conflux: Conflux, team_names: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Attach the teams that *user* may attach; return their names, and the others'."""
    attached, ignored = [], []
    for name in team_names:
        try:
            await teams.attach(session, await teams.get(session, name, user=user), conflux)
        except NotFound:
            ignored.append(name)
        else:
            attached.append(name)
    return attached, ignored


def _digest_of(plane: Plane, tag: str, cidr: str, team_names: Sequence[str]) -> bytes:
    asked = json.dumps([str(plane.id), tag, cidr, team_names])
    return hashlib.sha256(asked.encode()).digest()


async def _made_by(session: AsyncSession, user: User, attempt: str) -> Conflux | None:
    mine = (Conflux.user_id == user.id) & (Conflux.attempt == token_hash(attempt))
    return (await session.execute(select(Conflux).where(mine))).scalar_one_or_none()


async def _check_room(session: AsyncSession, user: User, limit: int) -> None:
    count = select(func.count()).select_from(Conflux).where(Conflux.user_id == user.id)
    if (await session.execute(count)).scalar_one() >= limit:
        raise Conflict(
            f"this user has {limit} conflux already, as many as this Guardian allows: unregister "
            "one, or let its operator raise --max-conflux"
        )


def refuse_portal(portal: bool) -> None:
    """Raises Invalid if *portal* is asked for."""
    if portal:
        raise Invalid("portal mode is not available yet: register without it")


async def plane_of(session: AsyncSession, conflux: Conflux) -> Plane:
    query = select(Plane).where(Plane.id == conflux.plane_id)
    return (await session.execute(query)).scalar_one()


async def by_token(session: AsyncSession, tokens: Tokens, token: str, *, now: int) -> Conflux:
    """Return the conflux that *token* stands for. Raises Unauthorized."""
    claim = tokens.read("conflux", token, now=now)
    conflux = await session.get(Conflux, claim.subject)
    if conflux is None or not hmac.compare_digest(conflux.token_id.bytes, claim.token_id.bytes):
        raise Unauthorized("conflux token is no longer good: register this conflux again")
    return conflux


async def find(
    session: AsyncSession, id_or_tag: str, *, user: User | None = None, holding: Team | None = None
) -> Conflux:
    """Return the conflux of that id, or of that tag if no other has it. Raises NotFound, Invalid.

    With *user*, only that user's own are looked at, and any that have the team *holding*.
    """
    query = select(Conflux)
    try:
        query = query.where(Conflux.id == UUID(id_or_tag))
    except ValueError:
        query = query.where(Conflux.tag == id_or_tag)
    if user is not None:
        visible = Conflux.user_id == user.id
        if holding is not None:
            attached = select(team_conflux.c.conflux_id).where(team_conflux.c.team_id == holding.id)
            visible |= Conflux.id.in_(attached)
        query = query.where(visible)
    found = list((await session.execute(query.limit(2))).scalars())
    if not found:
        raise NotFound(f"there is no conflux {id_or_tag[:80]}: check its id or tag")
    if len(found) > 1:
        raise Invalid(f"several conflux have the tag {id_or_tag}: name one by its id")
    return found[0]


async def list_for(session: AsyncSession, user: User) -> list[tuple[Conflux, Plane]]:
    query = (
        select(Conflux, Plane)
        .join(Plane, Plane.id == Conflux.plane_id)
        .where(Conflux.user_id == user.id)
        .order_by(Plane.name, Conflux.tag, Conflux.id)
    )
    return [(conflux, plane) for conflux, plane in (await session.execute(query)).all()]


async def remove(session: AsyncSession, conflux: Conflux, *, now: int) -> None:
    """Delete *conflux*, free its address, cut its session and take its keys out of use."""
    await end_sessions(session, conflux.id, now=now, cut_at=now)
    await revocations.revoke_dead(session, conflux.id, now=now)
    await teams.outdate(session, conflux)
    await session.delete(conflux)


async def end_sessions(session: AsyncSession, conflux_id: UUID, *, now: int, cut_at: int) -> None:
    """End every session of a conflux.

    The Master turns the sessions' credentials away from *cut_at* on.
    """
    mine = Session.conflux_id == conflux_id
    await session.execute(
        update(Session).where(mine, Session.ended_at.is_(None)).values(ended_at=now)
    )
    late = mine & (Session.cut_at.is_(None) | (Session.cut_at > cut_at))
    await session.execute(update(Session).where(late).values(cut_at=cut_at))
