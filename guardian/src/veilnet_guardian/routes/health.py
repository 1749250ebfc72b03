"""Is Guardian well?"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from veilnet_guardian.database import read_revision
from veilnet_guardian.routes.common import TheGuardian

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok", "failing"]
    database: Literal["ok", "failing"]
    master: Literal["ok", "failing"]


@router.get("/healthz", responses={503: {"model": Health}})
async def healthz(guardian: TheGuardian, response: Response) -> Health:
    """Tell whether the database and the Master answer; 503 if one does not."""
    try:
        async with guardian.db.read() as session:
            await read_revision(session)
        database = True
    except (SQLAlchemyError, OSError):
        database = False
    master = guardian.master_up()
    if not (database and master):
        response.status_code = 503
    return Health(
        status="ok" if database and master else "failing",
        database="ok" if database else "failing",
        master="ok" if master else "failing",
    )
