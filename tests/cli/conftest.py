"""The command line against a real Guardian on loopback, on a machine whose TUN is in memory.

With that TUN every verb can be tried by any user: nothing of this machine's network is touched.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner

from conflux.cli import main
from conflux.hardening import undone_afterwards
from conflux.runtime.localapi import LocalApi
from conflux.with_parent import with_parent
from veilnet_guardian import confluxes, planes, registration, users
from veilnet_guardian.database import Database
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.keys import Keys

EMAIL = "alice@example.org"
DAY_S = 86_400
STANDIN = Path(__file__).with_name("standin_service.py")
READY_S = 30.0
WITHIN_S = 40.0

MEMORY_TUN = """
from conflux.api import API_VERSION, DriverInfo, hookimpl

@hookimpl
def conflux_tun_driver():
    return DriverInfo(name="memory", target="conflux.testing:MemoryTunDriver", api=API_VERSION)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard error without the warning that this Guardian is spoken to without TLS."""
        return [line for line in self.err.splitlines() if "without TLS" not in line]

    def refused(self, code: int, pattern: str) -> None:
        """Check that it gave one clear line, nothing else, and exit code *code*."""
        assert "Traceback" not in self.err
        assert (self.code, self.out) == (code, ""), self.err
        [line] = self.lines
        assert re.fullmatch(f"veilnet-conflux: {pattern}", line), line


@dataclass
class Guardian:
    """A server on loopback with user alice and plane home; `tokens` by what became of them."""

    process: subprocess.Popen[str]
    data: Path
    url: str
    tokens: dict[str, str] = field(repr=False)

    def conflux_token(self, tag: str, *, gone: bool = False) -> str:
        """Make a conflux; return its token, useless if *gone*."""

        async def work(session, keys, now):
            owner, plane = await users.get(session, EMAIL), await planes.get(session, "home")
            made = await confluxes.create(session, keys.tokens, owner, plane, tag=tag, now=now)
            if gone:
                await confluxes.remove(session, made.conflux, now=now)
            return made.token

        return in_database(self.data, work)

    def known(self) -> set[str]:
        """The tags of all conflux that it knows."""
        done = subprocess.run(
            [sys.executable, "-c", TAGS, str(self.data / "guardian.db")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return set(json.loads(done.stdout))


SERVE = [sys.executable, "-m", "veilnet_guardian", "serve", "--listen", "127.0.0.1:0"]

TAGS = """
import json, sqlite3, sys
with sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True) as db:
    print(json.dumps([row[0] for row in db.execute("select tag from conflux")]))
"""


def in_database(data: Path, work: Callable):
    """Run *work(session, keys, now)* in a transaction, as Guardian's own commands do."""

    async def main():
        data_dir = DataDir(data)
        keys, db = Keys(data_dir), Database(data_dir)
        await db.open()
        try:
            async with db.write() as session:
                return await work(session, keys, int(time.time()))
        finally:
            await db.close()

    return asyncio.run(main())


async def furnish(session, keys, now):
    """Alice, her plane, and registration tokens of every fate."""
    alice = await users.add(session, EMAIL, users.hash_password("correct horse"), now=now)
    plane = await planes.create(session, "home", "10.99.0.0/24", owner=None, now=now)
    tokens = {}
    for fate, born in (("good", now), ("revoked", now), ("expired", now - 2 * DAY_S)):
        tokens[fate], record = await registration.create(
            session, keys.tokens, alice, plane, days=1, now=born
        )
        if fate == "revoked":
            await registration.revoke(session, record.id, alice, now=now)
    return tokens


