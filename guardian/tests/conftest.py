"""Fixtures: a Guardian without a socket, a Guardian in a process of its own, and a node."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from conflux.anchor.identity import (
    PUSH_BINDING,
    GuardianKey,
    Identity,
    login_binding,
    open_grant,
)
from conflux.wire.credentials import Grant
from conflux.with_parent import with_parent
from veilnet_guardian import confluxes, planes, users
from veilnet_guardian.app import create_app
from veilnet_guardian.cli import main
from veilnet_guardian.context import Guardian
from veilnet_guardian.database import Database
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.grants import GrantMaker
from veilnet_guardian.keys import Keys, crypto_driver
from veilnet_guardian.models import Base
from veilnet_guardian.sessions import Logins
from veilnet_guardian.tokens import USER_TOKEN_S

PASSWORD = "correct horse battery"
COMMAND = [sys.executable, "-m", "veilnet_guardian"]
WAIT_S = 15


class Node:
    """What a conflux does towards Guardian, with the kernel's own code."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.crypto = crypto_driver()
        self.identity = Identity(self.crypto, secrets.token_bytes)
        self.session = ""
        self.key: GuardianKey | None = None

    def request(self) -> bytes:
        made = self.identity.login_request(
            self.token, time_ms=int(time.time() * 1000), entropy=secrets.token_bytes
        )
        return made.encode()

    @property
    def fingerprint(self) -> bytes:
        claims = self.token.split(".")[1]
        text = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).decode()
        value = text.split('"gkf":"')[1].split('"')[0]
        return base64.urlsafe_b64decode(value + "=")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def take(self, body: bytes, answer: httpx.Response) -> Grant:
        assert answer.status_code == 200, answer.text
        self.session = answer.json()["session"]
        sealed = base64.b64decode(answer.json()["grant"])
        grant, self.key = self.open(sealed, binding=login_binding(body))
        return grant

    def open(self, sealed: bytes, *, binding: bytes = PUSH_BINDING) -> tuple[Grant, GuardianKey]:
        return open_grant(
            self.crypto, self.identity, sealed, binding=binding, fingerprint=self.fingerprint
        )

    async def login(self, client: httpx.AsyncClient) -> Grant:
        body = self.request()
        answer = await client.post("/conflux/session/login", content=body, headers=self.headers)
        return self.take(body, answer)

    def login_now(self, url: str, **options: Any) -> Grant:
        body = self.request()
        answer = httpx.post(
            f"{url}/conflux/session/login", content=body, headers=self.headers, **options
        )
        return self.take(body, answer)


@dataclass
class World:
    """A Guardian reached without a socket, at a time that the test sets."""

    guardian: Guardian
    client: httpx.AsyncClient
    clock: list[float] = field(repr=False)
    folder: Path

    async def stored(self) -> bytes:
        """All that the database holds: SQLite's files, free pages included, or each row's text."""
        if self.guardian.db.is_sqlite:
            return b"".join(path.read_bytes() for path in self.folder.glob("guardian.db*"))
        found = []
        async with self.guardian.db.read() as session:
            for table in Base.metadata.tables.values():
                for row in await session.execute(select(table)):
                    found += [str(field).encode() for field in row if type(field) is not bytes]
                    found += [field for field in row if type(field) is bytes]
        return b"\n".join(found)

    def pass_time(self, seconds: float) -> None:
        self.clock[0] += seconds

    async def user(self, email: str) -> dict[str, str]:
        """Add a user; return the headers that speak for it."""
        now = self.guardian.now()
        async with self.guardian.db.write() as session:
            user = await users.add(session, email, QUICK_HASH, now=now)
        token = self.guardian.keys.tokens.issue(
            "user", user.id, token_id=uuid4(), now=now, lifetime_s=USER_TOKEN_S
        )
        return {"Authorization": f"Bearer {token}"}

    async def plane(self, name: str, cidr: str) -> None:
        """Add a plane that is common to all users."""
        async with self.guardian.db.write() as session:
            await planes.create(session, name, cidr, owner=None, now=self.guardian.now())

    async def node(self, email: str, plane: str, *, team_names: tuple[str, ...] = ()) -> Node:
        async with self.guardian.db.write() as session:
            made = await confluxes.create(
                session,
                self.guardian.keys.tokens,
                await users.get(session, email),
                await planes.get(session, plane),
                team_names=team_names,
                now=self.guardian.now(),
            )
        return Node(made.token)


