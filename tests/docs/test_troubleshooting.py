"""docs/troubleshooting.md quotes lines that are really printed: each is held to the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
LINES = [line for _, line in re.findall(r"^\| (`{1,2}) ?(.+?) ?\1 \| ", PAGE, re.MULTILINE)]
HOLE = "\0"


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a source, with HOLE for what differs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def source() -> list[str]:
    files = [*(ROOT / "conflux").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    return [text for path in files for text in texts(ast.parse(path.read_text()))]


def test_page_quotes_what_users_meet():
    assert len(LINES) > 25
    assert len(set(LINES)) == len(LINES)


@pytest.mark.parametrize("line", LINES)
def test_quoted_line_is_in_the_source(source, line):
    pieces = re.split(r"<\w+>", line)
    # A number of the source may stand where the page has a word, and nothing else may differ.
    pattern = re.compile(f"[{HOLE}]".join(map(re.escape, pieces)))
    assert any(pattern.match(text) for text in source), line
