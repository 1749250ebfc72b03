"""What every build step needs: the folders, a program's start, the pinned dependencies."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOCK = ROOT / "requirements.lock"
OWN_LOCK = HERE / "requirements.lock"
"""What builds the executable, and is no part of it."""
UNUSED = ("av",)
"""PyAV: aiortc asks for it, and conflux_tether_webrtc.rtc does without."""


class CannotBuild(Exception):
    """This machine lacks something. The message is one line that says what."""


def run(argv: Sequence[str | os.PathLike[str]], **variables: str) -> str:
    """Run a program in the root of the repository; return what it printed.

    Raises CannotBuild with all that it said if it fails.
    """
    done = subprocess.run(  # noqa: S603  # our own build steps
        [os.fspath(word) for word in argv],
        cwd=ROOT,
        env={**os.environ, **epoch(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotBuild(f"{argv[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def program(name: str) -> Path:
    """Find a program of this environment. Raises CannotBuild."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise CannotBuild(f"{name} is not in {sys.prefix}: run `make env`")
    return Path(found)


@functools.cache
def epoch() -> dict[str, str]:
    """The date of every file that is built, as reproducible builds want it.

    That of the last commit; outside of a repository each tool has a fixed one.
    """
    if "SOURCE_DATE_EPOCH" in os.environ:
        return {}
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return {}
    argv = [git, "log", "-1", "--format=%ct"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return {"SOURCE_DATE_EPOCH": done.stdout.strip()} if done.returncode == 0 else {}


def leave_out_unused(python: Path) -> None:
    """Take out what dependencies ask for and a node never loads."""
    run([program("uv"), "pip", "uninstall", "-q", "--python", python, *UNUSED])


def install(python: Path, wheels: Iterable[str], *options: str) -> None:
    """Install *wheels* and what they depend on, at the versions and hashes of the lock.

    The wheels are given as files, so that no index is asked for one of ours. What pip notes about
    that (PEP 610, with the folder of this machine) is removed: it is no business of a user's.
    """
    uv = program("uv")
    run([uv, "pip", "install", "-q", "--python", python, *options, "-c", LOCK, *wheels])
    say = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([python, "-I", "-c", say]).strip())
    for note in packages.glob("*.dist-info/direct_url.json"):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/direct_url.json," not in line))
    (Path(python).parents[1] / ".lock").unlink(missing_ok=True)
