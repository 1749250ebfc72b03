"""Conflux: what users do with them, and what nodes do for themselves."""

from __future__ import annotations

import base64
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from veilnet_guardian import confluxes, planes, registration, teams
from veilnet_guardian.models import Conflux, Plane
from veilnet_guardian.routes.common import (
    Body,
    ConfluxBearer,
    CurrentUser,
    RegistrationBearer,
    SessionBearer,
    Text,
    TheGuardian,
    refusals,
)

router = APIRouter(prefix="/conflux", tags=["conflux"])

MAX_TEAM_NAMES = 100


class Wanted(Body):
    tag: Text = Field(default="", description="A name for people; made up if empty.")
    cidr: Text = Field(
        default="",
        description="Address wanted, inside the plane; of a plane with two ranges one of each, "
        "parted by a comma. Where none is named, the next free one.",
    )
    teams: list[Text] = Field(default=[], max_length=MAX_TEAM_NAMES)
    portal: bool = False
    attempt: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_-]{22,128})?$",
        repr=False,
        description="A random value of your own. Repeat a request with it if the answer was lost: "
        "no second conflux is made, and what the first request made is returned, or replaced if "
        "this one asks for something else. Keep it secret until then.",
    )


class NewConflux(Wanted):
    plane: Text = Field(description="Name of a plane of yours or a common one.")


class Registered(BaseModel):
    conflux_id: UUID
    conflux_token: str = Field(
        description="Lives as long as the conflux. Shown to its maker alone."
    )
    tag: str
    plane: str
    address: str = Field(description="The first of `addresses`.")
    addresses: list[str] = Field(description="With the plane's prefix length, IPv4 first.")
    teams: list[str]
    ignored_teams: list[str] = Field(description="Unknown, or the user is no member of them.")


class ConfluxInfo(BaseModel):
    conflux_id: UUID
    tag: str
    plane: str
    address: str = Field(description="The first of `addresses`.")
    addresses: list[str] = Field(description="With the plane's prefix length, IPv4 first.")
    created_at: int = Field(description="Unix seconds.")


def _registered(made: confluxes.Registered) -> Registered:
    addresses = [str(address) for address in made.conflux.addresses_in(made.plane)]
    return Registered(
        conflux_id=made.conflux.id,
        conflux_token=made.token,
        tag=made.conflux.tag,
        plane=made.plane.name,
        address=addresses[0],
        addresses=addresses,
        teams=made.teams,
        ignored_teams=made.ignored_teams,
    )


def _info(conflux: Conflux, plane: Plane) -> ConfluxInfo:
    addresses = [str(address) for address in conflux.addresses_in(plane)]
    return ConfluxInfo(
        conflux_id=conflux.id,
        tag=conflux.tag,
        plane=plane.name,
        address=addresses[0],
        addresses=addresses,
        created_at=conflux.created_at,
    )


@router.post("/register", responses=refusals(409))
async def register(guardian: TheGuardian, token: RegistrationBearer, wanted: Wanted) -> Registered:
    """Turn a registration token into a conflux with a token and an address of its own."""
    confluxes.refuse_portal(wanted.portal)
    async with guardian.db.read() as session:
        # Whoever has no token is not to keep the writers waiting.
        await registration.redeem(session, token, now=guardian.now())
    async with guardian.db.write() as session:
        user, plane = await registration.redeem(session, token, now=guardian.now())
        made = await confluxes.create(
            session,
            guardian.keys.tokens,
            user,
            plane,
            tag=wanted.tag,
            cidr=wanted.cidr,
            team_names=wanted.teams,
            attempt=wanted.attempt,
            limit=guardian.max_conflux,
            now=guardian.now(),
        )
    return _registered(made)


@router.delete("/unregister", status_code=204, responses=refusals())
async def unregister(guardian: TheGuardian, token: ConfluxBearer) -> None:
    """Give the conflux of this token and its address back."""
    await guardian.logins.unregister(token, now=guardian.now())


class SessionMade(BaseModel):
    session: str = Field(description="Session token, for the logout.")
    grant: str = Field(description="Sealed grant (docs/protocol/login.md §3), base64.")


