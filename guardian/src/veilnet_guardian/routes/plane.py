"""Planes."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from veilnet_guardian import planes
from veilnet_guardian.models import Plane, User
from veilnet_guardian.routes.common import Body, CurrentUser, Text, TheGuardian, refusals

router = APIRouter(prefix="/plane", tags=["plane"])


class NewPlane(Body):
    name: Text
    cidr: Text = Field(
        description="Address range, IPv4 or IPv6, such as 10.8.0.0/24; or one of each, "
        "parted by a comma: 10.8.0.0/24,fd00:8::/64."
    )


class PlaneInfo(BaseModel):
    id: UUID
    name: str
    cidr: str = Field(description="As in the request, IPv4 first.")
    common: bool = Field(description="Open to every user of this Guardian.")
    own: bool


def _info(plane: Plane, user: User) -> PlaneInfo:
    return PlaneInfo(
        id=plane.id,
        name=plane.name,
        cidr=plane.cidr,
        common=plane.owner_id is None,
        own=plane.owner_id == user.id,
    )


@router.post("", status_code=201, responses=refusals(409))
async def create_plane(guardian: TheGuardian, user: CurrentUser, wanted: NewPlane) -> PlaneInfo:
    """Create a plane of your own."""
    async with guardian.db.write() as session:
        plane = await planes.create(
            session, wanted.name, wanted.cidr, owner=user, now=guardian.now()
        )
    return _info(plane, user)


@router.get("", responses=refusals(404))
async def get_plane(guardian: TheGuardian, user: CurrentUser, name: Text) -> PlaneInfo:
    """Show a plane of yours or a common one."""
    async with guardian.db.read() as session:
        return _info(await planes.get(session, name, user=user), user)


@router.delete("", status_code=204, responses=refusals(403, 404, 409))
async def delete_plane(guardian: TheGuardian, user: CurrentUser, name: Text) -> None:
    """Delete an empty plane of your own, with its registration tokens."""
    async with guardian.db.write() as session:
        await planes.delete(session, name, user=user)


@router.get("/list", responses=refusals())
async def list_planes(guardian: TheGuardian, user: CurrentUser) -> list[PlaneInfo]:
    """List your planes and the common ones."""
    async with guardian.db.read() as session:
        return [_info(plane, user) for plane in await planes.list_for(session, user)]
