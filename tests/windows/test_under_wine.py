"""What a node's start needs of Windows, tried in Windows' own Python under Wine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WINDOWS = ROOT / "tools/windows"

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/windows/.ready").exists(),
    reason="needs Windows' Python under Wine: `tools/windows make`",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WINDOWS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_kernel_passes_its_tests_on_windows() -> None:
    done = run("-m", "pytest", "-q", f"Z:{HERE}/inside")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "skipped" not in done.stdout


def test_every_plugin_describes_itself_there_and_a_node_would_find_its_drivers() -> None:
    done = run("-m", "conflux", "plugins", "list")
    assert "failed" not in done.stdout
    chosen = {
        line.split()[0]: line.split()[2] for line in done.stdout.splitlines() if " *  " in line
    }
    wanted = {
        "tun": "wintun",
        "tether": "webrtc",
        "crypto": "openssl",
        "router": "static",
        "auth": "guardian",
        "control": "nats",
    }
    assert {kind: chosen[kind] for kind in wanted} == wanted


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_command_line_answers(arguments: list[str]) -> None:
    done = run("-m", "conflux", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "veilnet-conflux" in done.stdout or "Usage" in done.stdout
