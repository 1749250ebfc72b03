"""The reference is what the command line and the settings say, and nobody need ask the source."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click
import pytest

from conflux.api import Refused, Unavailable, Unreachable, UsageError
from conflux.checks.configuration import VERB_VARIABLES, unknown_variables
from conflux.cli import main
from conflux.config import PIN_VARIABLE, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"

_spec = importlib.util.spec_from_file_location("reference_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

INNER = ("VEILNET_NOTIFY", "VEILNET_TEST_", "VEILNET_CONFLUX_COMPLETE", "VEILNET_", PIN_VARIABLE)
"""Set by our own programs, or no variable."""


@pytest.mark.parametrize("name", ["cli", "configuration"])
def test_reference_is_up_to_date(name):
    assert (FOLDER / f"{name}.md").read_text() == getattr(make, name)(), (
        "run .venv/bin/python docs/reference/make.py"
    )


def plain(text: str) -> str:
    """Words alone: --help breaks lines, tables have cells."""
    return " ".join(re.sub(r"[`|\\]", " ", text).split())


@pytest.mark.parametrize(("words", "verb"), list(make.walk(main, ("veilnet-conflux",))))
def test_reference_says_all_that_help_says(words, verb):
    section = (FOLDER / "cli.md").read_text().partition(f"## `{words}`\n")[2].partition("\n## ")[0]
    shown = plain(section)
    context = click.Context(verb, info_name=words, terminal_width=80)
    for option in make.options(verb):
        for part in option.get_help_record(context):
            assert plain(part) in shown
        if option.envvar:
            assert option.envvar in shown
    usage, _, rest = verb.get_help(context).partition("\n\n")
    assert plain(usage.removeprefix("Usage: ")) in shown
    assert plain(rest.partition("\n\nOptions:")[0]) in shown


def test_every_verb_is_in_the_reference():
    headings = set(
        re.findall(r"^## `veilnet-conflux ([a-z]+)", (FOLDER / "cli.md").read_text(), re.M)
    )
    assert headings == set(main.commands)


def test_every_variable_of_the_source_is_known_and_documented():
    page = (FOLDER / "configuration.md").read_text()
    settings = {setting.variable for setting in SETTINGS}
    used = {
        found
        for path in (ROOT / "conflux").rglob("*.py")
        for found in re.findall(r"(?<![A-Z_])VEILNET_[A-Z_]+", path.read_text())
    }
    for variable in used - set(INNER):
        assert variable in (settings | set(VERB_VARIABLES)) or variable.startswith(PIN_VARIABLE)
        assert f"`{variable}`" in page
    assert list(unknown_variables(dict.fromkeys(used - set(INNER), "x"))) == []


def test_exit_codes_of_the_page_are_those_of_the_errors():
    page = (FOLDER / "local-api.md").read_text().partition("## Exit codes")[2]
    said = {int(code): text for code, text in re.findall(r"^\| (\d) \| (.+) \|$", page, re.M)}
    means = {
        UsageError: "usage",
        Unavailable: "this machine lacks something",
        Unreachable: "Guardian or the Master does not answer",
        Refused: "Guardian refused",
    }
    assert said.keys() == {0, 1, *(error.exit_code for error in means)}
    for error, words in means.items():
        assert said[error.exit_code].startswith(words)
