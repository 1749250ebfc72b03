"""A registration that is cut short at the worst moment: Guardian has answered, nobody heard it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pytest

WAIT_S = 30


class Withholding(ThreadingHTTPServer):
    """Between a node and Guardian: it passes requests on and keeps the answers to itself."""

    def __init__(self, guardian: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.guardian = guardian
        self.answers: list[dict[str, object]] = []
        self.answered = threading.Event()
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Withholding

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        passed = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
        request = Request(self.server.guardian + self.path, body, passed)  # noqa: S310 (http)
        with urlopen(request) as answer:  # noqa: S310 (http)
            self.server.answers.append(json.load(answer))
        self.server.answered.set()
        self.server.released.wait(WAIT_S)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@pytest.fixture
def withholding(guardian) -> Iterator[Withholding]:
    with Withholding(guardian.url) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cut_short(machine, guardian, withholding):
    """Type `register`; when Guardian has made the conflux, end the command by a signal."""

    def run(number, *words):
        with subprocess.Popen(
            [sys.executable, "-m", "conflux", "register", "-d", "-g", withholding.url, *words],
            env=machine.environment({"VEILNET_REGISTRATION_TOKEN": guardian.tokens["good"]}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert withholding.answered.wait(WAIT_S)
            withholding.answered.clear()
            process.send_signal(number)
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (-number, "")
        assert "Traceback" not in err
        return withholding.answers[-1]

    return run


@pytest.fixture
def register(machine, guardian, monkeypatch):
    """Type `register` for Guardian itself, and end it where the node would run."""
    monkeypatch.setattr("conflux.cli.launch.run_node", lambda *_, **__: None)

    def run(*words):
        token = guardian.tokens["good"]
        ended = machine.quick("register", "-d", "-t", token, "-g", guardian.url, *words)
        assert ended.code == 0, ended.err
        return machine.saved()

    return run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_registration_that_was_cut_short_is_repeated_and_makes_no_second_conflux(
    machine, guardian, cut_short, register, number
):
    tag = f"short-{number.name.lower()}"
    made = cut_short(number, "--tag", tag)
    assert list(machine.snapshot()) == ["registering"]
    [(_, mode)] = machine.snapshot().values()
    assert mode & 0o777 == 0o600
    machine.quick("unregister").refused(
        2, "a registration was cut short in .*repeat `register`.*--force.*"
    )
    kept = register("--tag", tag)
    assert kept["conflux_id"] == made["conflux_id"]
    assert kept["conflux_token"] == made["conflux_token"]
    assert list(machine.snapshot()) == ["conflux.json"]
    assert machine.quick("unregister").code == 0
    assert machine.snapshot() == {}
    assert tag not in guardian.known()


def test_registration_that_is_repeated_with_other_wishes_leaves_nothing_of_the_first(
    guardian, cut_short, register
):
    made = cut_short(signal.SIGKILL, "--tag", "first-wish")
    assert register("--tag", "second-wish")["conflux_id"] != made["conflux_id"]
    assert guardian.known() & {"first-wish", "second-wish"} == {"second-wish"}


def test_refused_registration_leaves_no_trace_but_of_one_that_was_cut_short(
    machine, guardian, cut_short
):
    def refuse():
        token = guardian.tokens["revoked"]
        machine.quick("register", "-d", "-t", token, "-g", guardian.url).refused(5, ".*revoked.*")

    refuse()
    assert machine.snapshot() == {}
    cut_short(signal.SIGKILL, "--tag", "interrupted")
    before = machine.snapshot()
    refuse()
    assert machine.snapshot() == before
