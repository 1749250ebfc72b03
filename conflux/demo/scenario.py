"""The demo's story: build the Internet, register four hosts, ping, download, lose a relay."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from conflux.api import Unavailable, UsageError
from conflux.demo.picture import Picture, bar, rows
from conflux.lab import Host, Internet, LabError, Process, World, missing, until

PLANE = "10.99.0.0/24"
TALKERS = ("london", "tokyo")
RELAYS = ("relay-east", "relay-west")
GUARDIAN = "veilnet-guardian"
SERVER_PORT = 8000
MEGABYTE = 1_000_000
READY_S = 40.0
STALL_S = 60.0
PULL_AT = 0.3
"""The relay in use is pulled out when this share of the download is there."""


class StepFailed(Exception):
    """A step of the demo did not hold. The message says which and shows why."""


def run_demo(*, keep: bool, megabytes: int) -> bool:
    """Run it; return whether every step held. Raises Unavailable if this machine cannot."""
    lacking = missing()
    if not os.access(_program(GUARDIAN), os.X_OK):
        lacking.append(f"Guardian beside this program: `pip install {GUARDIAN}`")
    if lacking:
        raise Unavailable("the demo needs " + "; and ".join(lacking))
    picture = Picture()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # As an exception: by default none would remove the folder. nohup is heeded.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="veilnet-demo-") as folder, ExitStack() as stack:
        demo = Demo(stack.enter_context(World()), Path(folder), picture, megabytes * MEGABYTE)
        try:
            demo.play()
            held = True
        except (StepFailed, LabError) as failure:
            picture.say(f"FAILED: {failure}")
            demo.show_logs()
            held = False
        except KeyboardInterrupt:
            picture.say("interrupted")
            return False
        if keep:
            demo.keep()
        picture.say("taking everything down")
    if held:
        picture.say("every step held; nothing is left behind")
    return held


class Demo:
    """Four hosts on a made-up Internet; each program's log goes to a file of its own."""

    def __init__(self, world: World, folder: Path, picture: Picture, size: int) -> None:
        self._world = world
        self._folder = folder
        self._picture = picture
        self._size = size
        self._internet = Internet(world)
        self._hosts: dict[str, Host] = {}
        self._nodes: dict[str, Process] = {}
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def play(self) -> None:
        self._build()
        token = self._start_guardian()
        self._register_all(token)
        self._ping()
        self._download()
        self._iperf()

    # Steps

    def _build(self) -> None:
        for name in (*TALKERS, *RELAYS):
            self._hosts[name] = self._internet.host(name)
        london, tokyo = (self._hosts[name] for name in TALKERS)
        self._internet.block(london, tokyo)
        answer = london.run(["ping", "-c", "1", "-W", "1", str(tokyo.address)], check=False)
        if answer.returncode == 0:
            raise StepFailed("the firewall between london and tokyo lets packets through")
        where = ", ".join(f"{name} {host.address}" for name, host in self._hosts.items())
        self._picture.say(f"internet: {where}; london and tokyo are firewalled from each other")

    def _start_guardian(self) -> str:
        data = self._folder / "guardian"

        def guardian(*arguments: str, secret: str = "") -> str:
            argv = [_program(GUARDIAN), *arguments, "--data-dir", str(data)]
            return str(self._world.run(argv, input=secret).stdout).strip()

        guardian("user", "add", "demo@veilnet.example", "--password-stdin", secret=_password())
        guardian("plane", "create", "demo", PLANE)
        listen = f"{self._internet.address}:{SERVER_PORT}"
        self._start(
            "guardian",
            self._world,
            [
                _program(GUARDIAN),
                "serve",
                "--data-dir",
                str(data),
                "--listen",
                listen,
            ],
        )
        token = guardian("token", "create", "--user", "demo@veilnet.example", "--plane", "demo")
        self._picture.say(f"guardian and master at {self._internet.address}, plane {PLANE}")
        return token

    def _register_all(self, token: str) -> None:
        for name in self._hosts:
            self._start_node(name, {"VEILNET_REGISTRATION_TOKEN": token})
        for name in self._hosts:
            table = self._when(partial(self._ask, name, "info"), f"{name} to come up")
            self._addresses[name] = table["address"].partition("/")[0]
            self._names[table["node_id"]] = name
        have = ", ".join(f"{name} {address}" for name, address in self._addresses.items())
        self._picture.say(f"registered by the command line, running: {have}")

    def _ping(self) -> None:
        for source, target in (TALKERS, TALKERS[::-1]):
            argv = ["ping", "-c", "3", "-i", "0.2", "-W", "5", self._addresses[target]]
            answer = self._hosts[source].run(argv, check=False, timeout_s=40)
            times = [float(t) for t in re.findall(r"time=([\d.]+) ms", answer.stdout)]
            if len(times) < 3:
                raise StepFailed(f"{source} pings {target}: not every answer came\n{answer.stdout}")
            self._picture.say(
                f"{source} pings {target} over VeilNet: {len(times)} of 3 answers, "
                f"first after {times[0]:.0f} ms, then {times[-1]:.1f} ms"
            )
        self._show()

    def _download(self) -> None:
        london, tokyo = (self._hosts[name] for name in TALKERS)
        expected = self._make_file(self._folder / "www")
        server = [sys.executable, "-m", "http.server", "8080", "--bind", self._addresses["tokyo"]]
        self._start("http", tokyo, server, cwd=self._folder / "www")
        url = f"http://{self._addresses['tokyo']}:8080/"
        self._when(lambda: self._answers(london, url), "tokyo's web server")
        slow_at = int(self._size * PULL_AT)
        fetch = london.popen(
            [sys.executable, "-m", "conflux.demo.download", f"{url}data", str(slow_at)],
            stdin=subprocess.PIPE,
            stdout=_new_file(self._folder / "download.log"),
            stderr=_new_file(self._folder / "download.err"),
        )
        pulled = ""
        last: dict[str, Any] = {"bytes": 0, "s": 0.0}
        for last in self._progress(fetch):
            share = last["bytes"] / self._size
            rate = last["bytes"] * 8 / max(last["s"], 0.001) / 1e6
            self._draw(f"    download [{bar(share)}] {share:4.0%}  {rate:.0f} Mbit/s")
            if not pulled and share >= PULL_AT:
                pulled = self._pull_relay_in_use()
                print(file=fetch.stdin, flush=True)
        if fetch.wait() != 0 or last.get("sha256") != expected:
            raise StepFailed(f"the download broke: {(self._folder / 'download.err').read_text()}")
        if not pulled:
            raise StepFailed("the download was over before a relay could be pulled out")
        rate = self._size * 8 / last["s"] / 1e6
        self._picture.say(
            f"london got {self._size / 1e6:.0f} MB from tokyo by HTTP in {last['s']:.1f} s "
            f"({rate:.0f} Mbit/s), SHA-256 {expected[:16]} matches"
        )
        for talker in TALKERS:
            left = partial(self._has_left, talker, pulled)
            self._when(left, f"{talker} to take another way than over {pulled}")
        self._show()

    def _pull_relay_in_use(self) -> str:
        # Data flows from tokyo: its path is the one that carries the download.
        path = self._path("tokyo")
        if len(path) != 3 or path[1] not in RELAYS:
            raise StepFailed(f"the download takes {' > '.join(path)}, not one relay")
        self._internet.cut(self._hosts[path[1]])
        self._picture.say(f"pulled out the cable of {path[1]}, the relay in use")
        return path[1]

    def _has_left(self, talker: str, relay: str) -> bool:
        path = self._path(talker)
        return bool(path) and relay not in path

    def _path(self, talker: str) -> list[str]:
        """The names on the way that *talker*'s packets to the other one took last."""
        [other] = {*TALKERS} - {talker}
        peers = self._ask(talker, "status")["peers"]
        wanted = self._addresses[other]
        paths = [peer["path"] for peer in peers if peer["address"] == wanted]
        return [self._names[node] for path in paths for node in path]

    def _iperf(self) -> None:
        if shutil.which("iperf3") is None:
            self._picture.say("iperf3 is not installed: left out")
            return
        london, tokyo = (self._hosts[name] for name in TALKERS)
        self._start("iperf3", tokyo, ["iperf3", "-s", "-1", "-B", self._addresses["tokyo"]])
        argv = [
            "iperf3",
            "-c",
            self._addresses["tokyo"],
            "-t",
            "3",
            "-J",
            "--connect-timeout",
            "5000",
        ]
        result: dict[str, Any] = {}

        def measured() -> bool:
            answer = london.run(argv, check=False, timeout_s=60)
            result.update(json.loads(answer.stdout or "{}"))
            return "end" in result and "sum_received" in result["end"]

        self._when(measured, "iperf3")
        rate = result["end"]["sum_received"]["bits_per_second"] / 1e6
        self._picture.say(f"iperf3, TCP london to tokyo: {rate:.0f} Mbit/s")

    def keep(self) -> None:
        """Leave everything running until the person has seen enough."""
        self._picture.say("still running; to enter a host:")
        for name, host in self._hosts.items():
            print(f"    {name:<11} {host.shell()}")
        print("and in there:")
        print(f"    export PATH={Path(sys.executable).parent}:$PATH")
        print(f"    veilnet-conflux status --config-dir {self._folder}/NAME")
        print("Enter or Ctrl-C takes everything down.", flush=True)
        try:
            sys.stdin.readline()
        except KeyboardInterrupt:
            print()

    def show_logs(self) -> None:
        """Print the end of every log: what a failed step left to read."""
        for path in sorted(self._folder.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-15:]
            print(f"--- {path.stem}", *tail, sep="\n", flush=True)

    # Programs

    def _start_node(self, name: str, variables: dict[str, str]) -> None:
        argv = [
            _program("veilnet-conflux"),
            "register",
            "--foreground",
            "--wait",
            str(READY_S),
            "--guardian",
            f"http://{self._internet.address}:{SERVER_PORT}",
            "--tag",
            name,
            "--config-dir",
            str(self._folder / name),
        ]
        self._nodes[name] = self._start(name, self._hosts[name], argv, env=variables)

    def _start(self, name: str, place: World | Host, argv: list[str], **more: Any) -> Process:
        log = _new_file(self._folder / f"{name}.log")
        return place.popen(argv, stdout=log, stderr=log, **more)

    def _ask(self, name: str, verb: str) -> dict[str, Any]:
        """Ask a node by its API socket, as `veilnet-conflux status --json` does; {} if not yet."""
        from conflux.runtime import localapi

        if (code := self._nodes[name].poll()) is not None:
            raise StepFailed(f"{name} ended with exit code {code}")
        try:
            socket = self._folder / name / "api.sock"
            if localapi.call(socket, "status")["state"] != "running":
                return {}
            answer: dict[str, Any] = localapi.call(socket, verb)
        except UsageError:
            return {}
        return answer

    def _when(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return until(condition, deadline_s=READY_S, what=what)
        except LabError:
            raise StepFailed(f"waited {READY_S:.0f} s for {what} in vain") from None

    def _answers(self, host: Host, url: str) -> bool:
        code = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
        return bool(host.run([sys.executable, "-c", code, url], check=False).returncode == 0)

    def _progress(self, fetch: Process) -> Iterator[dict[str, Any]]:
        """Yield each line that the download printed; raise StepFailed if it stalls."""
        path, seen, since = self._folder / "download.log", 0, time.monotonic()
        while True:
            ended = fetch.poll() is not None
            lines = path.read_text().splitlines()
            for line in lines[seen:]:
                yield json.loads(line)
            if len(lines) > seen:
                seen, since = len(lines), time.monotonic()
            if ended:
                return
            if time.monotonic() - since > STALL_S:
                raise StepFailed(f"the download stands still for {STALL_S:.0f} s")
            time.sleep(0.1)

    def _make_file(self, folder: Path) -> str:
        folder.mkdir()
        digest = hashlib.sha256()
        with (folder / "data").open("wb") as file:
            for _ in range(self._size // MEGABYTE):
                block = os.urandom(MEGABYTE)
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    # Picture

    def _statuses(self) -> dict[str, dict[str, Any]]:
        asked = {name: self._ask(name, "status") for name in TALKERS}
        return {name: table for name, table in asked.items() if table}

    def _show(self) -> None:
        for row in rows(self._statuses(), self._names):
            self._picture.say(row.strip())

    def _draw(self, line: str) -> None:
        self._picture.draw([*rows(self._statuses(), self._names), line])


def _program(name: str) -> str:
    """The command of this environment, so that no other one on PATH is taken."""
    return str(Path(sys.executable).with_name(name))


def _password() -> str:
    return os.urandom(16).hex() + "\n"


def _new_file(path: Path) -> Any:
    return path.open("w")
