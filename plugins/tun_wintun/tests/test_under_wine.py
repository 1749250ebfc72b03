"""Runs the tests in `windows/` in Windows' own Python under Wine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WINDOWS = ROOT / "tools/windows"


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """The stand-in for wintun.dll and iphlpapi.dll, compiled against their headers."""
    if not (ROOT / ".venv/windows/.ready").exists():
        pytest.skip("needs Windows' Python under Wine: `tools/windows make`")
    from conflux_tun_wintun import library

    headers = library.find("win-amd64").parents[2] / "include"
    path = tmp_path / "standin.dll"
    source = HERE / "standin/standin.c"
    subprocess.run(
        ["x86_64-w64-mingw32-gcc", "-std=gnu11", "-O1", "-w", "-D_WIN32_WINNT=0x0A00", "-shared",
         "-I", headers, "-o", path, source],
        check=True,
    )  # fmt: skip
    return path


def test_driver_passes_its_tests_on_windows(standin: Path) -> None:
    run = subprocess.run(
        [WINDOWS, "-m", "pytest", "-q", f"Z:{HERE}/windows"],
        env={**os.environ, "VEILNET_STANDIN": f"Z:{standin}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert "skipped" not in run.stdout
