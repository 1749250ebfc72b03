"""What the README tells a newcomer to type works, typed literally, in any order.

Each fenced block under `<!-- test: NAME -->` runs as it stands. Replaced are: the token by the one
that was printed, the tag and the user by another where there are several, `make env` by nothing,
since the environment is there. The router of the lab has the README's address of Guardian.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from conflux.api import UsageError
from conflux.runtime import localapi

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
GUARDIAN = "192.168.1.10"
READY_S = 60.0
PASSWORD = "correct horse battery\ncorrect horse battery\n"
NOTHING: Mapping[str, str] = MappingProxyType({})

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n```sh\n(.*?)```", README, re.DOTALL))


def test_readme_has_the_blocks_that_are_tested():
    assert set(BLOCKS) == {"guardian", "serve", "host", "again", "look", "team"}
    for name in ("guardian", "host"):
        assert BLOCKS[name].startswith("make env\n")


class Terminal:
    """One machine: a home, a clone with its environment, and a /run of its own."""

    def __init__(self, place, home: Path) -> None:
        self.place = place
        self.home = home
        self.clone = home / "conflux"
        (home / "run").mkdir(parents=True)
        self.clone.mkdir()
        (self.clone / ".venv").symlink_to(ROOT / ".venv")

    def type(
        self, script: str, replaced: Mapping[str, str] = NOTHING
    ) -> subprocess.CompletedProcess[str]:
        """Type a block and wait for its end."""
        return self.place.run(
            self._argv(script, replaced), cwd=self.clone, input=PASSWORD, timeout_s=60
        )

    def start(self, script: str, replaced: Mapping[str, str] = NOTHING) -> subprocess.Popen[str]:
        """Type a block whose last command runs until Ctrl-C."""
        (self.home / "typed").write_text(PASSWORD)
        with (self.home / "typed").open() as typed, (self.home / "log").open("a") as log:
            return self.place.popen(
                self._argv(script, replaced), cwd=self.clone, stdin=typed, stdout=log, stderr=log
            )

    def _argv(self, script: str, replaced: Mapping[str, str]) -> list[str]:
        *lines, last = script.replace("make env\n", "").rstrip().split("\n")
        # Ctrl-C goes to the program in the foreground: here that is the shell's own process.
        text = "\n".join(["set -eu", *lines, f"exec {last}"])
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        # The hosts of the lab share one file system: each terminal sees its own host's /run.
        mounts = f"mount --bind {self.home}/run /run && exec env HOME={self.home} bash -c"
        return ["unshare", "--mount", "sh", "-c", f'{mounts} "$0"', text]

    def asked(self, verb: str) -> dict[str, Any]:
        """What `status` and `info` say, by the same socket; {} if no node is there."""
        try:
            return dict(localapi.call(self.home / "run" / "veilnet" / "api.sock", verb))
        except UsageError:
            return {}

    def address(self) -> str:
        return str(self.asked("info")["address"]).partition("/")[0]

    def log(self) -> str:
        return (self.home / "log").read_text()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="veilnet-readme-") as folder:
        yield Path(folder)


@pytest.fixture
def town(internet, folder):
    """The middle of the network, with the README's address, and two hosts."""
    internet.world.run(["ip", "address", "add", f"{GUARDIAN}/32", "dev", "lo"])
    places = {"guardian": internet.world}
    places |= {name: internet.host(name) for name in ("london", "tokyo")}
    return {name: Terminal(place, folder / name) for name, place in places.items()}


def exports(block: str) -> str:
    """The lines of a block that each new terminal needs."""
    return "".join(
        line for line in block.splitlines(keepends=True) if line.startswith("export PATH")
    )


GUARDIAN_EXPORTS, HOST_EXPORTS = exports(BLOCKS["guardian"]), exports(BLOCKS["host"])


def token_in(text: str) -> str:
    [token] = re.findall(r"^vnr_\S+$", text, re.MULTILINE)
    return token


@pytest.fixture
def wait(until):
    """Wait until a host runs."""

    def wait(host):
        what = f"the host to run:\n{host.log()}"
        until(lambda: host.asked("status").get("state") == "running", deadline_s=READY_S, what=what)

    return wait


def pings(source, target) -> bool:
    argv = ["ping", "-c", "1", "-W", "2", target.address()]
    return source.place.run(argv, check=False).returncode == 0


def test_two_hosts_by_hand_with_guardian_first_then_all_again_with_guardian_last(town, wait, until):
    guardian, london, tokyo = town.values()
    serving = guardian.start(BLOCKS["guardian"])
    until(lambda: "Guardian listens" in guardian.log(), deadline_s=READY_S, what="Guardian")
    token = token_in(guardian.log())
    nodes = []
    for name, host in (("london", london), ("tokyo", tokyo)):
        replaced = {"the-token-from-above": token, "tag london": f"tag {name}"}
        nodes.append(host.start(BLOCKS["host"], replaced))
        wait(host)
    assert (london.address(), tokyo.address()) == ("10.99.0.1", "10.99.0.2")
    until(lambda: pings(tokyo, london), deadline_s=20, what="tokyo to reach london")
    seen = london.type(HOST_EXPORTS + BLOCKS["look"]).stdout
    assert "3 received" in seen
    assert re.search(r"10\.99\.0\.2 +direct", seen)
    assert os.path.exists(london.home / ".config" / "conflux" / "conflux.json")

    for process in (serving, *nodes):
        process.send_signal(signal.SIGINT)
    assert [process.wait(20) for process in (serving, *nodes)] == [0, 0, 0]
    for host in (tokyo, london):
        host.start(HOST_EXPORTS + BLOCKS["again"])
    for host in (tokyo, london):
        until(
            lambda h=host: "waiting for Guardian" in h.log(),
            deadline_s=READY_S,
            what="the host to wait",
        )
    guardian.start(GUARDIAN_EXPORTS + BLOCKS["serve"])
    for host in (london, tokyo):
        wait(host)
    until(lambda: pings(london, tokyo), deadline_s=20, what="london to reach tokyo again")


@pytest.mark.thorough
def test_hosts_of_two_users_with_guardian_last_and_then_a_team(town, wait, until):
    guardian, london, tokyo = town.values()
    *setting_up, serve = BLOCKS["guardian"].rstrip().split("\n")
    token = token_in(guardian.type("\n".join([*setting_up, "true"])).stdout)
    others = [line for line in setting_up if "plane create" not in line]
    other_token = token_in(
        guardian.type("\n".join([*others, "true"]), {"you@example.org": "ben@example.org"}).stdout
    )
    for name, host, its in (("tokyo", tokyo, other_token), ("london", london, token)):
        host.start(BLOCKS["host"], {"the-token-from-above": its, "tag london": f"tag {name}"})
    guardian.start(GUARDIAN_EXPORTS + serve)
    for host in (london, tokyo):
        wait(host)
    assert not pings(london, tokyo)
    guardian.type(GUARDIAN_EXPORTS + BLOCKS["team"])
    until(lambda: pings(london, tokyo), deadline_s=20, what="the team to take effect")
    until(lambda: pings(tokyo, london), deadline_s=20, what="the team to take effect")
