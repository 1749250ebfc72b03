"""`status --watch`: a live view in a terminal, lines elsewhere, until Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from conflux.with_parent import with_parent

WATCH = with_parent([sys.executable, "-m", "conflux", "status", "--watch", "--interval", "0.1"])


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
        seen += os.read(handle, 65_536)
    return seen


def test_terminal_is_drawn_on_and_given_back(machine, waiting):
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            WATCH, env=machine.environment({"TERM": "xterm"}), stdin=theirs, stdout=theirs,
            stderr=theirs,
        ) as process:  # fmt: skip
            os.close(theirs)
            seen = read_until(ours, b"see `veilnet-conflux netcheck`")
            assert b"waiting for Guardian" in seen
            assert b"\x1b[?1049h" in seen
            process.send_signal(signal.SIGINT)
            seen = read_until(ours, b"\x1b[?1049l")
            assert process.wait(20) == -signal.SIGINT
            assert b"Traceback" not in seen
    finally:
        os.close(ours)


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
