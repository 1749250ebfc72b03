"""What a node keeps on disk: who it is to Guardian, nothing of the network.

`conflux.json` is written by `register`, `up.json` by `up`; mode 0600 in a folder of mode 0700. As
long as a registration is not over there is `registering`, so that it can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from conflux.api import UsageError

REGISTERED = "conflux.json"
UP = "up.json"
REGISTERING = "registering"
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
        text = path.read_text(encoding="utf-8-sig")  # an editor may have put a mark before it
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
    _write(path, json.dumps(asdict(membership), indent=2) + "\n")


@contextlib.contextmanager
def instead(path: Path, membership: Membership) -> Iterator[None]:
    """Save it for what follows; if that fails, leave what was there before. Raises UsageError."""
    former = load(path)
    save(path, membership)
    try:
        yield
    except BaseException:
        if former is None:
            remove(path)
        else:
            save(path, former)
        raise


def note(path: Path, text: str) -> None:
    """Write a line that holds no secret, whole or not at all. Raises UsageError."""
    _write(path, text + "\n")


class Attempt:
    """The random value that tells one registration from all others, on disk until it is over.

    Guardian hears of it after the disk. So a registration that was cut short at any moment, were it
    by SIGKILL, is repeated with the value that it had, and Guardian makes no second conflux.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REGISTERING
        self._value = _attempt_in(self._path)
        self.was_cut_short = bool(self._value)
        """Whether an earlier one was, about which Guardian may know more than this folder."""

    def begin(self) -> str:
        """Return the value, saved. Raises UsageError."""
        if not self._value:
            self._value = secrets.token_urlsafe(ATTEMPT_BYTES)
            _write(self._path, self._value + "\n")
        return self._value

    def forget(self) -> None:
        """It is over. Raises UsageError."""
        remove(self._path)


ATTEMPT_BYTES = 32
_ATTEMPT = re.compile(r"[A-Za-z0-9_-]{43}\n")


def _attempt_in(path: Path) -> str:
    """Empty if there is none, or a torn one, which Guardian cannot have heard of."""
    try:
        text = path.read_bytes().decode("ascii", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return text.strip() if _ATTEMPT.fullmatch(text) else ""


def _write(path: Path, text: str) -> None:
    """Whole or not at all, also if the power fails. Raises UsageError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:  # of mode 0600
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
    """Remove the file, fine if there is none, and what a killed write left. Raises UsageError."""
    try:
        for torn in path.parent.glob(f".{path.name}.*"):
            torn.unlink(missing_ok=True)
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
