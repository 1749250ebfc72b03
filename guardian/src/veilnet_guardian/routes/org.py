"""Teams, their members and invitations."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian import teams, users
from veilnet_guardian.errors import NotFound
from veilnet_guardian.models import Team, User
from veilnet_guardian.routes.common import Body, CurrentUser, Text, TheGuardian, refusals

router = APIRouter(prefix="/org/team", tags=["org"])


class NewTeam(Body):
    name: Text = Field(description="Unique among your own.")


class TeamInfo(BaseModel):
    id: UUID
    name: str
    own: bool
    epoch: int = Field(description="Grows with each removal; every epoch has a key of its own.")
    members: list[str] = Field(description="E-mail addresses, the owner's first.")


async def _info(session: AsyncSession, team: Team, user: User) -> TeamInfo:
    return TeamInfo(
        id=team.id,
        name=team.name,
        own=team.owner_id == user.id,
        epoch=team.epoch,
        members=await teams.members(session, team),
    )


@router.post("", status_code=201, responses=refusals(409))
async def create_team(guardian: TheGuardian, user: CurrentUser, wanted: NewTeam) -> TeamInfo:
    """Create a team that you own."""
    async with guardian.db.write() as session:
        team = await teams.create(session, wanted.name, user, now=guardian.now())
        return await _info(session, team, user)


@router.get("", responses=refusals(404))
async def get_team(guardian: TheGuardian, user: CurrentUser, name: Text) -> TeamInfo:
    """Show a team of which you are owner or member."""
    async with guardian.db.read() as session:
        return await _info(session, await teams.get(session, name, user=user), user)


@router.delete("", status_code=204, responses=refusals(403, 404))
async def delete_team(guardian: TheGuardian, user: CurrentUser, name: Text) -> None:
    """Delete a team that you own: whatever holds it loses it."""
    async with guardian.db.write() as session:
        await teams.remove(session, await teams.get_owned(session, name, user))


@router.get("/list", responses=refusals())
async def list_teams(guardian: TheGuardian, user: CurrentUser) -> list[TeamInfo]:
    """List the teams of which you are owner or member."""
    async with guardian.db.read() as session:
        return [await _info(session, team, user) for team in await teams.list_for(session, user)]


class NewInvitation(Body):
    team: Text
    email: Text = Field(description="Of the user to invite.")


class InvitationMade(BaseModel):
    token: str = Field(description="Pass it on to the invited user. Shown this once.")
    expires_at: int = Field(description="Unix seconds.")


@router.post("/invite", status_code=201, responses=refusals(403, 404))
async def invite(guardian: TheGuardian, user: CurrentUser, wanted: NewInvitation) -> InvitationMade:
    """Invite a user into a team that you own. An earlier invitation of the same user ends."""
    async with guardian.db.write() as session:
        team = await teams.get_owned(session, wanted.team, user)
        token, expires_at = await teams.invite(session, team, wanted.email, now=guardian.now())
    return InvitationMade(token=token, expires_at=expires_at)


class Acceptance(Body):
    token: Text = Field(repr=False)


@router.post("/invite/accept", responses=refusals(404))
async def accept_invitation(
    guardian: TheGuardian, user: CurrentUser, accepted: Acceptance
) -> TeamInfo:
    """Become a member: from then on you can attach the team to conflux of your own."""
    async with guardian.db.write() as session:
        team = await teams.accept(session, accepted.token, user, now=guardian.now())
        return await _info(session, team, user)


@router.delete("/member", status_code=204, responses=refusals(403, 404))
async def remove_member(guardian: TheGuardian, user: CurrentUser, team: Text, email: Text) -> None:
    """Remove a member from a team that you own, or leave a team.

    The team is detached from all that is the member's, and gets a new key.
    """
    async with guardian.db.write() as session:
        member = await users.find(session, email)
        leaves = member is not None and member.id == user.id
        found = (
            await teams.get(session, team, user=user)
            if leaves
            else await teams.get_owned(session, team, user)
        )
        if member is None:
            raise NotFound(f"{email[:80]} is no member of team {found.name}")
        await teams.remove_member(session, found, member)
