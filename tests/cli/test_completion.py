"""Tab completes verbs and options, in the shells themselves where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = str(Path(sys.executable).parent)
PATH = f"{PROGRAMS}:/usr/bin:/bin"


def typed(shell: str, words: str) -> list[str]:
    """What the program tells *shell*'s script that *words* may become."""
    parts = words.split(" ")
    variables = {
        "_VEILNET_CONFLUX_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": parts[-1] if shell == "fish" else str(len(parts) - 1),
    }
    done = subprocess.run(
        [f"{PROGRAMS}/veilnet-conflux"], env={**os.environ, **variables}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_bash_completes_verbs_options_and_choices():
    assert set(typed("bash", "veilnet-conflux do")) == {"plain,doctor", "plain,down"}
    assert typed("bash", "veilnet-conflux status --wa") == ["plain,--watch"]
    assert typed("bash", "veilnet-conflux up --packet-auth st") == ["plain,strict"]
    assert typed("bash", "veilnet-conflux completion f") == ["plain,fish"]


def test_zsh_and_fish_get_the_help_beside():
    assert typed("zsh", "veilnet-conflux netch")[:2] == ["plain", "netcheck"]
    assert any(line.startswith("plain,netcheck") for line in typed("fish", "veilnet-conflux netch"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_is_printed_for_each_shell(machine, shell):
    ended = machine.quick("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert f"_VEILNET_CONFLUX_COMPLETE={shell}_complete" in ended.out


def test_real_bash_completes_by_the_script():
    bash = shutil.which("bash")
    assert bash is not None  # `make` needs it
    script = """
        set -eu
        source <(veilnet-conflux completion bash)
        COMP_WORDS=(veilnet-conflux netch) COMP_CWORD=1
        _veilnet_conflux_completion veilnet-conflux
        echo "${COMPREPLY[@]}"
        complete -p veilnet-conflux
    """
    done = subprocess.run(
        [bash, "-c", script], env={**os.environ, "PATH": PATH}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "netcheck"
    assert "-F _veilnet_conflux_completion veilnet-conflux" in done.stdout


def found(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed (Debian: apt install {shell})")
    return path


def test_real_fish_completes_by_the_script(tmp_path):
    script = """
        veilnet-conflux completion fish | source
        complete -C "veilnet-conflux netch"
        complete -C "veilnet-conflux up --packet-auth st"
    """
    done = subprocess.run(
        [found("fish"), "--no-config", "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": PATH, "HOME": str(tmp_path)}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    verb, level = done.stdout.splitlines()
    assert verb.startswith("netcheck\tCheck UDP, NAT")
    assert level == "strict"


def test_real_zsh_completes_by_the_script(tmp_path):
    zsh, (ours, theirs) = found("zsh"), pty.openpty()
    environment = {"PATH": PATH, "HOME": str(tmp_path), "TERM": "dumb"}
    with subprocess.Popen(
        [zsh, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            os.close(theirs)
            # No word is echoed as it is printed: what comes is the shell's answer.
            os.write(ours, b"PS1= PS2= RPS1=; autoload -U compinit && compinit -u -D\n")
            os.write(ours, b"source <(veilnet-conflux completion zsh); print rea''dy\n")
            read_until(ours, b"ready")
            os.write(ours, b"veilnet-conflux netch\t")
            read_until(ours, b"veilnet-conflux netcheck")
            os.write(ours, b"\x15veilnet-conflux up --packet-auth st\t")
            read_until(ours, b"--packet-auth strict")
        finally:
            process.kill()
            os.close(ours)


def read_until(terminal: int, part: bytes) -> None:
    seen = b""
    while part not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 65_536)


def test_unknown_shell_is_refused(machine):
    ended = machine.quick("completion", "tcsh")
    assert ended.code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in ended.err
