"""Fixtures of the lab: a world, the Internet in it, and the eyes of an ordinary user."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conflux import lab
from conflux.api import UsageError
from conflux.runtime import localapi
from veilnet_guardian import planes, registration, users
from veilnet_guardian.database import Database
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.keys import Keys

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _missing() -> str:
    return "; ".join(lab.missing())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and _missing():
        pytest.skip(f"the lab needs {_missing()}")


@pytest.fixture(scope="session")
def needs_nft() -> None:
    if shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip("the lab needs the program `nft`: install nftables (apt install nftables)")


@pytest.fixture
def world() -> Iterator[lab.World]:
    with lab.World() as world:
        yield world


@pytest.fixture
def internet(world: lab.World) -> lab.Internet:
    return lab.Internet(world)


AsNobody = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def as_nobody() -> AsNobody:
    """Run a command as an ordinary user: `as_nobody(argv, timeout_s=120)`.

    Where the tests run as root that is user 65534, who sees a world-accessible TUN device node
    and an interpreter that it may read, in a mount namespace of its own: the machine's are not
    touched. Where they run as an ordinary user already, be it as root of a user namespace, that
    is who runs the command.
    """
    return _as_nobody


def _as_nobody(
    argv: Sequence[str], *, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if _is_root_of_the_machine():
        script = f"{_private_mounts()}\n{shlex.join([*SET_USER, *argv])}\nexit $?"
        # Not exec: the shell stays PID 1, which reaps what loses its parent.
        argv = [*PRIVATE, "sh", "-c", script]
        env |= {"HOME": "/nonexistent", "USER": "nobody", "TMPDIR": "/mnt/tmp"}
    return subprocess.run(
        argv, cwd=ROOT, env=env, timeout=timeout_s, check=False, capture_output=True, text=True
    )


def _is_root_of_the_machine() -> bool:
    first, outer, count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
    return os.geteuid() == 0 and (first, outer, count) == (0, 0, 2**32 - 1)


PRIVATE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
SET_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]


def _private_mounts() -> str:
    """Shell commands, for a private mount namespace, that show nobody what it may not see."""
    hidden = {
        path: cover
        for path in map(Path, (sys.base_prefix, sys.prefix, ROOT))
        if (cover := _covering(path.resolve())) is not None
    }
    lines = [
        "set -e",
        "mount -t tmpfs -o mode=755 lab /mnt",
        "mkdir -m 1777 /mnt/tmp",
        "mknod -m 666 /mnt/tun c 10 200",
        "mount --bind /mnt/tun /dev/net/tun",
    ]
    for number, path in enumerate(hidden):
        lines.append(f"mkdir /mnt/{number}; mount --bind {shlex.quote(str(path))} /mnt/{number}")
    lines += [f"mount -t tmpfs -o mode=755 lab {shlex.quote(str(c))}" for c in {*hidden.values()}]
    for number, path in enumerate(hidden):
        target = shlex.quote(str(path))
        lines.append(f"mkdir -p {target}; mount --bind /mnt/{number} {target}")
    return "\n".join([*lines, "set +e"])


def _covering(path: Path) -> Path | None:
    """The uppermost folder on the way to *path* that others may not enter, if there is one."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


# A whole overlay: Guardian, Master and conflux, each the program that users start


PLANE = "10.99.0.0/24"
USERS = ("alice", "bob", "carol")
PORT = 8000
READY_S = 40.0
PROGRAMS = Path(__file__).with_name("programs")
PORTS = itertools.count(9100)
"""Of flows: one for each receiver."""


