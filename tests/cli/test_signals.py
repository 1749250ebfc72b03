"""A signal at any moment ends the program quietly, by the signal itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios

import pytest

# Sends itself a signal at the very moment at which a module is looked for.
SIGNALLED = """
import os, runpy, sys
program, module, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Look())
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""

MOMENTS = [
    ("conflux", "conflux.cli", "--help"),
    ("conflux", "conflux.cli.run", "run --help"),
    ("conflux", "conflux_tether_webrtc.plugin", "plugins list"),
    ("conflux", "conflux.runtime.localapi", "status"),
    ("conflux", "conflux.anchor.node", "run"),
    ("conflux", "conflux.demo", "demo"),
    ("veilnet_guardian", "click", "--help"),
    ("veilnet_guardian", "sqlalchemy", "plane create home 10.8.0.0/24"),
    ("veilnet_guardian", "uvicorn", "serve"),
]


@pytest.mark.parametrize(("program", "module", "words"), MOMENTS)
def test_ctrl_c_while_a_module_is_imported_prints_nothing(machine, program, module, words):
    machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token="x")
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, program, module, str(int(signal.SIGINT)), *words.split()],
        env=machine.environment({"VEILNET_GUARDIAN_DATA_DIR": str(machine.home / "guardian")}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_shell_says_130(machine):
    script = f"{sys.executable} -c '{SIGNALLED}' conflux click {int(signal.SIGINT)}; echo $?"
    done = subprocess.run(
        ["bash", "-c", script],
        env=machine.environment({}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("130\n", "")


def test_ctrl_c_at_the_password_gives_the_terminal_its_echo_back(machine):
    master, terminal = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "veilnet_guardian",
         "user", "add", "alice@example.org", "--data-dir", str(machine.home / "guardian")],
        stdin=terminal, stdout=terminal, stderr=terminal, env=machine.environment({}),
    ) as process:  # fmt: skip
        said = b""
        while b"Password: " not in said:
            said += os.read(master, 1000)
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        os.write(master, b"\x03")
        assert process.wait(20) == -signal.SIGINT
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    os.set_blocking(master, False)
    assert b"Traceback" not in said + os.read(master, 10_000)
    os.close(terminal)
    os.close(master)
