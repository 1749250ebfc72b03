"""One file that is a whole node: Python, the kernel and this platform's plugins.

PyInstaller collects them (docs/decisions/0063-packages.md). On Linux and macOS the folder that it
makes is packed behind `unpack.sh`; on Windows it packs one file itself.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import wheels
from packaging.utils import parse_wheel_filename
from steps import HERE, OWN_LOCK, CannotBuild, epoch, install, leave_out_unused, program, run

NAME = "veilnet-conflux"


def build(dist: Path, work: Path) -> Path:
    """Build it from the wheels in *dist*; return the file. Leaves *work* to look at."""
    members = wheels.of_node(wheels.build(dist / "wheels"))
    shutil.rmtree(work, ignore_errors=True)
    python = _environment(work / "env", wheels.to_install(members))
    print("make build: packing the executable takes about a minute", file=sys.stderr, flush=True)
    built = _collect(python, work, list(members))
    _prove(built, set(members))
    version = str(parse_wheel_filename(members[wheels.KERNEL].name)[1])
    target = dist / f"{NAME}-{version}-{_platform()}"
    if sys.platform == "win32":
        return Path(shutil.copy(built, target.with_name(f"{target.name}.exe")))
    target.write_bytes(packed(_archive(built.parent), version, _platform()))
    target.chmod(0o755)
    return target


def _platform() -> str:
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    return f"{system}-{platform.machine().lower()}"


def _environment(folder: Path, members: list[str]) -> Path:
    """Make an environment with the node and PyInstaller in it; return its Python."""
    uv = program("uv")
    run([uv, "venv", "-q", "--python", Path(sys.base_prefix), folder])
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install(python, members)
    leave_out_unused(python)
    run([uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", OWN_LOCK])
    return python


def _collect(python: Path, work: Path, members: list[str]) -> Path:
    """Run PyInstaller; return the program that it made."""
    where: list[str | Path] = ["--workpath", work / "work", "--distpath", work / "dist"]
    options = ["--noconfirm", "--log-level", "ERROR"]
    variables = {"CONFLUX_MEMBERS": " ".join(members), "PYTHONHASHSEED": "0"}
    spec = HERE / "veilnet-conflux.spec"
    run([python, "-m", "PyInstaller", *options, *where, spec], **variables)
    if sys.platform == "win32":
        return work / "dist" / f"{NAME}.exe"
    _strip(work / "dist" / NAME / "_internal")
    return work / "dist" / NAME / NAME


def _strip(folder: Path) -> None:
    """Drop the debug symbols of Python's own libraries: a third of them, where Python was built.

    No others: those of wheels have been edited in a way that `strip` may break.
    """
    strip = shutil.which("strip")
    if strip is None or sys.platform != "linux":
        return
    for pattern in ("libpython3*.so*", "**/lib-dynload/*.so"):
        for library in folder.glob(pattern):
            run([strip, "--strip-unneeded", library])


def _prove(built: Path, members: set[str]) -> None:
    """Start what was built: its plugins must be the members', and none may have failed."""
    with tempfile.TemporaryDirectory() as empty:
        survey = json.loads(run([built, "plugins", "list", "--json", "--config-dir", empty]))
    failed = [plugin for plugin in survey["plugins"] if plugin["stage"] != "ok"]
    seen = {plugin["dist"].partition(" ")[0] for plugin in survey["plugins"]}
    if failed or seen != members - {wheels.KERNEL}:
        raise CannotBuild(f"{built} has the plugins {sorted(seen)}, failed are {failed}")


def _archive(folder: Path) -> bytes:
    """Pack *folder*'s contents as tar.gz: the same bytes for the same files."""
    date = int({**os.environ, **epoch()}.get("SOURCE_DATE_EPOCH", "0"))

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = date, 0, 0, "", ""
        return entry

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)
    return gzip.compress(raw.getvalue(), compresslevel=9, mtime=0)


def packed(archive: bytes, version: str, platform_name: str) -> bytes:
    """Return the executable: `unpack.sh`, filled in, and *archive*."""
    script = (HERE / "unpack.sh").read_text()
    identity = f"{version}-{hashlib.sha256(archive).hexdigest()[:16]}"
    for name, value in (("VERSION", version), ("PLATFORM", platform_name), ("ID", identity)):
        script = script.replace(f"@{name}@", value)
    # The offset is part of what is counted: it has five digits for that.
    head = script.replace("@OFFSET@", "00000").encode()
    return script.replace("@OFFSET@", f"{len(head) + 1:05}").encode() + archive
