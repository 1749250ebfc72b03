"""The shipped migrations make exactly the schema that the code expects."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from veilnet_guardian import migrations
from veilnet_guardian.database import SCHEMA_HEAD, Database, read_revision
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.models import Base


def test_newest_migration_is_the_one_that_commands_expect() -> None:
    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [SCHEMA_HEAD]


def test_migrated_schema_is_the_models_schema() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        migrations.upgrade(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_downgrade_leaves_nothing() -> None:
    engine = sa.create_engine("sqlite://")
    config = migrations.config()
    with engine.begin() as connection:
        migrations.upgrade(connection)
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


FIRST_SCHEMA = """
    INSERT INTO users VALUES ('u', 'alice@example.com', 'hash', 1);
    INSERT INTO planes (id, name, cidr, key, owner_id, created_at)
        VALUES ('4', 'four', '10.8.0.0/24', x'00', 'u', 1),
            ('6', 'six', 'fd00:8::/64', x'00', NULL, 1);
    INSERT INTO registration_tokens VALUES ('t', x'00', 'u', '4', 1, 2, NULL);
    INSERT INTO teams VALUES ('dev', 'dev', 'u', 0, 1, x'00', 1);
    INSERT INTO conflux (id, tag, user_id, plane_id, address, token_id, created_at)
        VALUES ('a', 'a', 'u', '4', '10.8.0.1', 'x', 1), ('b', 'b', 'u', '6', 'fd00:8::1', 'x', 1);
    INSERT INTO team_conflux VALUES ('dev', 'a'), ('dev', 'b');
    INSERT INTO team_planes VALUES ('dev', '6');
"""


def test_database_of_the_first_schema_keeps_all_that_is_in_it(data_dir: DataDir) -> None:
    path = data_dir.root / "guardian.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    alembic = migrations.config()
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "0001")
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript(FIRST_SCHEMA)
    open_once(data_dir)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT id, cidr4, cidr6 FROM planes ORDER BY id").fetchall() == [
            ("4", "10.8.0.0/24", None),
            ("6", None, "fd00:8::/64"),
        ]
        assert raw.execute("SELECT id, address4, address6 FROM conflux ORDER BY id").fetchall() == [
            ("a", "10.8.0.1", None),
            ("b", None, "fd00:8::1"),
        ]
        assert raw.execute("SELECT attempt, asked FROM conflux").fetchall() == [(None, None)] * 2
        for table, rows in (("team_conflux", 2), ("team_planes", 1), ("registration_tokens", 1)):
            assert raw.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)  # noqa: S608
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []


def test_certificates_get_their_plane_and_lose_marks_that_meant_nothing(data_dir: DataDir) -> None:
    path, plane_id = data_dir.root / "guardian.db", uuid4()
    engine = sa.create_engine(f"sqlite:///{path}")
    alembic = migrations.config()
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "0003")
    engine.dispose()
    encoded = bytes(25) + plane_id.bytes + bytes(100)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute(
            "INSERT INTO conflux (id, tag, user_id, plane_id, token_id, created_at) "
            "VALUES ('there', 'x', 'u', '4', 't', 1)"
        )
        for serial, conflux in ((1, "there"), (2, "gone")):
            values = (serial, conflux, encoded, 0, 9, 5)
            raw.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?)", values)
        raw.execute("INSERT INTO sessions VALUES ('s', 'there', 1, '', x'00', 1, NULL, NULL)")
        raw.commit()
    open_once(data_dir)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        rows = raw.execute("SELECT serial, plane_id, revoked_at FROM certificates ORDER BY 1")
        assert rows.fetchall() == [(1, plane_id.hex, None), (2, plane_id.hex, 5)]
        assert raw.execute("SELECT serial FROM sessions").fetchall() == [(1,)]


def test_foreign_keys_hold_again_after_a_migration(data_dir: DataDir) -> None:
    async def main() -> None:
        db = Database(data_dir)
        await db.open()
        async with db.write() as session:
            assert (await session.execute(sa.text("PRAGMA foreign_keys"))).scalar_one() == 1
        await db.close()

    asyncio.run(main())


def test_two_first_uses_at_once_make_one_database(data_dir: DataDir) -> None:
    async def open_and_read() -> int:
        db = Database(data_dir)
        await db.open()
        async with db.read() as session:
            revision = await read_revision(session)
        await db.close()
        return revision

    def in_thread() -> int:
        return asyncio.run(open_and_read())

    async def main() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(in_thread) for _ in range(4)))

    assert asyncio.run(main()) == [1, 1, 1, 1]


def test_database_and_its_journal_are_private(data_dir: DataDir) -> None:
    async def main() -> None:
        db = Database(data_dir)
        await db.open()
        async with db.write() as session:
            await read_revision(session)
            modes = {
                path.name: path.stat().st_mode & 0o777
                for path in data_dir.root.glob("guardian.db*")
            }
        await db.close()
        assert set(modes.values()) == {0o600}
        assert "guardian.db-wal" in modes

    asyncio.run(main())


def open_once(data_dir: DataDir, url: str = "") -> None:
    async def main() -> None:
        db = Database(data_dir, url)
        try:
            await db.open()
        finally:
            await db.close()

    asyncio.run(main())


def test_file_that_is_no_database_is_named_in_one_line(data_dir: DataDir) -> None:
    (data_dir.root / "guardian.db").write_bytes(b"noise" * 1000)
    with pytest.raises(GuardianError, match=r"the database cannot be opened.*not a database"):
        open_once(data_dir)


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuch://host/name", "sqlite:///tmp/x.db", "sqlite+aiosqlite:////no/way/x"]
)
def test_useless_database_url_is_named_in_one_line(data_dir: DataDir, url: str) -> None:
    with pytest.raises(GuardianError, match="--database-url") as refused:
        open_once(data_dir, url)
    assert "\n" not in str(refused.value)


def test_newer_database_than_the_program_is_refused(data_dir: DataDir) -> None:
    open_once(data_dir)
    with sqlite3.connect(data_dir.root / "guardian.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(GuardianError, match="newer veilnet-guardian"):
        open_once(data_dir)