QUICK_HASH = users.hash_password(PASSWORD)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "guardian")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the newest schema and nothing in it."""
    data_dir = DataDir(tmp_path_factory.mktemp("migrated") / "guardian")

    async def main() -> None:
        db = Database(data_dir)
        await db.open()
        await db.close()

    asyncio.run(main())
    return data_dir.root


class Postgres:
    """A PostgreSQL server in a folder of its own: on a Unix socket alone, as an ordinary user."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._made = itertools.count()

    @contextlib.contextmanager
    def running(self) -> Iterator[Postgres]:
        # It refuses to run as root. It dies with the tests, however they end.
        user = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        if user:
            os.chown(self._folder, 65534, 65534)
        alone = ["setpriv", "--pdeathsig=KILL", *user]
        data = str(self._folder / "data")
        subprocess.run(
            [*alone, self._programs / "initdb", "-D", data, "-U", "guardian", "--auth=trust",
             "--encoding=UTF8", "--no-locale", "--no-sync"],
            cwd="/", check=True, capture_output=True,
        )  # fmt: skip
        with subprocess.Popen(
            [*alone, self._programs / "postgres", "-D", data, "-k", self._folder, "-h", "",
             "-c", "fsync=off", "-c", "max_connections=50"],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as server:  # fmt: skip
            try:
                self._wait(server)
                yield self
            finally:
                server.send_signal(signal.SIGQUIT)  # "immediate" (pg_ctl(1)): nothing is kept
                server.wait(WAIT_S)

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + WAIT_S
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert server.poll() is None, "PostgreSQL ended"
                assert time.monotonic() < ends, "PostgreSQL does not answer"
                time.sleep(0.02)
            else:
                return

    def url(self, name: str) -> str:
        return f"postgresql+asyncpg://guardian@/{name}?host={self._folder}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        async def run() -> None:
            connection = await asyncpg.connect(
                host=str(self._folder), user="guardian", database=database
            )
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def cut_all_sessions(self) -> None:
        """As a restart does."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )

    def database(self, template: str = "template1") -> str:
        """Make a database like *template*; return its name."""
        name = f"guardian{next(self._made)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")  # Debian has no server's programs on PATH
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    # Not pytest's folder, which no other user may enter.
    with (
        tempfile.TemporaryDirectory(prefix="veilnet-postgres-") as folder,
        Postgres(programs, Path(folder)).running() as server,
    ):
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with the newest schema; what is in it is the last test's."""
    name = postgres.database()

    async def main() -> None:
        db = Database(DataDir(tmp_path_factory.mktemp("migrated-postgres")), postgres.url(name))
        await db.open()
        await db.close()

    asyncio.run(main())
    return name


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def database_url(request: pytest.FixtureRequest, data_dir: DataDir) -> str:
    """A new database with the newest schema: in the data folder, or where the URL says."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated") / "guardian.db", data_dir.root)
        return ""
    server: Postgres = request.getfixturevalue("postgres")
    name: str = request.getfixturevalue("migrated_postgres")
    # Quicker than a database for each test.
    server.execute(f"TRUNCATE {', '.join(Base.metadata.tables)}", name)
    server.execute("INSERT INTO guardian_state (id, revision, serial) VALUES (1, 1, 0)", name)
    return server.url(name)


@pytest.fixture
def world(
    data_dir: DataDir, database_url: str
) -> Callable[..., contextlib.AbstractAsyncContextManager[World]]:
    @contextlib.asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[World]:
        clock, keys, db = [time.time()], Keys(data_dir), Database(data_dir, database_url)
        await db.open()
        guardian = Guardian(
            db=db,
            keys=keys,
            logins=Logins(db, keys, GrantMaker(keys), certificate_s=86_400),
            wall=lambda: clock[0],
            monotonic=lambda: clock[0],
            master_url=lambda host: f"nats://{host}:4222",
            master_up=lambda: True,
            **options,
        )
        transport = httpx.ASGITransport(create_app(guardian), raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://guardian") as client:
                yield World(guardian, client, clock, data_dir.root)
        finally:
            await db.close()

    return make


@dataclass
class Server:
    """`veilnet-guardian serve` in a process of its own, on free ports of loopback."""

    process: subprocess.Popen[str]
    data_dir: Path
    url: str
    master_url: str

    def command(self, *arguments: str) -> str:
        """Run another command beside the server; return what it printed.

        It runs in the test's own process, which is not the server's: a process more would only
        import the same modules again.
        """
        data_dir = ("--data-dir", str(self.data_dir))
        done = CliRunner().invoke(main, [*arguments, *data_dir])
        assert done.exit_code == 0, done.output
        return str(done.stdout).strip()

    def node(self, email: str, plane: str, tag: str) -> Node:
        return Node(
            self.command("conflux", "create", "--user", email, "--plane", plane, "--tag", tag)
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(WAIT_S)


def start_server(data_dir: Path, *options: str) -> Server:
    process = subprocess.Popen(
        with_parent(
            [*COMMAND, "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
            + (["--master-listen", "127.0.0.1:0"] if "--master" not in options else [])
            + list(options)
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    if not line:
        process.wait(WAIT_S)
        pytest.fail(f"Guardian did not start: {process.stderr.read()}")
    words = line.split()
    return Server(process, data_dir, words[3].rstrip(","), words[-1])


@pytest.fixture(scope="session")
def peopled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with users alice and bob, the common plane home, alice's team dev."""
    folder = tmp_path_factory.mktemp("peopled") / "guardian"
    for command in (
        ("user", "add", "alice@example.com", "--password-stdin"),
        ("user", "add", "bob@example.com", "--password-stdin"),
        ("plane", "create", "home", "10.8.0.0/24"),
        ("team", "create", "dev", "--owner", "alice@example.com"),
    ):
        arguments = [*command, "--data-dir", str(folder)]
        done = CliRunner().invoke(main, arguments, input=PASSWORD + "\n")
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def serve(peopled: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers on one copy of the folder `peopled`; what still runs at the end is stopped."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        data_dir = tmp_path / "guardian"
        if not data_dir.exists():
            shutil.copytree(peopled, data_dir)
        servers.append(start_server(data_dir, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        for pipe in (server.process.stdout, server.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def server(peopled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for many tests, on a copy of the folder `peopled`. They must not stop it."""
    data_dir = tmp_path_factory.mktemp("shared") / "guardian"
    shutil.copytree(peopled, data_dir)
    running = start_server(data_dir)
    try:
        yield running
        assert running.stop() == 0
    finally:
        running.process.kill()
        running.process.wait()
        for pipe in (running.process.stdout, running.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds: poll it, and fail after *within_s*."""

    def wait(holds: Callable[[], bool], *, within_s: float = WAIT_S) -> None:
        ends = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < ends, "it did not come about in time"
            time.sleep(0.02)

    return wait
