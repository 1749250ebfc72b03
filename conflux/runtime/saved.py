"""What a node keeps on disk: who it is to Guardian, nothing of the network.

`conflux.json` is written by `register`, `up.json` by `up`; mode 0600 in a folder of mode 0700.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from conflux.api import UsageError

REGISTERED = "conflux.json"
UP = "up.json"
ROOM_BYTES = 16_384
"""More than any membership needs: a token has at most 8 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A conflux that Guardian knows. Only `guardian` and `conflux_token` are needed to run."""

    guardian: str
    conflux_token: str
    conflux_id: str = ""
    tag: str = ""
    plane: str = ""
    address: str = ""

    def __repr__(self) -> str:
        return f"Membership(guardian={self.guardian!r}, conflux_id={self.conflux_id!r})"


def load(path: Path) -> Membership | None:
    """Read a membership; None if there is no such file. Raises UsageError if it is corrupt."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _corrupt(path, "not UTF-8") from None
    try:
        return _membership(json.loads(text))
    except RecursionError:
        raise _corrupt(path, "nested too deeply") from None
    except ValueError as error:
        raise _corrupt(path, str(error)) from None


def _corrupt(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is corrupt ({why}): restore it, or remove it and register again")


def save(path: Path, membership: Membership) -> None:
    """Write a membership whole or not at all, also if the power fails. Raises UsageError."""
    text = json.dumps(asdict(membership), indent=2) + "\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:  # mkstemp gave mode 0600
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Raise UsageError unless `save` will work, before anything that cannot be undone."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(ROOM_BYTES))  # a full disk lets an empty file pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def remove(path: Path) -> None:
    """Remove the file; fine if there is none. Raises UsageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be removed: {error.strerror}") from None


def _membership(table: object) -> Membership:
    if not isinstance(table, Mapping):
        raise ValueError("not a JSON object")
    fields = {name: table.get(name, "") for name in Membership.__dataclass_fields__}
    if not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("a field is not a string")
    if not fields["guardian"] or not fields["conflux_token"]:
        raise ValueError("guardian or conflux_token is missing")
    return Membership(**fields)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every platform can open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
