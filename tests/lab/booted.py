"""Machines that a real systemd boots: a copy of this machine's root in a host of the lab.

systemd-nspawn runs over an overlay of /, in a world, in the network namespace of a host: whatever
is installed, written or killed in there is gone with the world.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from conflux import lab

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("systemd-nspawn", "/lib/systemd/systemd", "dbus-daemon")
NUMBERS = itertools.count()
BOOT_S = 60.0

LAYERS = """
mount --make-rprivate / && mkdir -p {folder} && mount -t tmpfs -o mode=755 lab {folder} || exit
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay lab {folder}/root -o \
lowerdir=/,upperdir={folder}/upper,workdir={folder}/work || exit
cd {folder}/root || exit
rm -rf etc/machine-id var/log/journal root/.config/conflux etc/systemd/system/*.wants
: >etc/machine-id
mkdir -p var/log/journal
"""

BOOT = """
umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
mkdir -p /sys/fs/cgroup/{group} && echo $$ >/sys/fs/cgroup/{group}/cgroup.procs || exit
exec systemd-nspawn -b -D {folder}/root -M {name} --register=no --keep-unit --console=pipe \
--bind=/dev/net/tun --bind-ro={source} --capability=CAP_NET_ADMIN,CAP_NET_RAW --resolv-conf=off \
--timezone=off --link-journal=no --network-namespace-path=/run/netns/{name}
"""


def needs_systemd() -> None:
    """Skip, by name, where no systemd can be booted."""
    if os.geteuid() != 0:
        pytest.skip("systemd is booted in a container by root only")
    for program in PROGRAMS:
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is missing (Debian: systemd-container dbus systemd-sysv)")


class Machine:
    """A computer with systemd, at a host of the lab's Internet."""

    def __init__(self, world: lab.World, host: lab.Place, name: str) -> None:
        self.host = host
        self.name = name
        self.world = world
        self.group = f"veilnet-test-{os.getpid()}-{next(NUMBERS)}"
        self.log = Path(f"/tmp/{self.group}.log")
        self._words = {
            "folder": f"/mnt/{name}", "name": host.name, "group": self.group, "source": ROOT,
        }  # fmt: skip
        self._boot: lab.Process | None = None
        world.run(["sh", "-c", "mountpoint -q /mnt || mount -t tmpfs lab /mnt"])
        world.run(["sh", "-c", LAYERS.format(**self._words)])

    def boot(self) -> None:
        """Switch it on; return when systemd runs."""
        with self.log.open("a") as log:
            script = BOOT.format(**self._words)
            self._boot = self.world.popen(
                ["unshare", "--mount", "sh", "-c", script], stdout=log, stderr=log
            )
        lab.until(self._is_up, deadline_s=BOOT_S, what=f"{self.name} to boot: {self.log}")

    def _is_up(self) -> bool:
        assert self._boot is not None
        assert self._boot.poll() is None, self.log.read_text()[-3000:]
        if not self._leader():
            return False
        said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return said in ("running", "degraded")

    def _leader(self) -> str:
        """The process id of its systemd, as the machine below sees it."""
        assert self._boot is not None
        nspawn = self._boot.program
        try:
            return Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()[0]
        except (OSError, IndexError):
            return ""

    def command(self, *argv: object, variables: Mapping[str, str] | None = None) -> list[str]:
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            **(variables or {}),
        }
        pairs = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", "--target", self._leader(), "--all", "--wdns=/", "env", "-i", *pairs]
        return [*enter, *map(str, argv)]

    def run(
        self,
        *argv: object,
        check: bool = True,
        variables: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root has logged in."""
        done = subprocess.run(
            self.command(*argv, variables=variables),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=timeout_s,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def cli(
        self, *words: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("veilnet-conflux")
        return self.run(program, *words, check=check, variables=variables)

    def status(self) -> dict[str, object]:
        done = self.cli("status", "--json", check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {"state": "down"}

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && printf %s "$1" >"$0"', path, text)

    def files(self, *folders: str) -> Sequence[str]:
        return self.run("find", *folders, "-name", "*veilnet*", check=False).stdout.split()

    def power_off(self) -> None:
        """Pull the plug."""
        if self._boot is not None:
            if leader := self._leader():
                os.kill(int(leader), signal.SIGKILL)  # PID 1 in there: all in it die with it
            self._boot.kill()
            self._boot.wait()
            self._boot = None

    def reboot(self) -> None:
        """As `systemctl reboot` does."""
        assert self._boot is not None
        self.run("systemctl", "reboot", check=False)
        assert self._boot.wait(BOOT_S) == 133, "nspawn says: it wants to boot again"
        self.boot()


def sweep(machines: Sequence[Machine]) -> None:
    """Remove what outlives the world: the machines' control groups and logs."""
    for machine in machines:
        machine.log.unlink(missing_ok=True)
    groups = " ".join(machine.group for machine in machines)
    script = (
        "mount -t tmpfs lab /mnt && mkdir /mnt/groups && mount -t cgroup2 cgroup2 /mnt/groups && "
        f"cd /mnt/groups && for group in {groups}; do "
        'if [ -d "$group" ]; then find "$group" -depth -type d -exec rmdir {} + || exit; fi; done'
    )

    def swept() -> bool:
        # What was killed is busy for a moment.
        argv = ["unshare", "--mount", "sh", "-c", script]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    lab.until(swept, deadline_s=20, what="the control groups to be empty")
