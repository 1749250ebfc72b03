"""The executable stands for Python where a plugin starts `sys.executable`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ENTRY = Path(__file__).resolve().parents[2] / "tools" / "release" / "entry.py"


def entry(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ENTRY, *words],
        env={"PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-I",), ("-I", "-S", "-B")])
def test_file_runs_as_a_program_with_its_own_words(tmp_path, options):
    file = tmp_path / "keeper.py"
    file.write_text("import sys\nif __name__ == '__main__':\n print(sys.argv)\n sys.exit(5)\n")
    done = entry(*options, str(file), "one", "--two")
    assert done.stdout == f"{[str(file), 'one', '--two']}\n"
    assert done.returncode == 5


def test_module_and_code_run(tmp_path):
    assert entry("-m", "platform", "terse").stdout.strip()
    assert entry("-c", "import sys; print(sys.argv[1:])", "word").stdout == "['word']\n"


def test_kernel_runs_as_a_module():
    assert entry("-m", "conflux", "--version").stdout.startswith("veilnet-conflux, version")


@pytest.mark.parametrize("words", [["--version"], ["info", "--help"], ["no-such-verb"], []])
def test_all_else_is_for_the_command_line(words):
    ours = subprocess.run(
        [sys.executable, "-m", "conflux", *words], capture_output=True, text=True, check=False
    )
    done = entry(*words)
    assert done.returncode == ours.returncode
    # A usage text names the program as it was started.
    assert done.stdout.replace("entry.py", "-") == ours.stdout.replace("python -m conflux", "-")


def test_program_is_the_file_that_its_user_started():
    file = "/usr/local/bin/veilnet-conflux"
    code = "import os, sys; print(sys.executable, 'CONFLUX_EXECUTABLE' in os.environ)"
    assert entry("-c", code, CONFLUX_EXECUTABLE=file).stdout == f"{file} False\n"
    done = entry("info", "--help", CONFLUX_EXECUTABLE="/usr/local/bin/veilnet-conflux")
    assert done.stdout.startswith("Usage: veilnet-conflux info")