class Conflux:
    """One conflux, on a host of its own or *beside* another, asked by the command line."""

    def __init__(self, overlay: Overlay, name: str, *, beside: Conflux | None = None) -> None:
        self.overlay = overlay
        self.name = name
        self.host = beside.host if beside is not None else overlay.internet.host(name)
        self.folder = overlay.folder / name
        self.log = overlay.folder / f"{name}.log"
        self.process: lab.Process | None = None
        self.program = [command("veilnet-conflux")]
        """What is started: the first words of its command line."""

    def configure(self, text: str) -> None:
        """Write its conflux.toml."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / "conflux.toml").write_text(text)

    def register(self, token: str, *options: str, **variables: str) -> Conflux:
        """Start `register --foreground`; the token goes by its variable."""
        url = f"http://{lab.Internet.address}:{PORT}"
        verb = ["register", "--foreground", "--wait", "60", "--guardian", url, "--tag", self.name]
        return self.start(*verb, *options, VEILNET_REGISTRATION_TOKEN=token, **variables)

    def run(self, **variables: str) -> Conflux:
        """Start `run`."""
        return self.start("run", **variables)

    def start(self, *words: str, **variables: str) -> Conflux:
        assert self.process is None or self.process.poll() is not None
        argv = [*self.program, *words, "--config-dir", str(self.folder)]
        with self.log.open("a") as log:
            self.process = self.host.popen(argv, stdout=log, stderr=log, env=variables)
        return self

    def ready(self) -> Conflux:
        """Wait until it runs."""
        self.overlay.until(lambda: self.status()["state"] == "running", f"{self.name} to run")
        return self

    def stop(self) -> int:
        """End it by SIGTERM; return its exit code."""
        assert self.process is not None
        return self.process.stop(grace_s=15)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [command("veilnet-conflux"), *words, "--config-dir", str(self.folder)]
        return self.host.run(argv, check=check)

    def status(self) -> dict[str, Any]:
        """What `status --json` shows, by the same socket; state "down" while nobody answers."""
        return self._ask("status") or {"state": "down", "peers": [], "neighbours": []}

    def info(self) -> dict[str, Any]:
        return self._ask("info")

    def _ask(self, verb: str) -> dict[str, Any]:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
        try:
            return dict(localapi.call(self.folder / "api.sock", verb))
        except UsageError:
            return {}

    @functools.cached_property
    def addresses(self) -> list[str]:
        """IPv4 first."""
        return [str(address).partition("/")[0] for address in self.info()["addresses"]]

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def node_id(self) -> str:
        return str(self.info()["node_id"])

    def paths_to(self, other: Conflux) -> list[list[str]]:
        """Every live route to *other*, as names of conflux. The route used last comes first."""
        peer = self._peer(other)
        latest = peer["path"]
        return self._named([latest, *(path for path in peer["paths"] if path != latest)])

    def paths_in_use(self, other: Conflux) -> list[list[str]]:
        """Those routes to *other* among which flows are divided."""
        return self._named(self._peer(other)["paths_in_use"])

    def _peer(self, other: Conflux) -> dict[str, Any]:
        none = {"path": [], "paths": [], "paths_in_use": []}
        peers = self.status()["peers"]
        return next((peer for peer in peers if peer["address"] == other.address), none)

    def _named(self, paths: list[list[str]]) -> list[list[str]]:
        names = {conflux.node_id: conflux.name for conflux in self.overlay.running()}
        return [[names.get(node, node) for node in path] for path in paths if path]

    def ping(
        self, to: Conflux | str, *options: str, count: int = 1, wait_s: int = 10
    ) -> list[float]:
        """Ping over the overlay; return the round trips in ms, none if no answer came."""
        answer = self.ping_text(to, *options, count=count, wait_s=wait_s)
        return [float(ms) for ms in re.findall(r"time=([\d.]+) ms", answer)]

    def ping_text(self, to: Conflux | str, *options: str, count: int = 1, wait_s: int = 10) -> str:
        """Ping and return all that is printed."""
        argv = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", str(wait_s), *options]
        address = to if isinstance(to, str) else to.address
        done = self.host.run([*argv, address], check=False, timeout_s=60)
        return done.stdout + done.stderr

    def reaches(self, other: Conflux) -> bool:
        return bool(self.ping(other, wait_s=1))


class Overlay:
    """Guardian and Master at the middle of the Internet, USERS, plane "home"."""

    def __init__(self, internet: lab.Internet, folder: Path, template: Path) -> None:
        self.internet = internet
        self.folder = folder
        self.data = folder / "guardian"
        self.tokens = {name: (template / name).read_text() for name in USERS}
        self.confluxes: dict[str, Conflux] = {}
        self.guardian: lab.Process | None = None
        self._numbers = itertools.count()
        self._served = folder / "nothing served yet"
        shutil.copytree(template / "data", self.data)

    def start_guardian(self, *options: str) -> None:
        """Start it with its Master and wait until both listen."""
        log = self.folder / f"guardian{next(self._numbers)}.log"
        argv = [command("veilnet-guardian"), "serve", "--data-dir", str(self.data)]
        argv += ["--listen", f"{self.internet.address}:{PORT}", *options]
        with log.open("w") as file:
            self.guardian = self.internet.world.popen(argv, stdout=file, stderr=file)
        self.until(lambda: "Guardian listens" in log.read_text(), f"Guardian: {log}")

    def kill_guardian(self) -> None:
        """SIGKILL; its Master dies with it."""
        assert self.guardian is not None
        self.guardian.kill()
        self.guardian.wait()

    @staticmethod
    def children(program: lab.Process | None) -> list[str]:
        """The process ids of what a program started."""
        assert program is not None
        tasks = Path(f"/proc/{program.program}/task").glob("*/children")
        return [child for path in tasks for child in path.read_text().split()]

    def plugin(self, name: str) -> str:
        """Install the plugin programs/*name* in the lab alone: return its folder for PYTHONPATH."""
        plugins = self.folder / "plugins"
        shutil.copytree(PROGRAMS / name, plugins, dirs_exist_ok=True)
        info = plugins / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[conflux.plugins]\n{name} = {name}\n")
        return str(plugins)

    def admin(self, *words: str) -> str:
        """Run a command of veilnet-guardian beside the server; return what it printed."""
        return guardian_command(self.data, *words)

    def conflux(self, name: str, user: str = "alice") -> Conflux:
        """Add a host and start to register its conflux for *user*."""
        return self.host(name).register(self.tokens[user])

    def host(self, name: str, *, beside: Conflux | None = None) -> Conflux:
        """Add a conflux that does not run yet, on a new host or on that of another one."""
        self.confluxes[name] = Conflux(self, name, beside=beside)
        return self.confluxes[name]

    def running(self) -> list[Conflux]:
        return [c for c in self.confluxes.values() if c.process and c.process.poll() is None]

    def until(self, condition: Callable[[], Any], what: str, *, within_s: float = READY_S) -> Any:
        """Wait until *condition* returns something true; return that."""
        try:
            return lab.until(condition, deadline_s=within_s, what=what)
        except lab.LabError as error:
            tails = [f"--- {p.name}\n{p.read_text()[-1500:]}" for p in self.folder.glob("*.log")]
            raise AssertionError("\n".join([str(error), *tails])) from None

    def program(
        self, place: Any, name: str, *arguments: object, **streams: Any
    ) -> tuple[lab.Process, Path]:
        """Start a program of tests/lab/programs; return it and the file of what it prints."""
        out = self.folder / f"{name}{next(self._numbers)}.out"
        argv = [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]
        with out.open("w") as file:
            process = place.popen(argv, stdout=file, stderr=subprocess.STDOUT, **streams)
        return process, out

    def flows(self, source: Conflux, target: Conflux) -> Flows:
        """Start a steady UDP and a steady TCP flow."""
        return Flows(self, source, target)

    @staticmethod
    def last_json(out: Path) -> dict[str, Any]:
        """The last line of what a program printed, which must be a JSON object."""
        whole = out.read_text()
        lines = whole.splitlines()
        assert lines, f"{out.name} printed nothing"
        assert lines[-1].startswith("{"), whole[-2000:]
        return dict(json.loads(lines[-1]))

    def serve_stream(
        self,
        at: Conflux,
        size_bytes: int,
        *,
        address: str = "",
        port: int = 9000,
        marker: str = "",
        bytes_per_s: int = 0,
    ) -> Callable[[], None]:
        """Serve streams of *size_bytes* at an overlay address; return what ends that.

        *marker* recurs in them every 512 bytes; without *bytes_per_s* they go as fast as they can.
        """
        words = [address or at.address, port, size_bytes, marker, bytes_per_s]
        process, out = self.program(at.host, "transfer", "serve", *words)
        self.until(lambda: "ready" in out.read_text(), "the server")
        self._served = out
        return process.kill

    def fetch_stream(
        self, source: Conflux, at: Conflux, *, address: str = "", port: int = 9000
    ) -> Fetch:
        """Start to fetch a stream that `serve_stream` serves at *source*."""
        where = address or source.address
        return Fetch(self, *self.program(at.host, "transfer", "fetch", where, port))

    def beats(self, *ways: tuple[Conflux, Conflux]) -> Beats:
        """Start a steady flow each way."""
        return Beats(self, ways)

    def sent_digests(self) -> set[str]:
        """SHA-256 of each stream that was sent whole by the last `serve_stream`."""
        return set(self._served.read_text().split()[1:])


class Flows:
    """Two steady flows from *source* to *target*, one UDP and one TCP: see programs/flow.py."""

    def __init__(self, overlay: Overlay, source: Conflux, target: Conflux) -> None:
        self._overlay = overlay
        self._ends: dict[str, tuple[lab.Process, Path]] = {}
        self._senders: list[lab.Process] = []
        for kind in ("udp", "tcp"):
            where = (kind, target.address, next(PORTS))
            end, out = overlay.program(target.host, "flow", "receive", *where)
            overlay.until(lambda out=out: "ready" in out.read_text(), "the receiver")
            sender, _ = overlay.program(source.host, "flow", "send", *where)
            self._senders.append(sender)
            self._ends[kind] = end, out

    def stop(self) -> dict[str, dict[str, Any]]:
        """End both; return what each receiver saw."""
        for sender in self._senders:
            sender.kill()
        # What is under way, and what is sent again.
        time.sleep(1)
        seen = {}
        for kind, (end, out) in self._ends.items():
            end.stop()
            seen[kind] = self._overlay.last_json(out)
        return seen


class Beats:
    """Steady flows from conflux to conflux, 100 packets a second each, and what arrived."""

    PORT = 7_000
    EVERY_S = 0.01

    def __init__(self, overlay: Overlay, ways: Sequence[tuple[Conflux, Conflux]]) -> None:
        self.ways = ways
        self._heard: dict[str, Path] = {}
        self._processes: list[lab.Process] = []
        for target in {target.name: target for _, target in ways}.values():
            process, out = overlay.program(target.host, "beat", "hear", target.address, self.PORT)
            self._processes.append(process)
            self._heard[target.name] = out
            overlay.until(lambda o=out: "ready" in o.read_text(), "a listener")
        for source, target in ways:
            where = (source.address, target.address, self.PORT, self.EVERY_S)
            process, _ = overlay.program(source.host, "beat", "send", *where)
            self._processes.append(process)

    def arrivals(self, source: Conflux, target: Conflux) -> list[tuple[int, float]]:
        """(number, time.monotonic()) of what came from *source* to *target*, in order."""
        whole, _, _ = self._heard[target.name].read_text().rpartition("\n")
        lines = (line.split() for line in whole.splitlines()[1:])
        return [(int(n), float(t)) for sender, n, t in lines if sender == source.address]

    def all_arrive(self) -> bool:
        return all(self.arrivals(*way) for way in self.ways)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


class Fetch:
    """A download on its way."""

    def __init__(self, overlay: Overlay, process: lab.Process, out: Path) -> None:
        self._overlay = overlay
        self._process = process
        self._out = out

    def reported(self) -> dict[str, Any]:
        """How far it is: {"bytes", "sha256"}."""
        whole, _, _ = self._out.read_text().rpartition("\n")
        lines = whole.splitlines()
        if lines and not lines[-1].startswith("{"):
            raise AssertionError(f"the download broke:\n{whole[-2000:]}")
        return dict(json.loads(lines[-1])) if lines else {"bytes": 0}

    def wait(self, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for its end; return what it got."""
        self._overlay.until(
            lambda: self._process.poll() is not None, "the download to end", within_s=within_s
        )
        return self.reported()


def command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def guardian_command(data: Path, *words: str) -> str:
    argv = [command("veilnet-guardian"), *words, "--data-dir", str(data)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def guardian_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a Guardian with its users and a plane, and a token of each user.

    Made by what the commands call: five processes would take as long as all else.
    """
    folder = tmp_path_factory.mktemp("guardian-template")

    async def make() -> None:
        data_dir = DataDir(folder / "data")
        keys, db, now = Keys(data_dir), Database(data_dir), int(time.time())
        await db.open()
        async with db.write() as session:
            plane = await planes.create(session, "home", PLANE, owner=None, now=now)
            for name in USERS:
                password = users.hash_password("correct horse battery")
                user = await users.add(session, f"{name}@example.org", password, now=now)
                token, _ = await registration.create(
                    session, keys.tokens, user, plane, days=1, now=now
                )
                (folder / name).write_text(token)
        await db.close()

    asyncio.run(make())
    return folder


@pytest.fixture(scope="module")
def overlay(guardian_template: Path) -> Iterator[Overlay]:
    """An Internet without hosts, a Guardian that is not started yet; one for each module."""
    # Not pytest's folder: its path may be too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="veilnet-lab-") as folder, lab.World() as world:
        yield Overlay(lab.Internet(world), Path(folder), guardian_template)


@pytest.fixture(scope="session")
def python() -> list[str]:
    """The start of a command line whose next word is a script."""
    return [sys.executable, "-c"]