@contextlib.contextmanager
def up(data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Guardian that answers; its process and address."""
    with (
        (data / "log").open("w") as log,
        subprocess.Popen(
            with_parent([*SERVE, "--data-dir", str(data), *options]),
            stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "Guardian listens on" in line, (data / "log").read_text()
            yield process, line.split()[3].rstrip(",")
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def serving(data: Path, *options: str) -> Iterator[Guardian]:
    tokens = in_database(data, furnish)
    with up(data, *options) as (process, url):
        yield Guardian(process, data, url, tokens)


@pytest.fixture(scope="session")
def guardian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardian]:
    data = tmp_path_factory.mktemp("guardian")
    with serving(data, "--master-listen", "127.0.0.1:0") as server:
        yield server


@pytest.fixture(scope="session")
def masterless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardian]:
    """A Guardian whose Master does not answer."""
    data = tmp_path_factory.mktemp("masterless")
    with serving(data, "--master", "nats://127.0.0.1:1") as server:
        yield server


class Mortal:
    """A Guardian that is down, with a machine's membership of it; `up` brings it to life there."""

    def __init__(self, data: Path, machine: Machine, *master: str) -> None:
        self._data = data
        with serving(data, *(master or ("--master-listen", "127.0.0.1:0"))) as guardian:
            self.url = guardian.url
            words = ["register", "-d", "-t", guardian.tokens["good"], "-g", guardian.url]
            with machine.node(*words, state="waiting for the Master" if master else "running"):
                table = machine.status()
        [url] = table["master"]["urls"]
        self._options = master or ("--master-listen", url.partition("://")[2])

    def up(self) -> contextlib.AbstractContextManager[object]:
        return up(self._data, "--listen", self.url.partition("://")[2], *self._options)


@pytest.fixture
def mortal(tmp_path: Path, machine: Machine) -> Callable[..., Mortal]:
    return lambda *master: Mortal(tmp_path, machine, *master)


class Machine:
    """A user's home and shell."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "conflux"
        self.variables: dict[str, str] = {}
        self.running: list[subprocess.Popen[str]] = []
        plugins = home / "plugins"
        info = plugins / "memory_tun-1.0.dist-info"
        info.mkdir(parents=True)
        (plugins / "memory_tun.py").write_text(MEMORY_TUN)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-tun\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[conflux.plugins]\nmemory_tun = memory_tun\n")

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("VEILNET_")}
        return {
            **inherited,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "PYTHONPATH": str(self.home / "plugins"),
            "VEILNET_PLUGIN_TUN": "memory",
            "VEILNET_CONFIG_DIR": str(self.folder),
            **variables,
        }

    def cli(self, *words: str, **variables: str) -> Ended:
        """Type a command and wait for its end."""
        done = subprocess.run(
            [sys.executable, "-m", "conflux", *words],
            env=self.environment(variables), cwd=self.home,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def quick(self, *words: str, **variables: str) -> Ended:
        """The same within this process: ten times as quick."""
        environment = self.environment(variables)
        gone = dict.fromkeys(name for name in os.environ if name.startswith("VEILNET_"))
        with pytest.MonkeyPatch.context() as patch, former_logging(), undone_afterwards():
            patch.syspath_prepend(self.home / "plugins")
            patch.delitem(sys.modules, "memory_tun", raising=False)
            done = CliRunner().invoke(main, words, env={**gone, **environment})
            patch.delitem(sys.modules, "memory_tun", raising=False)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    @contextlib.contextmanager
    def node(self, *words: str, state: str = "running", **variables: str) -> Iterator[Node]:
        """Type a command that runs a node; wait for its *state*; end it by SIGTERM after use."""
        with subprocess.Popen(
            with_parent([sys.executable, "-m", "conflux", *words]),
            env=self.environment(variables), cwd=self.home,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            node = Node(process)
            try:
                ends = time.monotonic() + READY_S
                while self.state() != state:
                    if process.poll() is not None or time.monotonic() > ends:
                        process.kill()
                        pytest.fail(f"the node is not {state}: {process.communicate()}")
                    time.sleep(0.02)
                yield node
                process.terminate()
                node.finish()
            finally:
                process.kill()

    def state(self) -> str:
        from conflux.api import UsageError

        with contextlib.suppress(UsageError):
            return str(self.status()["state"])
        return "down"

    def status(self) -> dict[str, Any]:
        """What the node says of itself. Raises UsageError if there is none."""
        from conflux.runtime import localapi

        return dict(localapi.call(self.folder / "api.sock", "status"))

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Every saved file: what is in it, and its mode."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mode)
            for path in self.folder.glob("**/*")
            if path.is_file()
        }

    def token_of_nobody(self) -> str:
        """A conflux token that is whole, of a Guardian that does not exist."""
        claims = json.dumps({"gkf": "A" * 43}).encode()
        return f"e30.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.c2ln"

    def saved(self, name: str = "conflux.json") -> dict[str, str]:
        return dict(json.loads((self.folder / name).read_text()))

    def save(self, name: str, **fields: str) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / name).write_text(json.dumps(fields))
        (self.folder / name).chmod(0o600)


@contextlib.contextmanager
def former_logging() -> Iterator[None]:
    """Undo what a verb that runs a node does to the log."""
    loggers = [logging.getLogger(), logging.getLogger("conflux")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)


class Node:
    """A command that runs a node."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ended: Ended | None = None

    def finish(self) -> Ended:
        """Wait for its end; return how it ended."""
        if self.ended is None:
            out, err = self.process.communicate(timeout=20)
            self.ended = Ended(self.process.returncode, out, err)
        return self.ended


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's folder: its path may be too long for a Unix socket.
    with TemporaryDirectory(prefix="veilnet-cli-") as home:
        yield Machine(Path(home))


@contextlib.contextmanager
def standing_in(machine: Machine, **answers: object) -> Iterator[None]:
    """A node that gives these answers, by verb, and knows no other verbs."""
    verbs = {verb: lambda answer=answer: answer for verb, answer in answers.items()}
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        api, ended = LocalApi(machine.folder / "api.sock", verbs), asyncio.Event()
        await api.start()
        begun.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
        await asyncio.sleep(0)  # whoever has just connected is let in, and answered
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)
        await api.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, ended = begun.result(READY_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


@pytest.fixture
def stand_in(machine: Machine) -> Callable[..., contextlib.AbstractContextManager[None]]:
    return functools.partial(standing_in, machine)


@pytest.fixture
def other_machine() -> Iterator[Machine]:
    with TemporaryDirectory(prefix="veilnet-cli-") as home:
        yield Machine(Path(home))


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition that a node brings about in a while."""

    def wait(condition: Callable[[], object]) -> None:
        ends = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < ends
            time.sleep(0.02)

    return wait


@pytest.fixture
def served(machine: Machine) -> Iterator[Machine]:
    """A machine with a service manager; whatever it runs in the end is stopped."""
    plugins = machine.home / "plugins"
    shutil.copy(STANDIN, plugins)
    info = plugins / "standin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: standin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[conflux.plugins]\nstandin = standin_service\n")
    machine.manager = machine.home / "manager"
    machine.variables = {
        "STANDIN_SERVICE": str(machine.manager),
        "VEILNET_PLUGIN_SERVICE": "standin",
    }
    plain = machine.environment
    machine.environment = lambda variables: plain({**machine.variables, **variables})
    yield machine
    machine.cli("remove")
