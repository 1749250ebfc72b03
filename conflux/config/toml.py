"""`conflux.toml`: its values by tomllib, and where each key stands, which tomllib does not tell.

Keys are named by their path, ("plugin", "router", "static"); elements of arrays have none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conflux.api import UsageError

FILE_NAME = "conflux.toml"
MAX_INTEGER_BITS = 63
"""Without the sign."""

Place = tuple[int, int]
"""Line and column of a key's first character, from 1."""

_WHERE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


class TomlFile:
    """One file, read whole; a missing one says nothing. Raises UsageError if it is no TOML."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _read(path)
        try:
            self.data: Mapping[str, Any] = tomllib.loads(text)
            _check_integers(self.data)
            self._places = places(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(_moved(path, text, str(error))) from None
        except RecursionError:
            raise UsageError(f"{path}: nested too deeply") from None
        except ValueError:
            raise UsageError(f"{path}: a number in it has too many digits") from None

    def place(self, *path: str) -> str:
        """Return "file:line:column" of a key; of its table if it has no place of its own."""
        while path and path not in self._places:
            path = path[:-1]
        if not path:
            return str(self.path)
        line, column = self._places[path]
        return f"{self.path}:{line}:{column}"


def places(text: str) -> dict[tuple[str, ...], Place]:
    """Return where each key of *text*, which must be TOML, stands for the first time."""
    # As tomllib does: else a column after CR LF would be one off.
    return _Scanner(text.replace("\r\n", "\n")).scan()


def _check_integers(value: object) -> None:
    """Raise ValueError for one beyond 64 bits, as TOML has it: Python may be unable to print it."""
    match value:
        case dict():
            _check_integers([*value.values()])
        case list():
            for inner in value:
                _check_integers(inner)
        case int() if value.bit_length() > MAX_INTEGER_BITS:
            raise ValueError


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors of Windows write a mark before it
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _moved(path: Path, text: str, message: str) -> str:
    """tomllib's message with its place in front, as all others have it."""
    found = _WHERE.fullmatch(message)
    if found is None:
        return f"{path}: {message}"
    if found[2]:
        return f"{path}:{found[2]}:{found[3]}: {found[1]}"
    lines = text.split("\n")
    return f"{path}:{len(lines)}:{len(lines[-1]) + 1}: {found[1]}"


_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'"""(?:[^\\]|\\.)*?"{3,5}(?!")',
        r"'''.*?'{3,5}(?!')",
        r'"(?:[^"\\]|\\.)*"',
        r"'[^']*'",
    )
)


class _Scanner:
    """Walks over a text that is known to be TOML, and notes where keys begin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[tuple[str, ...], Place] = {}

    def scan(self) -> dict[tuple[str, ...], Place]:
        table: tuple[str, ...] = ()
        while self._skip(_BLANK) < len(self._text):
            if self._peek("["):
                brackets = 2 if self._peek("[[") else 1
                self._at += brackets
                self._skip(_SPACE)
                table = self._key(())
                self._at += brackets
            else:
                self._entry(table)
        return self._found

    def _entry(self, table: tuple[str, ...]) -> None:
        key = self._key(table)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(key)

    def _key(self, table: tuple[str, ...]) -> tuple[str, ...]:
        """Read a key, maybe dotted, and the space behind it."""
        path = table
        while True:
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                quoted = self._text[start : self._at]
                path += (next(iter(tomllib.loads(f"{quoted} = 0"))),)
            else:
                self._skip(_BARE_KEY)
                path += (self._text[start : self._at],)
            self._found.setdefault(path, self._place(start))
            self._skip(_SPACE)
            if not self._peek("."):
                return path
            self._at += 1
            self._skip(_SPACE)

    def _value(self, path: tuple[str, ...]) -> None:
        if self._peek("["):
            self._sequence("]", lambda: self._value(path))
        elif self._peek("{"):
            self._sequence("}", lambda: self._entry(path))
        elif self._peek('"') or self._peek("'"):
            self._string()
        else:
            self._skip(_SCALAR)

    def _sequence(self, end: str, element: Callable[[], None]) -> None:
        self._at += 1
        while self._skip(_BLANK) < len(self._text):
            if self._peek(end):
                self._at += 1
                return
            if self._peek(","):
                self._at += 1
            else:
                element()

    def _string(self) -> None:
        for pattern in _STRINGS:
            if (match := pattern.match(self._text, self._at)) is not None:
                self._at = match.end()
                return

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at

    def _peek(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _place(self, at: int) -> Place:
        start = self._text.rfind("\n", 0, at) + 1
        return self._text.count("\n", 0, at) + 1, at - start + 1
