"""The Debian package: the pinned distributions in an environment of Debian's own Python.

Python, its standard library and OpenSSL of the standard library stay Debian's, with Debian's
updates, and a plugin is one `pip install` away. So the package belongs to the release of Debian on
which it is built: its Python's minor version is a dependency.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import wheels
from packaging.utils import parse_wheel_filename
from steps import HERE, CannotBuild, epoch, install, leave_out_unused, run

NAME = "veilnet-conflux"
PYTHON = Path("/usr/bin/python3")
"""Debian's, whatever else is on PATH."""
HOME = Path("/usr/lib/veilnet-conflux")
SCRIPTS = ("postinst", "prerm", "postrm")


def build(dist: Path, work: Path) -> Path:
    """Build it from the wheels of the workspace; return the file. Leaves *work* to look at."""
    minor, architecture = _debian()
    members = wheels.of_node(wheels.build(dist / "wheels"))
    version = str(parse_wheel_filename(members[wheels.KERNEL].name)[1])
    shutil.rmtree(work, ignore_errors=True)
    _fill_environment(work, minor, wheels.to_install(members))
    target = dist / f"{NAME}_{version}_{architecture}.deb"
    pack(work, minor, architecture, version, target)
    return target


def pack(work: Path, minor: str, architecture: str, version: str, target: Path) -> None:
    """Add to the files in *work* what makes them a package, and pack it."""
    _link_and_document(work, version)
    _control(work, minor, architecture, version)
    # zstd: xz takes minutes for a seventh less.
    run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z12", "--build", work, target])


def _debian() -> tuple[str, str]:
    """Return the minor version of Debian's Python and the architecture. Raises CannotBuild."""
    if not PYTHON.exists() or shutil.which("dpkg-deb") is None:
        raise CannotBuild(f"it takes dpkg-deb and {PYTHON}: build it on Debian or its children")
    # Isolated, and whatever a version manager has put on PATH.
    say = "import sys; print('{}.{}'.format(*sys.version_info))"
    minor = run([PYTHON, "-I", "-c", say]).strip()
    if tuple(map(int, minor.split("."))) < (3, 11):
        raise CannotBuild(f"{PYTHON} is {minor}: it takes 3.11, Debian 12")
    return minor, run(["dpkg", "--print-architecture"]).strip()


def _fill_environment(work: Path, minor: str, members: list[str]) -> None:
    """Make the environment as `python3 -m venv` does, but with the paths of where it will be."""
    home = work / HOME.relative_to("/")
    (home / "bin").mkdir(parents=True)
    (home / "lib" / f"python{minor}" / "site-packages").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to(f"/usr/bin/python{minor}")
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {minor}\n"
    )
    # Copied: hard links would lead from the package into uv's cache.
    install(home / "bin" / "python3", members, "--link-mode", "copy")
    leave_out_unused(home / "bin" / "python3")
    command = home / "bin" / NAME
    lines = command.read_text().splitlines(keepends=True)
    # Isolated: root's PYTHONPATH is no place for plugins.
    command.write_text("".join([f"#!{HOME}/bin/python3 -I\n", *lines[1:]]))
    for other in (home / "bin").iterdir():
        if other.name not in ("python3", NAME):
            other.unlink()
    compiling = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(work), "-p", "/"]
    packages = home / "lib" / f"python{minor}" / "site-packages"
    # To where modules are looked for, not to where a build keeps its bytecode.
    run([PYTHON, "-I", "-X", "pycache_prefix=", "-m", "compileall", *compiling, packages])


def _link_and_document(work: Path, version: str) -> None:
    (work / "usr" / "bin").mkdir(parents=True)
    (work / "usr" / "bin" / NAME).symlink_to(f"../lib/{NAME}/bin/{NAME}")
    documents = work / "usr" / "share" / "doc" / NAME
    documents.mkdir(parents=True)
    shutil.copy(HERE / "debian" / "copyright", documents)
    entry = (HERE / "debian" / "changelog.in").read_text()
    date = int({**os.environ, **epoch()}.get("SOURCE_DATE_EPOCH", "0"))
    when = run(["date", "-u", "-R", "-d", f"@{date}"], LC_ALL="C").strip()
    text = entry.replace("@VERSION@", version).replace("@DATE@", when)
    (documents / "changelog.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def _control(work: Path, minor: str, architecture: str, version: str) -> None:
    files = sorted(path for path in work.rglob("*") if path.is_file() and not path.is_symlink())
    folder = work / "DEBIAN"
    folder.mkdir()
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "MINOR": minor,
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
    }
    control = (HERE / "debian" / "control.in").read_text()
    for name, value in values.items():
        control = control.replace(f"@{name}@", value)
    (folder / "control").write_text(control)
    sums = (f"{_md5(path)}  {path.relative_to(work).as_posix()}\n" for path in files)
    (folder / "md5sums").write_text("".join(sums))
    for script in SCRIPTS:
        shutil.copy(HERE / "debian" / script, folder)
    # As they shall be installed, whatever this user's umask is; what is imported is no program.
    for path in work.rglob("*"):
        if not path.is_symlink():
            started = path.is_dir() or path.parent.name == "bin" or path.name in SCRIPTS
            path.chmod(0o755 if started else 0o644)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
