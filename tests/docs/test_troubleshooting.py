"""docs/troubleshooting.md quotes lines that are really printed: each is held to the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conflux.api import Refused, Unavailable, Unreachable, UsageError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
CODES = {
    line: int(code or 0)
    for _, line, code in re.findall(r"^\| (`{1,2}) ?(.+?) ?\1 \| (?:(\d) )?\| ", PAGE, re.MULTILINE)
}
LINES = [*CODES]
HOLE = "\0"
ERRORS = {error.__name__: error for error in (UsageError, Unavailable, Unreachable, Refused)}
BY_A_NAME = {
    "no right to make network interfaces: run as root or grant CAP_NET_ADMIN": Unavailable,
    "the conflux token is not whole: copy it again, in one piece": UsageError,
}
"""Lines that the source gives a name, and what it raises with it."""
PRINTED = {
    "standard output cannot be written: <reason>",
    "<file> is open to others (mode <mode>): run `chmod <mode> <file>`",
}
"""Lines that end a verb without an error: the program's own, and those of `config check`."""


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a source, with HOLE for what differs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def raised(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every text of an error that users meet, and its exit code."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[text, *_]) if name in ERRORS:
                yield from ((found, ERRORS[name].exit_code) for found in texts(text))


@pytest.fixture(scope="module")
def trees() -> list[ast.AST]:
    files = [*(ROOT / "conflux").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    return [ast.parse(path.read_text()) for path in files]


@pytest.fixture(scope="module")
def source(trees) -> list[str]:
    return [text for tree in trees for text in texts(tree)]


@pytest.fixture(scope="module")
def errors(trees) -> list[tuple[str, int]]:
    return [found for tree in trees for found in raised(tree)]


def pattern_of(line: str) -> re.Pattern[str]:
    """A number of the source may stand where the page has a word, and nothing else may differ."""
    return re.compile(f"[{HOLE}]".join(map(re.escape, re.split(r"<\w+>", line))))


def test_page_quotes_what_users_meet():
    assert len(LINES) > 25
    assert len(set(LINES)) == len(LINES)


@pytest.mark.parametrize("line", LINES)
def test_quoted_line_is_in_the_source(source, line):
    assert any(map(pattern_of(line).match, source)), line


@pytest.mark.parametrize("line", LINES)
def test_exit_code_of_a_line_is_that_of_its_error(errors, line):
    found = {code for text, code in errors if pattern_of(line).match(text)}
    if line in BY_A_NAME:
        assert found == set()
        found = {BY_A_NAME[line].exit_code}
    assert found <= {CODES[line]}
    assert bool(found) == bool(CODES[line]) or line in PRINTED
