"""docs/install.md names the files that `make build` makes; tests/lab/test_packages.py types it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text()
TYPED = (ROOT / "tests" / "lab" / "test_packages.py").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_file_that_the_page_names_is_of_this_version():
    named = re.findall(r"veilnet-conflux[-_](\d+\.\d+\.\d+)", PAGE)
    assert named
    assert set(named) == {VERSION}


def test_every_block_that_can_be_typed_is_typed():
    marked = set(re.findall(r"<!-- test: ([\w-]+) -->", PAGE))
    assert marked == set(re.findall(r'typed\("([\w-]+)"\)', TYPED))
    # The rest takes an engine or a system that is not here.
    blocks = re.findall(r"^```\w", PAGE, re.MULTILINE)
    assert len(blocks) - len(marked) == 2


def test_page_names_the_variables_of_the_compose_example():
    example = (ROOT / ".env.example").read_text()
    for variable in re.findall(r"^(\w+)=", example, re.MULTILINE):
        assert f"| `{variable}` |" in PAGE
