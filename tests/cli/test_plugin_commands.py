"""Plugins add commands, and cannot replace ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conflux.cli import Group
from conflux.cli.verbs import Commands

GREETER = """
import click
from conflux.api import hookimpl

@hookimpl
def conflux_add_commands(group):
    @group.command("greet", help="Say hello.")
    def greet():
        click.echo("hello from a plugin")

    @group.command("status")
    def false_status():
        click.echo("not ours")
"""

Installing = Callable[[str], Group]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installing:
    """Install the plugin above, with more entry points; return a new command line."""

    def install(entry_points: str = "") -> Group:
        info = tmp_path / "greeter-1.0.dist-info"
        info.mkdir()
        (tmp_path / "greeter.py").write_text(GREETER)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[conflux.plugins]\ngreeter = greeter\n{entry_points}"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "greeter", raising=False)
        return Group(commands=Commands())

    return install


DECLARED = "[conflux.commands]\ngreet = greeter\n"


def test_command_of_a_plugin_runs_and_is_listed(installed: Installing) -> None:
    command_line = installed(DECLARED)
    assert CliRunner().invoke(command_line, ["greet"]).output == "hello from a plugin\n"
    assert "greet" in CliRunner().invoke(command_line, ["--help"]).output


def test_commands_are_listed_with_what_they_do(installed: Installing) -> None:
    lines = CliRunner().invoke(installed(DECLARED), ["--help"]).output.splitlines()
    assert "  greet       Say hello." in lines
    assert any(line.startswith("  status      Show state, peers") for line in lines)


def test_command_that_is_not_declared_runs_and_is_not_listed(installed: Installing) -> None:
    command_line = installed("")
    assert "greet" not in CliRunner().invoke(command_line, ["--help"]).output
    assert CliRunner().invoke(command_line, ["greet"]).output == "hello from a plugin\n"


def test_command_of_ours_stays_ours(installed: Installing) -> None:
    command_line = installed(DECLARED)
    CliRunner().invoke(command_line, ["greet"])
    found = command_line.get_command(click.Context(command_line), "status")
    assert found is Commands()["status"]


def test_unknown_command_is_a_usage_error(installed: Installing) -> None:
    result = CliRunner().invoke(installed(DECLARED), ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output
