"""VeilNet Conflux as users start it: a Guardian with its Master, and a node on each host.

Guardian runs at the underlay's middle: on the near host, or on the bridge where there are relays.
The accounts are made once for a run of the benchmark and copied for each start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benches.compare.products import Tunnel, await_sign, await_words, start_program
from benches.compare.worlds import Underlay
from conflux.api import UsageError
from conflux.lab import LabError, Process, until
from conflux.runtime import localapi

PORT = 8000
USER = "bench@example.org"
PLANE = "bench"
NETWORK = "10.99.0.0/24"
SETTLED_S = 20.0


@dataclass(slots=True)
class Conflux:
    """One tether kind and one level of packet authentication; all else by default."""

    name: str
    label: str
    tether: str
    packet_auth: str
    accounts: Path
    """Where the accounts of this run are, or will be."""
    commands: Path = Path(sys.executable).parent
    """Where the nodes' command is: in this environment, so that no other one on PATH is taken."""

    def prepare(self) -> str:
        if not self.accounts.exists():
            _make_accounts(self.accounts)
        node = str(self.commands / "veilnet-conflux")
        copy = str(self.commands.parents[1])
        return _line(["git", "-C", copy, "describe", "--always", "--dirty"]) or _line(
            [node, "--version"]
        )

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        guardian = self._start_guardian(underlay, folder)
        url = f"http://{underlay.middle.address}:{PORT}"
        variables = {
            "VEILNET_REGISTRATION_TOKEN": (self.accounts / "token").read_text(),
            "VEILNET_PLUGIN_TETHER": self.tether,
            "VEILNET_PACKET_AUTH": self.packet_auth,
        }
        nodes, folders = [], []
        for number, host in enumerate(underlay.hosts):
            folders.append(folder / f"node{number}")
            argv = [
                *(str(self.commands / "veilnet-conflux"), "register", "--foreground"),
                *("--wait", "60"),
                *("--guardian", url, "--tag", f"node{number}", "--config-dir", str(folders[-1])),
            ]
            log = folder / f"node{number}.log"
            nodes.append(start_program(host, argv, log, variables))
        for node, at in zip(nodes, folders, strict=True):
            await_sign(partial(_is_running, at), "to run", node, at.with_suffix(".log"))
        known = [_ask(at, "info") for at in folders]
        near, far = (known[end]["address"].partition("/")[0] for end in (0, -1))
        way = _Way(folders, (near, far), [info["node_id"] for info in known], self)
        return Tunnel(near, far, nodes, [guardian], way.wait)

    def _start_guardian(self, underlay: Underlay, folder: Path) -> Process:
        data, log = folder / "guardian", folder / "guardian.log"
        shutil.copytree(self.accounts / "guardian", data)
        listen = f"{underlay.middle.address}:{PORT}"
        argv = [_command("veilnet-guardian"), "serve", "--data-dir", str(data), "--listen", listen]
        guardian = start_program(underlay.middle, argv, log)
        await_words("Guardian listens", guardian, log)
        return guardian


@dataclass(frozen=True, slots=True)
class _Way:
    """What both ends have to agree that packets take."""

    folders: list[Path]
    addresses: tuple[str, str]
    names: list[str]
    product: Conflux

    def wait(self) -> None:
        """Wait until both ends use the wanted tether, over every host in turn. Raises LabError."""
        until(self._is_taken, deadline_s=SETTLED_S, what=f"packets to go by {self.product.name}")

    def _is_taken(self) -> bool:
        ways = ((0, self.addresses[1], self.names), (-1, self.addresses[0], self.names[::-1]))
        return all(self._is_right(*way) for way in ways)

    def _is_right(self, end: int, towards: str, wanted: list[str]) -> bool:
        for peer in _ask(self.folders[end], "status").get("peers", ()):
            if peer["address"] == towards:
                used = (peer["path"], peer["tether"], peer["packet_auth"])
                return bool(used == (wanted, self.product.tether, self.product.packet_auth))
        return False


def products(accounts: Path) -> list[Conflux]:
    """Both tethers at each level of packet authentication; the default level has the plain name."""
    return [
        Conflux(
            name=f"conflux-{tether}" + (f"-{level}" if level != "checkpoint" else ""),
            label=f"conflux, {title}, {level}",
            tether=tether,
            packet_auth=level,
            accounts=accounts,
        )
        for tether, title in (("udp", "UDP"), ("webrtc", "WebRTC"))
        for level in ("checkpoint", "handshake", "strict")
    ]


def _make_accounts(folder: Path) -> None:
    """A user, a plane and a registration token that lasts a day."""
    folder.mkdir(parents=True)
    data = ["--data-dir", str(folder / "guardian")]

    def guardian(*words: str, secret: str = "") -> str:
        argv = [_command("veilnet-guardian"), *words, *data]
        done = subprocess.run(argv, input=secret, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"veilnet-guardian {words[0]} {words[1]}: {done.stderr.strip()}")
        return done.stdout.strip()

    guardian("user", "add", USER, "--password-stdin", secret=os.urandom(16).hex() + "\n")
    guardian("plane", "create", PLANE, NETWORK)
    token = folder / "token"
    token.touch(0o600)
    token.write_text(guardian("token", "create", "--user", USER, "--plane", PLANE))


def _is_running(folder: Path) -> bool:
    return bool(_ask(folder, "status").get("state") == "running" and _ask(folder, "info"))


def _ask(folder: Path, verb: str) -> dict[str, Any]:
    """What the node says by its socket; empty while it does not answer."""
    try:
        answer: dict[str, Any] = localapi.call(folder / "api.sock", verb)
    except UsageError:
        return {}
    return answer


def _command(name: str) -> str:
    """Guardian's command, of this environment."""
    return str(Path(sys.executable).with_name(name))


def _line(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
