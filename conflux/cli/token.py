"""Tokens from where nobody else reads them: a file, standard input, a variable, the command line.

On Linux a token of the command line is blotted out of the process list as soon as it is read.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from conflux.api import UsageError

MAX_FILE_BYTES = 16_384
STDIN = Path("-")
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What editors and shells of Windows write first, and how the rest is then encoded."""

F = TypeVar("F", bound=Callable[..., Any])


def token_options(what: str, variable: str) -> Callable[[F], F]:
    """Add -t, --token and --token-file; *what* they hold, for people, and the token's variable."""

    def add(verb: F) -> F:
        verb = click.option(
            "--token-file",
            envvar=f"{variable}_FILE",
            type=click.Path(path_type=Path, allow_dash=True),
            metavar="FILE",
            help=f"File that holds the {what}; - reads it from standard input.",
        )(verb)
        return click.option(
            "-t",
            "--token",
            envvar=variable,
            metavar="T",
            help=f"{what.capitalize()}. Others may see it in the process list for a moment: "
            "rather use --token-file, or the variable.",
        )(verb)

    return add


def token_in(token: str | None, token_file: Path | None) -> str:
    """Return the token that the running command was given, empty if none. Raises UsageError.

    The command line wins over variables, as everywhere; of two variables, that of the file.
    """
    from conflux.hardening import hide_argument

    if token:
        hide_argument(token)
    if token_file is None:
        return token or ""
    if _typed("token"):
        if _typed("token_file"):
            raise UsageError("--token and --token-file are given both: leave out one of them")
        return token or ""
    return token_of_file(token_file)


def token_of_file(token_file: Path) -> str:
    """Return what the file holds. Raises UsageError if that is no token."""
    text = _read(token_file).strip()
    if not text:
        raise UsageError(f"{_name(token_file)} holds no token: put it there, in one line")
    if len(text.split()) != 1:
        raise UsageError(f"{_name(token_file)} holds more than a token: leave only that, in a line")
    return text


def _typed(parameter: str) -> bool:
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def _read(path: Path) -> str:
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{_name(path)} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{_name(path)} is longer than any token: is it the right file?")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "ascii")
    try:
        text = data.decode(encoding)
        text.encode("ascii")
    except UnicodeError:
        raise UsageError(f"{_name(path)} holds no token: a token is plain ASCII") from None
    return text


def _name(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)
