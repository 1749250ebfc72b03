"""Whatever standard output is, and whichever node answers, there is no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


def typed(machine, words, out, **variables):
    return subprocess.run(
        [sys.executable, "-m", "conflux", *words.split()],
        env=machine.environment(variables), cwd=machine.home, encoding="ascii",
        stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", "config show", "completion bash"])
def test_full_disk_behind_standard_output_gives_one_line(machine, words, unbuffered):
    with open("/dev/full", "w") as full:
        done = typed(machine, words, full, PYTHONUNBUFFERED=unbuffered)
    line = "veilnet-conflux: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_went_away_is_no_news(machine, unbuffered):
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = typed(machine, "config show", reader.stdin, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, "")


def test_name_that_the_encoding_lacks_is_shown_escaped(machine, stand_in):
    with stand_in(info={"tag": "\u65e5"}):
        done = typed(machine, "info", subprocess.PIPE, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["tag", r"\u65e5"]


@pytest.mark.parametrize("words", ["status", "status --watch"])
@pytest.mark.parametrize(
    ("answer", "lacking"),
    [({"state": "running"}, "throughput"), ({"state": "running", "throughput": {}}, r"\w+")],
)
def test_node_of_an_older_version_is_said_to_be_one(machine, stand_in, words, answer, lacking):
    with stand_in(status=answer):
        ended = machine.cli(*words.split())
    ended.refused(
        2,
        rf"the node at \S+ is of another version, its answer has no {lacking}: "
        "restart it with `veilnet-conflux restart`",
    )


@pytest.mark.parametrize(
    ("words", "verb"),
    [("status", "status"), ("info", "info"), ("ping 10.0.0.1", "info"), ("down", "stop")],
)
def test_node_of_an_older_version_that_lacks_a_verb_is_said_to_be_one(
    machine, stand_in, words, verb
):
    with stand_in(wave=None):
        ended = machine.quick(*words.split())
    ended.refused(
        2,
        rf"the node at \S+ is of another version, it knows no {verb}: "
        "restart it with `veilnet-conflux restart`",
    )


def test_output_that_is_closed_is_watched_like_any_that_cannot_be_drawn_on(machine, stand_in):
    words = f"exec {sys.executable} -m conflux status --watch >&-"
    with stand_in(status={"state": "running"}):
        done = subprocess.run(
            ["bash", "-c", words], env=machine.environment({}), stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "is of another version" in line
