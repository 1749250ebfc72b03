"""Runs the tests in `windows/` in Windows' own Python, before Wine's service manager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WINDOWS = ROOT / "tools/windows"


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="windows/ runs by itself there")


@pytest.fixture(scope="module")
def python() -> None:
    """What a service can be under Wine, see service_python.c."""
    if not WINDOWS.exists() or not (ROOT / ".venv/windows/.ready").exists():
        pytest.skip("needs Windows' Python under Wine: `tools/windows make`")
    subprocess.run(
        ["x86_64-w64-mingw32-gcc", "-municode", "-O1", "-w", "-o",
         ROOT / ".venv/windows/python/service_python.exe", HERE / "service_python.c"],
        check=True,
    )  # fmt: skip


def passes(marks: str, timeout_s: float) -> None:
    run = subprocess.run(
        [WINDOWS, "booted", "-m", "pytest", "-q", "-m", marks, f"Z:{HERE}/windows"],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert "skipped" not in run.stdout


def test_driver_passes_its_tests_on_windows(python) -> None:
    passes("not thorough", 500)


@pytest.mark.thorough
def test_driver_that_is_killed_at_any_step_is_mended_on_windows(python) -> None:
    passes("thorough", 1500)
