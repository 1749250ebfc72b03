"""A whole node in Windows' own Python under Wine: it registers, runs, answers and ends.

Guardian and Master run on this machine; wintun.dll and iphlpapi.dll are stood in for.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from conflux.with_parent import with_parent

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WINDOWS = ROOT / "tools/windows"
STANDIN = ROOT / "plugins/tun_wintun/tests/standin/standin.c"

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/windows/.ready").exists(),
    reason="needs Windows' Python under Wine: `tools/windows make`",
)
GUARDIAN = [sys.executable, "-m", "veilnet_guardian"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="veilnet-windows-") as name:
        yield Path(name)


@pytest.fixture
def standin(folder: Path) -> str:
    from conflux_tun_wintun import library

    headers = library.find("win-amd64").parents[2] / "include"
    path = folder / "standin.dll"
    subprocess.run(
        ["x86_64-w64-mingw32-gcc", "-std=gnu11", "-O1", "-w", "-D_WIN32_WINNT=0x0A00", "-shared",
         "-I", headers, "-o", path, STANDIN],
        check=True,
    )  # fmt: skip
    return f"Z:{path}"


@contextlib.contextmanager
def guardian(data: Path) -> Iterator[tuple[str, str]]:
    """Serve on loopback; give the URL and a registration token."""

    def say(*words: str, text: str | None = None) -> str:
        done = subprocess.run(
            [*GUARDIAN, *words, "--data-dir", data],
            input=text, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    serve = ["serve", "--listen", "127.0.0.1:0", "--master-listen", "127.0.0.1:0"]
    with subprocess.Popen(
        with_parent([*GUARDIAN, *serve, "--data-dir", str(data)]),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[3].rstrip(",")
            say("user", "add", "alice@example.org", "--password-stdin", text="correct horse\n")
            say("plane", "create", "home", "10.99.0.0/24")
            token = say("token", "create", "--user", "alice@example.org", "--plane", "home")
            yield url, token
        finally:
            process.terminate()


def windows(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Windows' Python."""
    return subprocess.run(
        [WINDOWS, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


STOP = """
import sys
from pathlib import Path
from conflux.runtime import localapi
localapi.stop(Path(sys.argv[1], "api.sock"))
"""


@contextlib.contextmanager
def node(standin: str, *words: str) -> Iterator[None]:
    """Type a command that runs a node, and wait until it does. It ends with its standard input."""
    with subprocess.Popen(
        [WINDOWS, f"Z:{HERE}/inside/run_node.py", standin, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "conflux.node: running: " in line:
                break
        else:
            pytest.fail("".join(said))
        yield
        _, rest = process.communicate(timeout=120)
        assert process.returncode == 0, "".join([*said, rest])
        # Of the loop's own there may be one: Wine now and then refuses the byte by which a signal
        # wakes it, while another one is being written. It is awake then.
        assert "\\conflux\\" not in rest


@pytest.mark.thorough
def test_node_registers_runs_answers_and_ends_on_windows(folder: Path, standin: str) -> None:
    home = f"Z:{folder}/conflux"
    with guardian(folder / "guardian") as (url, token):
        register = ["register", "-d", "-t", token, "-g", url, "--tag", "tokyo"]
        with node(standin, *register, "--config-dir", home):
            status = windows("-m", "conflux", "status", "--json", "--config-dir", home)
            told = json.loads(status.stdout)
            assert told["state"] == "running"
            assert told["hardening"]["core_dumps"] is False
            stopped = windows("-c", STOP, home)
            assert stopped.returncode == 0, stopped.stderr
        saved = json.loads((folder / "conflux/conflux.json").read_text())
        assert (saved["tag"], saved["address"]) == ("tokyo", "10.99.0.1/24")

        with node(standin, "run", "--config-dir", home):
            pass  # Ctrl-Break
        gone = windows("-m", "conflux", "status", "--config-dir", home)
        assert gone.returncode != 0
        assert "no node runs at" in gone.stderr
