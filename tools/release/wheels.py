"""Wheels of every member of the workspace, and which of them a node is made of."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from steps import program, run

KERNEL = "veilnet-conflux"
EXTRA = "node"


def build(into: Path) -> dict[str, Path]:
    """Build the wheel of every member of the workspace; return them by distribution.

    *into* holds nothing else afterwards. Without network: the backend is in the environment.
    """
    shutil.rmtree(into, ignore_errors=True)
    uv = program("uv")
    options = ["--all-packages", "--wheel", "--no-build-isolation", "--offline"]
    python = program("python")
    run([uv, "build", "-q", *options, "--python", python, "-o", into])
    return found(into)


def found(folder: Path) -> dict[str, Path]:
    """Return the wheels of *folder* by distribution."""
    return {parse_wheel_filename(path.name)[0]: path for path in sorted(folder.glob("*.whl"))}


def of_node(
    wheels: Mapping[str, Path], environment: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Return those that `veilnet-conflux[node]` pulls in where *environment* holds (PEP 508).

    Without one: on this machine. The kernel comes first.
    """
    chosen: dict[str, Path] = {}
    waiting = [(canonicalize_name(KERNEL), frozenset({EXTRA}))]
    while waiting:
        name, extras = waiting.pop(0)
        if name in chosen or name not in wheels:
            continue
        chosen[name] = wheels[name]
        for text in metadata(wheels[name]).get_all("Requires-Dist", []):
            requirement = Requirement(text)
            if _holds(requirement, extras, environment):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return chosen


def to_install(members: Mapping[str, Path]) -> list[str]:
    """Return what an installer is told: these files, and what the node asks for beside plugins."""
    kernel = f"{KERNEL}[{EXTRA}] @ {members[KERNEL].as_uri()}"
    return [kernel, *(str(path) for name, path in members.items() if name != KERNEL)]


def metadata(wheel: Path) -> Message:
    """Return the core metadata of *wheel*."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def _holds(
    requirement: Requirement, extras: frozenset[str], environment: Mapping[str, str] | None
) -> bool:
    if requirement.marker is None:
        return True
    marker = requirement.marker
    return any(marker.evaluate({**(environment or {}), "extra": extra}) for extra in extras or {""})
