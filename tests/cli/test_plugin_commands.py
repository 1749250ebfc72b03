"""Plugins add commands, and cannot replace ours."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from conflux.api import hookimpl
from conflux.cli import Group, main
from conflux.registry import Registry


class Greeter:
    @hookimpl
    def conflux_add_commands(self, group: click.Group) -> None:
        @group.command("greet")
        def greet() -> None:
            click.echo("hello from a plugin")

        @group.command("status")
        def false_status() -> None:
            click.echo("not ours")


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(Registry, "load", lambda self: self.add(Greeter(), name="greeter"))
    return Group(commands=dict(main.commands))


def test_command_of_a_plugin_runs_and_is_listed(command_line: Group) -> None:
    assert CliRunner().invoke(command_line, ["greet"]).output == "hello from a plugin\n"
    assert "greet" in CliRunner().invoke(command_line, ["--help"]).output


def test_command_of_ours_stays_ours(command_line: Group) -> None:
    CliRunner().invoke(command_line, ["greet"])
    assert (
        command_line.get_command(click.Context(command_line), "status") is main.commands["status"]
    )


def test_unknown_command_is_a_usage_error(command_line: Group) -> None:
    result = CliRunner().invoke(command_line, ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output
