"""Runs the tests in `windows/` in Windows' own Python, before Wine's service manager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WINDOWS = ROOT / "tools/windows"


@pytest.mark.skipif(sys.platform == "win32", reason="windows/ runs by itself there")
def test_driver_passes_its_tests_on_windows() -> None:
    if not WINDOWS.exists() or not (ROOT / ".venv/windows/.ready").exists():
        pytest.skip("needs Windows' Python under Wine: `tools/windows make`")
    subprocess.run(
        ["x86_64-w64-mingw32-gcc", "-municode", "-O1", "-w", "-o",
         ROOT / ".venv/windows/python/service_python.exe", HERE / "service_python.c"],
        check=True,
    )  # fmt: skip
    run = subprocess.run(
        [WINDOWS, "booted", "-m", "pytest", "-q", f"Z:{HERE}/windows"],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert "skipped" not in run.stdout
