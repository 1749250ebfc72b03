"""Guardian on PostgreSQL: what SQLite cannot show. `make test-all` runs all of REST on it too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import create_async_engine

from veilnet_guardian import confluxes, migrations, planes, users
from veilnet_guardian.cli import main as cli
from veilnet_guardian.database import Database, read_revision
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.keys import Keys
from veilnet_guardian.models import Base, User

EMAIL = "alice@example.com"
PASSWORD = "correct horse battery"

FIRST_SCHEMA = (
    "INSERT INTO users VALUES (gen_random_uuid(), 'alice@example.com', 'hash', 1)",
    """INSERT INTO planes (id, name, cidr, key, owner_id, created_at)
        SELECT gen_random_uuid(), 'four', '10.8.0.0/24', '\\x00', id, 1 FROM users""",
    """INSERT INTO teams (id, name, owner_id, identity, epoch, key, created_at)
        SELECT gen_random_uuid(), 'dev', id, false, 1, '\\x00', 1 FROM users""",
    """INSERT INTO conflux (id, tag, user_id, plane_id, address, token_id, created_at)
        SELECT gen_random_uuid(), 'a', users.id, planes.id, '10.8.0.1', gen_random_uuid(), 1
        FROM users, planes""",
    "INSERT INTO team_conflux SELECT teams.id, conflux.id FROM teams, conflux",
)


def with_connection(url: str, work: Callable[[sa.Connection], Any]) -> Any:
    """Call *work* in a transaction on the database, whatever schema it has."""

    async def main() -> Any:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(main())


def open_once(data_dir: DataDir, url: str) -> None:
    async def main() -> None:
        db = Database(data_dir, url)
        try:
            await db.open()
        finally:
            await db.close()

    asyncio.run(main())


def alembic_on(connection: sa.Connection) -> Config:
    made = migrations.config()
    made.attributes["connection"] = connection
    return made


def test_migrated_schema_is_the_models_schema(postgres: Any, migrated_postgres: str) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    assert with_connection(postgres.url(migrated_postgres), differences) == []


def test_database_of_the_first_schema_keeps_all_that_is_in_it_and_goes_back(
    postgres: Any, data_dir: DataDir
) -> None:
    url = postgres.url(postgres.database())

    def fill(connection: sa.Connection) -> None:
        command.upgrade(alembic_on(connection), "0001")
        for statement in FIRST_SCHEMA:
            connection.exec_driver_sql(statement)

    def kept(connection: sa.Connection) -> list[Any]:
        query = "SELECT tag, address4, address6, attempt, name FROM conflux, team_conflux, teams"
        return [tuple(row) for row in connection.exec_driver_sql(query)]

    def undo(connection: sa.Connection) -> list[str]:
        command.downgrade(alembic_on(connection), "base")
        return list(sa.inspect(connection).get_table_names())

    with_connection(url, fill)
    open_once(data_dir, url)
    assert with_connection(url, kept) == [("a", "10.8.0.1", None, None, "dev")]
    assert with_connection(url, undo) == ["alembic_version"]


def test_two_first_uses_at_once_make_one_database(postgres: Any, data_dir: DataDir) -> None:
    url = postgres.url(postgres.database())

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(open_once, data_dir, url) for _ in range(3)))

    asyncio.run(main())
    open_once(data_dir, url)


def test_writers_queue_and_readers_see_one_moment(postgres: Any, data_dir: DataDir) -> None:
    keys = Keys(data_dir)
    url = postgres.url(postgres.database())
    open_once(data_dir, url)

    async def register(db: Database, plane: str) -> str:
        async with db.write() as session:
            user, where = await users.get(session, EMAIL), await planes.get(session, plane)
            made = await confluxes.create(session, keys.tokens, user, where, now=1)
            return str(made.conflux.address4)

    async def main() -> None:
        databases = [Database(data_dir, url) for _ in range(3)]  # as the server and two commands
        async with databases[0].write() as session:
            await users.add(session, EMAIL, "hash", now=1)
            await planes.create(session, "home", "10.8.0.0/24", owner=None, now=1)
        async with databases[0].read() as session:
            before = await read_revision(session)
            addresses = await asyncio.gather(
                *(register(databases[n % 3], "home") for n in range(12))
            )
            async with databases[1].write() as writer:
                await users.add(writer, "bob@example.com", "hash", now=1)
            count = sa.select(sa.func.count()).select_from(User)
            assert (await session.execute(count)).scalar_one() == 1
            assert await read_revision(session) == before
        # Each saw the addresses that the others had taken.
        assert sorted(addresses) == sorted(f"10.8.0.{n}" for n in range(1, 13))
        for db in databases:
            await db.close()

    asyncio.run(main())


def test_served_by_the_program_and_survives_the_databases_restart(
    postgres: Any, serve: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    url = postgres.url(postgres.database())
    server = serve("--database-url", url)

    def typed(*words: str) -> str:
        done = CliRunner().invoke(
            cli,
            [*words, "--data-dir", str(server.data_dir), "--database-url", url],
            input=PASSWORD + "\n",
        )
        assert done.exit_code == 0, done.output
        return str(done.stdout).strip()

    typed("user", "add", "carol@example.com", "--password-stdin")
    typed("plane", "create", "home", "10.8.0.0/24")
    token = typed("token", "create", "--user", "carol@example.com", "--plane", "home")
    bearer = {"Authorization": f"Bearer {token}"}
    made = httpx.post(f"{server.url}/conflux/register", headers=bearer, json={"tag": "rio"})
    assert made.json()["address"] == "10.8.0.1/24"

    def health() -> int:
        return httpx.get(f"{server.url}/healthz").status_code

    assert health() == 200
    postgres.cut_all_sessions()
    eventually(lambda: health() == 200)
    login = {"email": "carol@example.com", "password": PASSWORD}
    assert httpx.post(f"{server.url}/auth/login", json=login).status_code == 200
    assert server.stop() == 0


def refusal(data_dir: DataDir, url: str) -> str:
    with pytest.raises(GuardianError) as refused:
        open_once(data_dir, url)
    line = str(refused.value)
    assert "\n" not in line
    assert "secret" not in line
    return line


def test_database_that_cannot_be_reached_is_named_without_its_password(
    postgres: Any, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "postgresql+asyncpg://guardian:secret@127.0.0.1:1/guardian"
    assert "the database cannot be opened" in refusal(data_dir, nobody)
    no_such = postgres.url("nosuch").replace("guardian@", "guardian:secret@")
    assert 'database "nosuch" does not exist' in refusal(data_dir, no_such)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert "pip install veilnet-guardian[postgres]" in refusal(data_dir, no_such)
