"""`status --watch`: a live view in a terminal, lines elsewhere, until Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conflux.with_parent import with_parent

WATCH = with_parent([sys.executable, "-m", "conflux", "status", "--watch", "--interval", "0.1"])
SILENT_S = 20.0


@pytest.fixture
def waiting(machine) -> Iterator:
    """A node that waits for a Guardian which nobody is."""
    token = machine.token_of_nobody()
    machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token=token)
    with machine.node("run", state="waiting for Guardian") as node:
        yield node


def read_until(handle: int, part: bytes) -> bytes:
    """Read what comes until *part* does; what a terminal sends ends with an error."""
    seen = b""
    while part not in seen:
        assert select.select([handle], [], [], SILENT_S)[0], seen
        seen += os.read(handle, 65_536)
    return seen


@contextmanager
def watched(machine, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """The view in a terminal: its process, our end of the terminal and the terminal itself."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            WATCH, env=machine.environment({"TERM": "xterm", **variables}), stdin=theirs,
            stdout=theirs, stderr=theirs,
        ) as process:  # fmt: skip
            try:
                yield process, ours, theirs
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)


def lines_of(seen: bytes) -> list[str]:
    """What stands on the screen, without what moves the cursor and gives colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_terminal_is_drawn_on_and_given_back(machine, waiting, number):
    with watched(machine) as (process, ours, theirs):
        before = termios.tcgetattr(theirs)
        seen = read_until(ours, b"see `veilnet-conflux netcheck`")
        assert b"waiting for Guardian" in seen
        assert b"\x1b[?1049h" in seen
        assert re.search(rb"\x1b\[[0-9;]*3[0-9]m", seen), "colours"
        process.send_signal(number)
        seen += read_until(ours, b"\x1b[?1049l")
        assert process.wait(20) == -number
        os.set_blocking(ours, False)
        seen += os.read(ours, 65_536) if b"\x1b[?25h" not in seen else b""
        assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is there again"
        assert b"Traceback" not in seen
        assert termios.tcgetattr(theirs) == before


def test_without_colours_the_view_has_none(machine, waiting):
    with watched(machine, NO_COLOR="1") as (_, ours, _):
        seen = read_until(ours, b"see `veilnet-conflux netcheck`")
    assert not re.search(rb"\x1b\[[0-9;]*[34][0-9]m", seen)


def test_narrow_terminal_shows_all_that_is_said_of_the_node(machine, waiting):
    with watched(machine, COLUMNS="20", LINES="60") as (_, ours, _):
        lines = lines_of(read_until(ours, b"netcheck`"))
    assert max(map(len, lines)) <= 20
    words = "".join("".join(lines).split())
    assert "Guardianathttp://127.0.0.1:1doesnotanswer" in words
    assert "\N{HORIZONTAL ELLIPSIS}" not in words


def test_terminal_that_cannot_be_drawn_on_gets_plain_lines(machine, waiting):
    with watched(machine, TERM="dumb") as (process, ours, _):
        seen = read_until(ours, b"see `veilnet-conflux netcheck`")
        seen += read_until(ours, b"see `veilnet-conflux netcheck`")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    assert b"\x1b" not in seen
    assert lines_of(seen)[0] == "state         waiting for Guardian"


def test_pipe_gets_the_lines_of_status_whatever_is_said_of_colours(machine, waiting):
    variables = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "20"}
    once = machine.cli("status", **variables)
    assert once.code == 0
    steady = [line for line in once.out.splitlines() if not line.startswith("service ")]
    with subprocess.Popen(
        WATCH, env=machine.environment(variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        seen = [process.stdout.readline().rstrip("\n") for _ in range(2 * len(steady) + 2)]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == -signal.SIGINT
    assert seen == [*steady, "", *steady, ""]


def test_node_that_ends_is_said_to_be_gone_and_the_view_goes_on(machine, waiting):
    with subprocess.Popen(
        [*WATCH, "--json"], env=machine.environment({}), stdout=subprocess.PIPE, text=True
    ) as process:
        assert json.loads(process.stdout.readline())["state"] == "waiting for Guardian"
        waiting.process.terminate()
        assert waiting.finish().code == 0
        table = json.loads(process.stdout.readline())
        while "gone" not in table:
            table = json.loads(process.stdout.readline())
        assert "no node runs at" in table["gone"]
        process.terminate()


def test_nothing_to_watch_is_an_error(machine):
    machine.cli("status", "--watch").refused(2, "no node runs at .*")
