"""From the first packet to the first answer: real nodes, real TUN devices, hosts of the lab.

    bench_cold_start.py [ROUNDS]

In each round one node pings the other three times. Before the next one streams, routes and tethers
have dissolved, which here they do after a second of idleness. What each node reached
when is noted by traced_node.py; times count from the moment when the first packet came out of the
TUN device. Median and range of all rounds.

The Master is on the same machine, and links have no delay: what is left is the nodes' own time.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benches.traced_node import STAGES
from conflux.api import UsageError
from conflux.lab import Host, Internet, World, missing, until
from conflux.runtime import localapi

PORT = 8000
READY_S = 40.0
ROUNDS = 10
NAMES = ("a", "b", "relay")
ANSWERS_AGAIN_S = 2.5
"""A relay answers who asks it for tethers once in 2 s: the round before is to be forgotten."""
IDLE = "[idle]\nstream_s = 1\nroute_s = 1\ntether_s = 1\n"
NODE = [sys.executable, str(Path(__file__).with_name("traced_node.py"))]

Times = dict[str, list[float]]
"""Milliseconds of each stage, one a round."""


def main() -> None:
    if lacking := missing():
        print("cold start: left out, it needs " + "; ".join(lacking))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    for title, names, blocked in (
        ("direct", NAMES[:2], False),
        ("firewalled from each other, one relay", NAMES, True),
    ):
        with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder, World() as world:
            lab = Lab(world, Path(folder), names, blocked=blocked)
            times: Times = {}
            lost = sum(lab.round(times) for _ in range(rounds))
        show(title, times, rounds, lost)


class Lab:
    """Guardian, Master and nodes, each on a host of its own."""

    def __init__(
        self, world: World, folder: Path, names: tuple[str, ...], *, blocked: bool
    ) -> None:
        self._world, self._folder = world, folder
        internet = Internet(world)
        self._hosts = {name: internet.host(name) for name in names}
        if blocked:
            internet.block(self._hosts["a"], self._hosts["b"])
        url = f"http://{internet.address}:{PORT}"
        token = self._start_guardian(f"{internet.address}:{PORT}")
        for name, host in self._hosts.items():
            self._register(name, host, url, token)
        until(lambda: all(map(self._is_running, self._hosts)), deadline_s=READY_S, what="nodes")

    def _start_guardian(self, listen: str) -> str:
        data, log = self._folder / "guardian", self._folder / "guardian.log"

        def guardian(*words: str, secret: str = "") -> str:
            argv = [_program("veilnet-guardian"), *words, "--data-dir", str(data)]
            return str(self._world.run(argv, input=secret).stdout).strip()

        guardian(
            "user", "add", "bench@example.org", "--password-stdin", secret=os.urandom(16).hex()
        )
        guardian("plane", "create", "bench", "10.99.0.0/24")
        argv = [_program("veilnet-guardian"), "serve", "--data-dir", str(data), "--listen", listen]
        with log.open("w") as file:
            self._world.popen(argv, stdout=file, stderr=file)
        until(lambda: "Guardian listens" in log.read_text(), deadline_s=READY_S, what="Guardian")
        return guardian("token", "create", "--user", "bench@example.org", "--plane", "bench")

    def _register(self, name: str, host: Host, url: str, token: str) -> None:
        """Start a node. It ends with the world."""
        place = self._folder / name
        place.mkdir(mode=0o700)
        (place / "conflux.toml").write_text(IDLE)
        argv = [*NODE, str(self._notes(name)), "register", "--foreground", "--guardian", url]
        argv += ["--tag", name, "--wait", "60", "--config-dir", str(place)]
        with (self._folder / f"{name}.log").open("a") as log:
            host.popen(argv, stdout=log, stderr=log, env={"VEILNET_REGISTRATION_TOKEN": token})

    def _is_running(self, name: str) -> bool:
        return self._ask(name, "status").get("state") == "running"

    def _is_cold(self, name: str) -> bool:
        table = self._ask(name, "status")
        return not table["peers"] and not table["neighbours"]

    def _notes(self, name: str) -> Path:
        return self._folder / f"{name}.notes"

    def _ask(self, name: str, verb: str) -> dict[str, object]:
        try:
            return dict(localapi.call(self._folder / name / "api.sock", verb))
        except UsageError:
            return {}

    def round(self, times: Times) -> int:
        """Wait until all is cold, ping; add to *times*, return how many answers were missing."""
        until(lambda: all(map(self._is_cold, self._hosts)), deadline_s=READY_S, what="cold nodes")
        time.sleep(ANSWERS_AGAIN_S)
        address = str(self._ask("b", "info")["address"]).partition("/")[0]
        argv = ["ping", "-n", "-c", "3", "-i", "0.3", "-W", "5", address]
        began = time.monotonic()
        printed = self._hosts["a"].run(argv, check=False, timeout_s=40).stdout
        answers = [float(ms) for ms in re.findall(r"time=([\d.]+) ms", printed)]
        if answers:
            times.setdefault("first answer, as ping sees it", []).append(answers[0])
        notes = {name: self._read(name, since=began) for name in "ab"}
        first = notes["a"]["packet from the TUN"]
        for name, noted in notes.items():
            for stage, at in noted.items():
                times.setdefault(f"{name}: {stage}", []).append((at - first) * 1_000)
        return 3 - len(answers)

    def _read(self, name: str, *, since: float) -> dict[str, float]:
        """When each stage was reached first."""
        found: dict[str, float] = {}
        for line in self._notes(name).read_text().splitlines():
            at, _, stage = line.partition(" ")
            if float(at) >= since:
                found.setdefault(stage, float(at))
        return found


def show(title: str, times: Times, rounds: int, lost: int) -> None:
    print(f"\ncold start, {title}: {rounds} rounds, {lost} of {3 * rounds} answers missing")
    print(f"  {'ms after the first packet':34} {'median':>7} {'least':>7} {'most':>7}  rounds")
    stages = {f"{name}: {stage}" for name in "ab" for stage in STAGES}
    for stage in sorted(times, key=lambda s: (s not in stages, statistics.median(times[s]))):
        found = times[stage]
        print(
            f"  {stage:34} {statistics.median(found):7.1f} {min(found):7.1f} {max(found):7.1f}"
            f"  {len(found)}"
        )


def _password() -> str:
    return os.urandom(16).hex() + "\n"


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    main()
