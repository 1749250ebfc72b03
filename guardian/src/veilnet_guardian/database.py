"""The database: where it is, its schema's version, and transactions that read or write.

Several processes use it at once: the server and any command. On SQLite a writer takes the write
lock when it begins (BEGIN IMMEDIATE), since a transaction that read first and then wants to write
fails at once if somebody else wrote meanwhile. On other databases writers queue at the one row of
`guardian_state`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InvalidRequestError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from veilnet_guardian.datadir import DataDir
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.models import State

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

SCHEMA_HEAD = "0004"
"""The newest migration. Where the database has it already, alembic need not even be imported."""

BUSY_TIMEOUT_MS = 10_000


class Database:
    """An open database with the newest schema. `close` it in the loop that opened it."""

    def __init__(self, data_dir: DataDir, url: str = "") -> None:
        """Raises GuardianError if *url* cannot be understood or its driver is missing."""
        self._data_dir = data_dir
        if not url:
            url = f"sqlite+aiosqlite:///{data_dir.root / 'guardian.db'}"
        try:
            self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
            # Parameters are keys and hashes: they do not belong into an error's text.
            self._engine = create_async_engine(
                url, pool_pre_ping=not self.is_sqlite, hide_parameters=True
            )
        except ImportError as error:
            raise GuardianError(
                f"--database-url needs a driver that is not installed ({error}): "
                "for PostgreSQL `pip install veilnet-guardian[postgres]` "
                "and name postgresql+asyncpg://user@host/name"
            ) from None
        except (ArgumentError, InvalidRequestError) as error:
            raise GuardianError(
                f"--database-url cannot be used ({error}): "
                "name an async driver, such as postgresql+asyncpg://user@host/name"
            ) from None
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)
        writing = self._engine.execution_options(guardian_writes=True)
        reading = self._engine
        if not self.is_sqlite:
            # Each statement would see a state of its own; with SQLite a transaction sees one.
            reading = reading.execution_options(isolation_level="REPEATABLE READ")
        self._read = async_sessionmaker(reading, expire_on_commit=False)
        self._write = async_sessionmaker(writing, expire_on_commit=False)

    async def open(self) -> None:
        """Bring the schema up to date. Raises GuardianError if the database cannot be used."""
        try:
            if await self._version() != SCHEMA_HEAD:
                with self._data_dir.lock("migrate.lock", wait=True):
                    await self._migrate()
        except (DBAPIError, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise GuardianError(
                f"the database cannot be opened ({reason}): "
                "check --database-url, its rights and its disk"
            ) from None

    async def _version(self) -> str:
        if self.is_sqlite:
            self._make_private()
        async with self._engine.connect() as connection:
            try:
                found = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            except (OperationalError, ProgrammingError):
                return ""  # no such table yet; whatever else is wrong, migrating will tell
        return str(found)

    def _make_private(self) -> None:
        path = self._engine.url.database
        if path and path != ":memory:":
            # SQLite gives its journal files the mode of the database itself.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    async def _migrate(self) -> None:
        from veilnet_guardian.migrations import upgrade

        migrating = self._engine.execution_options(guardian_writes=True, guardian_migrates=True)
        async with migrating.begin() as connection:
            await connection.run_sync(upgrade)
        # What is opened from now on keeps foreign keys again.
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """One consistent view; nothing that is changed in it is kept."""
        async with self._read() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """The only writer inside; all is kept at the end, or nothing if it raises."""
        async with self._write.begin() as session:
            if not self.is_sqlite:
                await session.execute(select(State).with_for_update())
            yield session

    async def close(self) -> None:
        await self._engine.dispose()


async def bump_revision(session: AsyncSession) -> None:
    """Say that grants may have changed: the server notices within a quarter of a second."""
    await session.execute(update(State).values(revision=State.revision + 1))


async def read_revision(session: AsyncSession) -> int:
    return (await session.execute(select(State.revision))).scalar_one()


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself: `_begin_sqlite` does.
    raw: Any = connection
    raw.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("guardian_migrates", False):
        # SQLite alters a table by dropping it: with foreign keys its rows' children would go too.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("guardian_writes") else "BEGIN")
