"""docs/protocol/attacks.md names tests that exist, and every file that is all attacks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol" / "attacks.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)

ALL_ATTACKS = (
    "tests/lab/test_stolen_token.py",
    "tests/sim/test_ask_floods.py",
    "tests/sim/test_attacks.py",
    "tests/sim/test_identities.py",
    "tests/sim/test_malicious_relay.py",
    "tests/sim/test_oversized_and_truncated.py",
    "tests/sim/test_probing.py",
    "tests/sim/test_replay.py",
)


def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_attack_of_the_page_has_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "| tests |" not in line]
    assert len(rows) > 25
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_tests_that_the_page_names_exist(path):
    assert {test for where, test in NAMED if where == path} <= defined_in(path)


def test_no_test_is_named_twice():
    assert sorted(NAMED) == sorted(set(NAMED))


def test_every_file_of_attacks_is_named():
    assert set(ALL_ATTACKS) <= {path for path, _ in NAMED}
