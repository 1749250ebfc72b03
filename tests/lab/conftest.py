"""Fixtures of the lab: a world, the Internet in it, and the eyes of an ordinary user."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from conflux.testing import lab

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _missing() -> str:
    return "; ".join(lab.missing())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and _missing():
        pytest.skip(f"the lab needs {_missing()}")


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
