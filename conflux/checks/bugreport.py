"""What `bugreport` gathers: all that somebody far away needs, and no secret.

Everything passes through one Redactor, the last thing before it is written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from conflux import __version__
from conflux.api import UsageError
from conflux.checks.redact import Redactor, environment
from conflux.runtime import localapi

COMMAND_S = 10.0
MAX_PART_BYTES = 4 << 20
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "system/addresses.txt": ("ip", "address"),
    "system/routes.txt": ("ip", "route", "show", "table", "all"),
    "system/rules.txt": ("ip", "rule"),
    "system/service.txt": ("systemctl", "status", "--no-pager", "--lines=0", "veilnet"),
    "log.txt": (
        *("journalctl", "--unit=veilnet", "--lines=5000", "--no-pager", "--no-hostname"),
        *("--output=short-iso", "--quiet"),
    ),
}

Part = tuple[str, Callable[[], str]]


def write(path: Path, parts: Iterator[Part], redactor: Redactor) -> list[str]:
    """Write an archive that only its owner can read; return the names in it. Raises UsageError.

    A part that fails says so in its place. An existing file is left alone.
    """
    stamp = int(time.time())
    names = []
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, make in parts:
                text = redactor.clean(_made(make))[-MAX_PART_BYTES:]
                data = text.encode("utf-8", "replace")
                entry = tarfile.TarInfo(f"veilnet-bugreport/{name}")
                entry.size, entry.mtime, entry.mode = len(data), stamp, 0o600
                archive.addfile(entry, io.BytesIO(data))
                names.append(name)
    except FileExistsError:
        raise UsageError(f"{path} is there already: name another file with --output") from None
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return names


def parts(api_socket: Path, extra: Mapping[str, Callable[[], Any]]) -> Iterator[Part]:
    """Name and maker of each part; *extra* has those whose value is shown as JSON."""
    yield "about.json", lambda: _json(about())
    yield "environment.json", lambda: _json(environment(os.environ))
    for verb in ("status", "info"):
        yield f"node/{verb}.json", lambda verb=verb: _json(localapi.call(api_socket, verb))  # type: ignore[misc]
    for name, make in extra.items():
        yield name, lambda make=make: _json(make())  # type: ignore[misc]
    for name, command in COMMANDS.items():
        yield name, lambda command=command: _output(command)  # type: ignore[misc]


def about() -> dict[str, Any]:
    """Versions: of this program, of Python, of the system, of every distribution installed."""
    installed = {
        str(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata and found.metadata["Name"]
    }
    return {
        "veilnet-conflux": __version__,
        "python": sys.version,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "distributions": dict(sorted(installed.items(), key=lambda pair: pair[0].lower())),
    }


def _made(make: Callable[[], str]) -> str:
    try:
        return make()
    except UsageError as error:
        return f"{error}\n"
    except Exception:  # noqa: BLE001 - a bug, and so what the report is for
        return traceback.format_exc()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n"


def _output(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed here\n"
    try:
        done = subprocess.run(  # noqa: S603 - ours, word for word
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {type(error).__name__}\n"
    return (done.stdout + done.stderr).decode("utf-8", "replace")
