"""The schema's history (alembic). `database.Database.open` applies what is missing."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from veilnet_guardian.errors import GuardianError


def config() -> Config:
    """Alembic's configuration, without a file of its own."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def upgrade(connection: Connection) -> None:
    """Bring the schema behind *connection* to the newest version, in its transaction.

    Raises GuardianError if the schema is from the future.
    """
    made = config()
    made.attributes["connection"] = connection
    try:
        command.upgrade(made, "head")
    except CommandError:
        raise GuardianError(
            "the database was made by a newer veilnet-guardian: upgrade this one"
        ) from None