@router.post(
    "/session/login",
    responses=refusals(400, 409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A signed LoginRequest (docs/protocol/login.md §2).",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def log_in(guardian: TheGuardian, token: ConfluxBearer, request: Request) -> SessionMade:
    """Exchange a signed login request for a session and the sealed grant.

    A session of the same conflux that is still open ends.
    """
    answer = await guardian.logins.login(
        token,
        await request.body(),
        master_url=guardian.master_url(request.headers.get("host", "")),
        wall=guardian.wall(),
    )
    return SessionMade(session=answer.session, grant=base64.b64encode(answer.sealed).decode())


@router.post("/session/logout", status_code=204, responses=refusals())
async def log_out(guardian: TheGuardian, token: SessionBearer) -> None:
    """End a session and revoke its certificate."""
    await guardian.logins.logout(token, now=guardian.now())


@router.post("", status_code=201, responses=refusals(404, 409))
async def create_conflux(
    guardian: TheGuardian, user: CurrentUser, wanted: NewConflux
) -> Registered:
    """Create a conflux of yours without a registration token, for `veilnet-conflux up`."""
    confluxes.refuse_portal(wanted.portal)
    async with guardian.db.write() as session:
        made = await confluxes.create(
            session,
            guardian.keys.tokens,
            user,
            await planes.get(session, wanted.plane, user=user),
            tag=wanted.tag,
            cidr=wanted.cidr,
            team_names=wanted.teams,
            attempt=wanted.attempt,
            limit=guardian.max_conflux,
            now=guardian.now(),
        )
    return _registered(made)


@router.get("", responses=refusals(404))
async def get_conflux(guardian: TheGuardian, user: CurrentUser, conflux: Text) -> ConfluxInfo:
    """Show a conflux of yours, named by its id or its tag."""
    async with guardian.db.read() as session:
        found = await confluxes.find(session, conflux, user=user)
        return _info(found, await confluxes.plane_of(session, found))


@router.delete("", status_code=204, responses=refusals(404))
async def delete_conflux(guardian: TheGuardian, user: CurrentUser, conflux: Text) -> None:
    """Remove a conflux of yours: its session ends at once, and the teams it held get new keys."""
    async with guardian.db.write() as session:
        found = await confluxes.find(session, conflux, user=user)
        await confluxes.remove(session, found, now=guardian.now())


@router.get("/list", responses=refusals())
async def list_conflux(guardian: TheGuardian, user: CurrentUser) -> list[ConfluxInfo]:
    """List your conflux."""
    async with guardian.db.read() as session:
        return [_info(conflux, plane) for conflux, plane in await confluxes.list_for(session, user)]


class Attachment(Body):
    conflux: Text = Field(description="Id or tag of a conflux of yours.")
    team: Text = Field(description="Name of a team of which you are owner or member.")


@router.post("/team", status_code=204, responses=refusals(404, 409))
async def attach_team(guardian: TheGuardian, user: CurrentUser, wanted: Attachment) -> None:
    """Attach a team to a conflux. A running one has it within a second."""
    async with guardian.db.write() as session:
        team = await teams.get(session, wanted.team, user=user)
        found = await confluxes.find(session, wanted.conflux, user=user)
        await teams.attach(session, team, found)


@router.delete("/team", status_code=204, responses=refusals(404))
async def detach_team(guardian: TheGuardian, user: CurrentUser, conflux: Text, team: Text) -> None:
    """Detach a team from a conflux of yours, or a team that you own from any that has it.

    All that still hold the team get a new key.
    """
    async with guardian.db.write() as session:
        found_team = await teams.get(session, team, user=user)
        owned = found_team if found_team.owner_id == user.id else None
        found = await confluxes.find(session, conflux, user=user, holding=owned)
        await teams.detach(session, found_team, found)


@router.get("/team/list", responses=refusals(404))
async def list_conflux_teams(guardian: TheGuardian, user: CurrentUser, conflux: Text) -> list[str]:
    """List the teams attached to a conflux of yours."""
    async with guardian.db.read() as session:
        found = await confluxes.find(session, conflux, user=user)
        return [team.name for team in await teams.attached_to(session, found)]
