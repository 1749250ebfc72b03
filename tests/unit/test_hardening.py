"""A hardened process dumps no core and hides its memory; whatever is refused, it goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conflux.hardening import harden, undone_afterwards

if sys.platform != "linux":
    pytest.skip("hardening is done on Linux only", allow_module_level=True)

HARDEN = "from conflux.hardening import harden; done = harden()\n"
PRINT = "import dataclasses, json; print(json.dumps(dataclasses.asdict(done)), flush=True)\n"
MEGABYTES_LATER = """
held = bytearray(64 << 20)
held[:] = bytes(64 << 20)
status = open("/proc/self/status").read()
locked = int(status.split("VmLck:")[1].split()[0]) >> 10
print(json.dumps({"locked_mb": locked}), flush=True)
"""
ABORT = """
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
os.abort()
"""
WITHOUT_CAPABILITIES = (
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
)


def run(script: str, *prefix: str) -> list[dict]:
    argv = [*prefix, sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def dumps_core(script: str, folder: Path) -> bool:
    """Whether a process that runs *script* and then aborts leaves a core dump.

    With a limit that would allow any: it is the process that is asked, not the limit.
    """
    process = subprocess.Popen([sys.executable, "-c", script + ABORT], cwd=folder)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = status
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_hardened_process_that_crashes_leaves_no_core_dump(tmp_path):
    if not dumps_core("", tmp_path):
        pytest.skip("this machine dumps no core of any process")
    assert not dumps_core(HARDEN, tmp_path)


def test_memory_is_locked_what_comes_later_included_where_that_is_allowed():
    said, later = run(HARDEN + PRINT + MEGABYTES_LATER)
    assert not said["core_dumps"]
    if not said["memory_locked"]:
        [line] = said["missing"]
        pytest.skip(f"this user may not lock memory: {line}")
    assert said["missing"] == []
    assert later["locked_mb"] >= 64


def test_locking_makes_nothing_resident_that_was_not_touched():
    script = """
import mmap, json
from conflux.hardening import harden
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE >> 20
before = mmap.mmap(-1, 256 << 20)
harden()
after = mmap.mmap(-1, 256 << 20)
print(json.dumps({"resident_mb": resident_mb()}))
"""
    [found] = run(script)
    assert found["resident_mb"] < 128


def test_who_may_not_lock_memory_is_told_and_goes_on():
    # A limit that would do now, and fail some later allocation: such a lock is not taken.
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = 32 << 20 if hard == resource.RLIM_INFINITY else hard
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit},) * 2)\n"
    said, later = run(limited + HARDEN + PRINT + MEGABYTES_LATER, *WITHOUT_CAPABILITIES)
    assert (said["core_dumps"], said["memory_locked"]) == (False, False)
    [line] = said["missing"]
    assert "memory is not locked" in line
    assert "CAP_IPC_LOCK" in line
    assert later["locked_mb"] == 0


def test_other_processes_of_the_same_user_cannot_read_the_memory_of_a_hardened_one():
    look = """
import json, subprocess, sys
def is_readable(script):
    argv = [sys.executable, "-c", script + "print(1, flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as victim:
        victim.stdout.readline()
        try:
            open(f"/proc/{victim.pid}/mem", "rb").close()
            return True
        except PermissionError:
            return False
        finally:
            victim.communicate(b"\\n")
print(json.dumps([is_readable(""), is_readable(sys.argv[1])]))
"""
    argv = [*WITHOUT_CAPABILITIES, sys.executable, "-c", look, HARDEN]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, False]


def test_hardening_of_a_test_process_is_undone():
    before = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with undone_afterwards():
        assert not harden().core_dumps
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    after = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert before == after
    assert "VmLck:\t       0 kB" in Path("/proc/self/status").read_text()
