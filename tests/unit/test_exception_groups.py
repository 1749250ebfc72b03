"""Nothing is raised inside of `except*`: on Python 3.11.2, Debian 12's, it would come out wrapped.

There a UsageError raised so becomes a group with a traceback, where users are to read one line.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("conflux", "guardian/src", "plugins")


def handlers(tree: ast.AST) -> list[ast.ExceptHandler]:
    return [h for node in ast.walk(tree) if isinstance(node, ast.TryStar) for h in node.handlers]


def raises(tree: ast.AST) -> list[int]:
    """The lines of a raise with an exception inside of an except*; a bare one is sound."""
    inside = [node for handler in handlers(tree) for node in ast.walk(handler)]
    return [node.lineno for node in inside if isinstance(node, ast.Raise) and node.exc is not None]


def test_nothing_is_raised_inside_of_except_star():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in files}
    assert any(handlers(tree) for tree in trees.values())
    assert {str(path): lines for path, tree in trees.items() if (lines := raises(tree))} == {}


def test_one_that_is_would_be_found():
    wrong = "try:\n f()\nexcept* ValueError as e:\n raise e.exceptions[0] from None\n"
    assert raises(ast.parse(wrong)) == [4]
