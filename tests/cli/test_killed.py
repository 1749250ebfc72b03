"""SIGKILL at every step of `register` and `unregister` as a service: what comes next mends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLED_AT = Path(__file__).with_name("killed_at.py")
STARTS = ".*registered: start it with `veilnet-conflux start`, or .*unregister.* first"


@pytest.fixture
def machine(served):
    return served


@pytest.fixture
def words(guardian):
    return ["register", "-t", guardian.tokens["good"], "-g", guardian.url, "--tag"]


@pytest.fixture
def killed(machine, tmp_path):
    """Type a verb, killed before its step number *step*; return the steps that it reached."""

    def killed(step, *words):
        log = tmp_path / "steps"
        done = subprocess.run(
            [sys.executable, KILLED_AT, str(step), log, machine.home, *words],
            env=machine.environment({}), cwd=machine.home,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        steps = log.read_text().splitlines()
        ended = 0 if step == 0 or step > len(steps) else -signal.SIGKILL
        assert done.returncode == ended, done.stderr
        return steps

    return killed


def left(machine) -> list[str]:
    """Every file of the command line and of the service."""
    kept = [machine.folder, machine.home / ".config", machine.manager / "unit"]
    files = [path for top in kept for path in (top, *top.rglob("*")) if path.is_file()]
    return [str(path.relative_to(machine.home)) for path in files]


def status_is_true(machine) -> None:
    """It names the state in which the machine is, and what to do."""
    ended = machine.quick("status")
    if machine.state() == "down":
        served = (machine.manager / "unit").exists()
        ended.refused(2, f"no node runs at .*{'; the service is stopped.*' if served else ''}")
    else:
        assert (ended.code, ended.lines) == (0, [])
        assert "service       running (standin)" in ended.out


def test_register_that_is_killed_at_any_step_is_repeated_or_forgotten(
    machine, guardian, killed, words
):
    steps = killed(0, *words, "whole")
    assert machine.quick("unregister").code == 0
    before = left(machine)
    assert len(steps) > 10, steps
    for number, step in enumerate(steps, 1):
        for forgotten in (False, True):
            tag = f"{'forgotten' if forgotten else 'repeated'}-{number}"
            print(f"{tag}: killed before {step}")
            killed(number, *words, tag)
            status_is_true(machine)
            if not forgotten:
                again = machine.cli(*words, tag)
                if again.code:
                    again.refused(2, STARTS)
                    assert machine.cli("start").code == 0
                assert machine.state() == "running"
                status_is_true(machine)
                assert tag in guardian.known()
            ended = machine.quick("unregister", *["--force"] * forgotten)
            assert ended.code == 0, ended.err
            assert left(machine) == before
            status_is_true(machine)
            # What Guardian made and nobody heard of, only the same registration can give back.
            unheard = forgotten and "cut short" in ended.err
            assert unheard or tag not in guardian.known()


def test_unregister_that_is_killed_at_any_step_is_ended_by_force(machine, guardian, killed, words):
    assert machine.cli(*words, "whole").code == 0
    steps = killed(0, "unregister")
    before = left(machine)
    assert len(steps) > 4, steps
    for number, step in enumerate(steps, 1):
        tag = f"unregistered-{number}"
        print(f"{tag}: killed before {step}")
        assert machine.cli(*words, tag).code == 0
        killed(number, "unregister")
        status_is_true(machine)
        assert machine.quick("unregister", "--force").code == 0
        assert left(machine) == before
        status_is_true(machine)
        assert tag not in guardian.known()
