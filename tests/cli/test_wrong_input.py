"""Every verb with every kind of wrong input: a line that says what is wrong, the exit code 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from conflux.checks import network
from conflux.cli import main
from conflux.cli.options import Seconds

USAGE = 2
NOBODY = "http://127.0.0.1:1"
TOKEN_FILE = "--token-file"

NEEDED = {"ping": ["10.99.0.1"], "completion": ["bash"]}
"""Arguments that a verb cannot do without."""


def walk(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, verb in sorted(group.commands.items()):
        if isinstance(verb, click.Group):
            yield from walk(verb, (*words, name))
        else:
            yield " ".join((*words, name)), verb


VERBS = dict(walk(main))
WITH_VALUE = [
    (words, max(option.opts, key=len), option.type)
    for words, verb in VERBS.items()
    for option in verb.params
    if isinstance(option, click.Option) and not option.is_flag
]
NUMBERS = ["x", "", "-1", "1e300", "inf", "nan"]


@pytest.fixture
def machine(served, monkeypatch):
    """A machine with a service manager of its own, from which nobody asks the network."""
    monkeypatch.setattr(network, "check", lambda *_: pytest.fail("the network is asked"))
    return served


def not_understood(ended, *parts: str) -> None:
    """Check that it is click who refuses, which says how the verb is used, too."""
    assert (ended.code, ended.out) == (USAGE, ""), ended.err
    [line] = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    for part in parts:
        assert part in line


@pytest.mark.parametrize("words", VERBS)
def test_unknown_option_and_one_word_too_many(machine, words):
    typed = [*words.split(), *NEEDED.get(words, [])]
    not_understood(machine.quick(*typed, "--nosuch"), "No such option", "--nosuch")
    not_understood(machine.quick(*typed, "surplus"), "unexpected extra argument", "surplus")


@pytest.mark.parametrize("words", NEEDED)
def test_missing_argument(machine, words):
    not_understood(machine.quick(*words.split()), "Missing argument")


def test_interval_of_a_status_that_is_shown_once(machine):
    machine.quick("status", "--interval", "1").refused(USAGE, "--interval is of --watch: .+")


def test_unknown_verb(machine):
    not_understood(machine.quick("dance"), "No such command 'dance'")
    not_understood(machine.quick("config", "dance"), "No such command 'dance'")


@pytest.mark.parametrize(("words", "option", "kind"), WITH_VALUE)
def test_option_without_its_value(machine, words, option, kind):
    not_understood(machine.quick(*words.split(), option), option, "requires an argument")


@pytest.mark.parametrize(
    ("words", "option", "kind"),
    [row for row in WITH_VALUE if not isinstance(row[2], click.types.StringParamType)],
)
def test_option_with_a_value_of_another_kind(machine, words, option, kind):
    file = machine.home / "file"
    file.touch()
    if isinstance(kind, click.Choice | Seconds | click.IntRange):
        values = ["dance"] if isinstance(kind, click.Choice) else NUMBERS
    elif option == TOKEN_FILE:
        return  # tests/cli/test_tokens.py
    else:
        assert isinstance(kind, click.Path)
        assert kind.dir_okay != kind.file_okay
        values = [str(machine.home if kind.file_okay else file)]
    for value in values:
        not_understood(machine.quick(*words.split(), f"{option}={value}"), f"'{option}'")


@pytest.mark.parametrize(
    ("words", "variable", "value"),
    [
        ("up", "VEILNET_PORTAL", "perhaps"),
        ("up", "VEILNET_WAIT", "nan"),
        ("up", "VEILNET_PACKET_AUTH", "dance"),
        ("run", "VEILNET_LOG_FORMAT", "dance"),
    ],
)
def test_variable_with_a_value_of_another_kind(machine, words, variable, value):
    ended = machine.quick(*words.split(), **{variable: value})
    not_understood(ended, f"Invalid value for the variable {variable}: '{value}'")


def is_toml(path: Path) -> bool:
    return path.suffix == ".toml"


BROKEN = {
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
    "folder": lambda path: path.mkdir(),
    "unreadable": lambda path: path.symlink_to(path.name),
    "cut short": lambda path: path.write_text('{"guardian": "https://g'),
    "deep": lambda path: path.write_text("x = " * is_toml(path) + "[" * 100_000),
    "long number": lambda path: path.write_text("x = " * is_toml(path) + f"[{'1' * 5000}]"),
    "long hex": lambda path: path.write_text("x = " * is_toml(path) + f"[0x{'f' * 5000}]"),
}

TYPED = {
    "run": [], "up": ["-d"], "down": [], "unregister": [], "start": [], "stop": [], "restart": [],
    "remove": [], "status": [], "info": [], "ping": ["10.99.0.1"], "netcheck": [], "doctor": [],
    "register": ["-d", "-t", "vnr_x", "-g", NOBODY], "plugins list": [],
    "bugreport": ["--no-network", "-o", "report.tar.gz"], "config show": [], "config check": [],
}  # fmt: skip

READERS = {
    "conflux.json": {"run", "register", "unregister", "down", "start", "netcheck", "config show",
                     "config check"},
    "up.json": {"run", "up", "down", "start", "netcheck", "config show", "config check"},
    "conflux.toml": {"netcheck", "plugins list", "config show", "config check", "start", "stop",
                     "restart", "remove"},
}  # fmt: skip
"""Verbs that cannot do without the file, and so name it."""


def test_every_verb_is_typed():
    assert TYPED.keys() | {"completion", "demo"} == VERBS.keys()


# Every verb reads a file by the same code: not each of them needs to meet every kind.
@pytest.mark.parametrize(
    ("words", "broken"),
    [
        (words, broken)
        for words in TYPED
        for broken in BROKEN
        if broken in ("garbage", "folder") or words in ("config check", "start", "doctor")
    ],
)
def test_file_that_is_not_what_it_should_be(machine, monkeypatch, words, broken):
    machine.folder.mkdir(mode=0o700)
    monkeypatch.chdir(machine.home)
    for name, readers in READERS.items():
        path = machine.folder / name
        BROKEN[broken](path)
        if broken != "unreadable":
            path.chmod(0o600)
        ended = machine.quick(*words.split(), *TYPED[words], VEILNET_GUARDIAN=NOBODY)
        lines = [line for line in ended.lines if not line.startswith("warning: ")]
        assert ended.code in range(6), ended
        assert len(lines) == (ended.code >= USAGE), (name, ended)
        assert all(line.startswith("veilnet-conflux: ") for line in lines)
        if words in readers:
            assert ended.code == USAGE, (name, ended)
            assert str(path) in lines[0]
        elif words == "doctor":
            assert str(path) in ended.out
        path.rmdir() if broken == "folder" else path.unlink()
        (machine.home / "report.tar.gz").unlink(missing_ok=True)


@pytest.mark.parametrize("option", ["--tag", "--cidr", "--teams", "-g", "-t", "--tun-name"])
def test_text_that_is_no_utf8(machine, option):
    words = ["register", "-d", "-t", "vnr_x", "-g", NOBODY, option, "\udcff"]
    ended = machine.quick(*words)
    assert ended.code in (2, 4)
    ended.refused(ended.code, ".+")


def test_saved_text_that_is_no_utf8(machine):
    machine.folder.mkdir(mode=0o700)
    for field in ("guardian", "conflux_token", "tag"):
        table = {"guardian": NOBODY, "conflux_token": machine.token_of_nobody(), field: "\ud800"}
        (machine.folder / "conflux.json").write_text(json.dumps(table))
        ended = machine.quick("unregister")
        assert ended.code in (2, 4)
        ended.refused(ended.code, ".+")
        ended = machine.cli("config", "show")
        assert (ended.code, ended.err) == (0, "")
