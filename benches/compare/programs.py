"""Finds the programs of the other products, or fetches their Debian packages below build/.

Nothing is installed: packages are unpacked, and run from there with their own libraries in front.
The addresses are those of the system's own package sources; wireguard-go and nebula are wanted as
Debian trixie has them, since older ones lack offloads, so on an older system that suite's name
takes the place of the system's own. What was fetched once is used again; `make clean` removes it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BUILD = Path("build/bench")
TRIXIE = "trixie"
FETCH_S = 300.0


class Missing(Exception):
    """A program can be neither found nor fetched. The message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """Where an executable is, the version of its package, and what it needs in its environment."""

    path: str
    version: str
    env: dict[str, str]


def load_generator() -> str:
    """Compile load.c if it is newer than what was compiled; return the path. Raises Missing."""
    source, made = Path(__file__).with_name("load.c"), (BUILD / "load").resolve()
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        if (compiler := shutil.which("cc")) is None:
            raise Missing("no C compiler for benches/compare/load.c: apt install gcc libc6-dev")
        made.parent.mkdir(parents=True, exist_ok=True)
        _run([compiler, "-O2", "-std=gnu11", "-pthread", "-o", str(made), str(source)])
    return str(made)


def find(program: str, package: str, *, trixie: bool = False) -> Program:
    """Return *program* of *package*: the system's own, or fetched. Raises Missing.

    With *trixie* the system's own counts only if the system is that suite or a later one.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is not None and not (trixie and _is_older_than_trixie()):
        version = _run(["dpkg-query", "-W", "-f", "${Version}", package], check=False)
        return Program(path, version or "own build", {})
    return _unpacked(program, package, trixie=trixie and _is_older_than_trixie())


def _unpacked(program: str, package: str, *, trixie: bool) -> Program:
    folder = (BUILD / package).resolve()
    if not (folder / "root").exists():
        _fetch(folder, package, trixie=trixie)
    for place in ("usr/sbin", "usr/bin"):
        path = folder / "root" / place / program
        if path.exists():
            libraries = [*(folder / "root").glob("usr/lib/*-linux-*")]
            libraries += (folder / "root").glob("lib/*-linux-*")
            env = {"LD_LIBRARY_PATH": ":".join(map(str, libraries))} if libraries else {}
            return Program(str(path), _version(folder, package), env)
    raise Missing(f"Debian's package {package} has no {program}")


def _fetch(folder: Path, package: str, *, trixie: bool) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Missing(f"no {package} on this machine, and no {program} to fetch it with")
    packages = folder / "packages"
    (packages / "partial").mkdir(parents=True, exist_ok=True)
    if trixie:
        # By itself: what it depends on is there, or it fails when it is tried.
        _run(["apt-get", *_trixie_options(), "-q", "download", package], cwd=packages)
    else:
        _run([
            *("apt-get", "-qy", "--no-install-recommends", "--download-only"),
            *("-o", f"Dir::Cache::archives={packages}", "-o", "Debug::NoLocking=1"),
            *("install", package),
        ])  # fmt: skip
    root = folder / "root.partial"
    for file in packages.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(file), str(root)])
    root.rename(folder / "root")


def _trixie_options() -> list[str]:
    """Options that make apt see trixie, in lists of our own, fetched now if they are not there."""
    folder = (BUILD / TRIXIE).resolve()
    parts, lists = folder / "sources", folder / "lists"
    options = [
        *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={parts}"),
        *("-o", f"Dir::State::lists={lists}"),
        *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
    ]
    if not (folder / "fetched").exists():
        parts.mkdir(parents=True, exist_ok=True)
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        if not _write_trixie_sources(parts):
            raise Missing("no sources of Debian's archive in /etc/apt to take trixie from")
        _run(["apt-get", *options, "-q", "update"])
        (folder / "fetched").touch()
    return options


def _write_trixie_sources(parts: Path) -> bool:
    """Write what the system's own sources become; return whether that is anything."""
    own = [Path("/etc/apt/sources.list")]
    own += [*Path("/etc/apt/sources.list.d").glob("*.*")]
    for file in own:
        if file.suffix in (".list", ".sources") and file.exists():
            text = to_trixie(file.read_text(), _codename())
            (parts / file.name).write_text(text)
    return any(file.stat().st_size for file in parts.iterdir())


def to_trixie(sources: str, codename: str) -> str:
    """What apt's *sources* say of Debian's own archive, with trixie in place of *codename*.

    Stanzas (deb822) or lines, as sources.list(5) has them; those of other archives are left out.
    """
    stanzas = re.split(r"\n\s*\n", sources.strip())
    if not re.search(r"^URIs:", sources, re.MULTILINE):
        stanzas = [line for line in sources.splitlines() if line.startswith("deb ")]
    kept = [s for s in stanzas if re.search(DEBIANS_OWN, s) and codename in s]
    return "\n\n".join(f"{stanza.replace(codename, TRIXIE)}\n" for stanza in kept)


DEBIANS_OWN = re.compile(r"://\S+/debian(-security)?/?(\s|$)")


def _is_older_than_trixie() -> bool:
    release = _os_release()
    return release.get("ID") == "debian" and int(release.get("VERSION_ID", "99")) < 13


def _codename() -> str:
    if name := _os_release().get("VERSION_CODENAME"):
        return name
    raise Missing("the system does not say which suite of Debian it is")


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _version(folder: Path, package: str) -> str:
    for file in (folder / "packages").glob(f"{package}_*.deb"):
        return _run(["dpkg-deb", "-f", str(file), "Version"])
    return "unknown"


def _run(argv: list[str], *, cwd: Path | None = None, check: bool = True) -> str:
    """Run *argv*; return what it printed. Raises Missing with its last line if it fails."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, timeout=FETCH_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if not check:
            return ""
        raise Missing(f"{argv[0]}: {error}") from None
    if done.returncode and check:
        words = re.sub(r"\s+", " ", (done.stderr or done.stdout).strip())[-300:]
        raise Missing(f"{argv[0]} {argv[-1]} failed: {words}")
    return done.stdout.strip() if done.returncode == 0 else ""
