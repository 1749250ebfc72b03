"""Tokens come in by ways that nobody else sees, and stay out of sight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = "http://127.0.0.1:1"


def given(machine, *words: str, stdin: bytes = b"", **variables: str) -> tuple[int, str]:
    """`up` with a Guardian that nobody is; return the exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "conflux", "up", "-d", "-g", NOBODY, *words],
        env=machine.environment(variables), input=stdin, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.decode().splitlines()[-1].removeprefix("veilnet-conflux: ")


TAKEN = (4, f"Guardian at {NOBODY} does not answer: check the address and that it runs")


def test_token_is_read_from_a_file_and_from_standard_input(machine):
    token = machine.token_of_nobody()
    path = machine.home / "token"
    path.write_text(f"\n{token}\n")
    assert given(machine, "--token-file", str(path)) == TAKEN
    assert given(machine, "--token-file", "-", stdin=f"{token}\n".encode()) == TAKEN
    assert given(machine, VEILNET_CONFLUX_TOKEN_FILE=str(path)) == TAKEN


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_file_as_windows_writes_it_is_read(machine, encoding):
    path = machine.home / "token"
    path.write_bytes(f"{machine.token_of_nobody()}\r\n".encode(encoding))
    assert given(machine, "--token-file", str(path)) == TAKEN


def test_command_line_wins_over_variables_and_of_these_the_file(machine):
    token = machine.token_of_nobody()
    path = machine.home / "token"
    path.write_text(token)
    bad = machine.home / "bad"
    bad.write_text("bad")
    assert given(machine, "-t", token, VEILNET_CONFLUX_TOKEN_FILE=str(bad)) == TAKEN
    both = (2, "--token and --token-file are given both: leave out one of them")
    assert given(machine, "-t", token, "--token-file", str(path)) == both
    both = {"VEILNET_CONFLUX_TOKEN": "bad", "VEILNET_CONFLUX_TOKEN_FILE": str(path)}
    assert given(machine, **both) == TAKEN


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "FILE holds no token: put it there, in one line"),
        (b"\xef\xbb\xbf\r\n", "FILE holds no token: put it there, in one line"),
        (b"\xff\xfea", "FILE holds no token: a token is plain ASCII"),
        (b" \n", "FILE holds no token: put it there, in one line"),
        (b"a b", "FILE holds more than a token: leave only that, in a line"),
        (b"\xff", "FILE holds no token: a token is plain ASCII"),
        (b"a" * 16_385, "FILE is longer than any token: is it the right file?"),
        (None, "FILE cannot be read: No such file or directory"),
    ],
)
def test_file_that_holds_no_token_is_refused(machine, content, line):
    path = machine.home / "token"
    if content is not None:
        path.write_bytes(content)
    assert given(machine, "--token-file", str(path)) == (2, line.replace("FILE", str(path)))


def test_folder_instead_of_a_file_is_refused(machine):
    line = f"{machine.home} cannot be read: Is a directory"
    assert given(machine, "--token-file", str(machine.home)) == (2, line)


def test_empty_standard_input_is_refused(machine):
    line = "standard input holds no token: put it there, in one line"
    assert given(machine, "--token-file", "-") == (2, line)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process change its line")
def test_token_of_the_command_line_is_blotted_out_of_the_process_list(machine):
    token = machine.token_of_nobody()
    words = ["up", "-d", "-g", NOBODY, "--wait", "60", f"--token={token}"]
    with machine.node(*words, state="waiting for Guardian") as node:
        line = Path(f"/proc/{node.process.pid}/cmdline").read_bytes()
    assert line.endswith(b"\0--wait\x0060\0--token=" + b"*" * len(token) + b"\0")
