"""Keeping a process's memory to itself: no core dumps, no debugger of the same user, no swap.

For whoever holds keys: a node, a Guardian. Nothing here stops a process: what this machine refuses
is told, and the process goes on without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import resource

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4  # prctl(2)
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # mlockall(2)
PT_DENY_ATTACH = 31  # sys/ptrace.h of macOS
SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX = 0x1, 0x2  # errhandlingapi.h
WER_FAULT_REPORTING_NO_HEAP = 0x1  # werapi.h


@dataclass(frozen=True, slots=True)
class Hardening:
    """What holds for this process since `harden`. `missing` has a line for each thing that does not
    hold, with the reason."""

    core_dumps: bool
    """Whether the process can still leave one."""
    memory_locked: bool
    """Whether no page of it can be written to swap."""
    missing: tuple[str, ...]


def harden() -> Hardening:
    """Forbid core dumps and lock the memory of this process, as far as the system allows.

    Call it before the first key is made, while there is one thread. On Linux other processes of
    the same user cannot look into this one any more (ptrace(2), /proc/PID/mem); root can. On macOS
    no debugger can attach, and a process that has one already ends here. On Windows crashes are
    not reported, so that no dump is written; other processes of the same user can look in.
    """
    missing = []
    core_dumps = memory_locked = False
    try:
        _forbid_core_dumps()
    except (OSError, ValueError) as error:
        core_dumps = True
        missing.append(f"core dumps are possible ({error}): they would hold keys")
    try:
        _lock_memory()
        memory_locked = True
    except (OSError, ValueError) as error:
        missing.append(
            f"memory is not locked ({error}): keys may reach swap; "
            + _WITHOUT_LOCK.get(sys.platform, "encrypt the swap space")
        )
    return Hardening(core_dumps, memory_locked, tuple(missing))


_WITHOUT_LOCK = {
    "linux": "grant CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK",
    "darwin": "macOS encrypts its swap",
    "win32": "have Windows encrypt it: `fsutil behavior set EncryptPagingFile 1`, then restart",
}


def hide_argument(secret: str) -> bool:
    """Write `*` over *secret* in what other processes see of this one's command line (ps(1)).

    Call it before `harden`, after which an ordinary user may no longer ask where that is. Tell
    whether it stood there; False also where this cannot be done.
    """
    if sys.platform != "linux" or not secret:
        return False
    needle = os.fsencode(secret)
    try:
        # Behind the name, which may hold spaces: field 3 comes first (proc_pid_stat(5)).
        fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
        start, end = int(fields[_ARG_START - 3]), int(fields[_ARG_END - 3])
        shown = Path("/proc/self/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
    if not start or len(shown) != end - start:
        return False
    found = False
    at = shown.find(needle)
    while at >= 0:
        ctypes.memset(start + at, ord("*"), len(needle))
        found = True
        at = shown.find(needle, at + len(needle))
    return found


_ARG_START, _ARG_END = 48, 49


def _forbid_core_dumps() -> None:
    if sys.platform == "win32":
        _forbid_error_reports()
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        # The limit does not hold where the kernel pipes dumps to a program (core(5)); this does.
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    elif sys.platform == "darwin":
        _call("ptrace", PT_DENY_ATTACH, 0, 0, 0)


def _forbid_error_reports() -> None:
    """Have Windows Error Reporting not look at this process when it crashes, and leave the heap,
    where keys are, out of what it reports all the same."""
    if sys.platform == "win32":
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX)
        if result := kernel32.WerSetFlags(WER_FAULT_REPORTING_NO_HEAP):
            raise OSError(f"WerSetFlags: {result & 0xFFFFFFFF:#x}")


def _lock_memory() -> None:
    """Lock every page once it is touched, those to come included: nothing more is resident for it.

    With a finite limit some later allocation would fail and end the process. So only what no limit
    can stop is done: a limit of 0 lets mlockall pass for CAP_IPC_LOCK alone, and that in the
    machine's own user namespace, where it lifts the limit for good.
    """
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has no way to lock a whole process")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = hard == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard if unlimited else 0, hard))
    try:
        _call("mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    except OSError:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
        raise
    if not unlimited:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


@contextlib.contextmanager
def undone_afterwards() -> Iterator[None]:
    """Undo at the end what was hardened inside: for a process that runs a node and then goes on as
    something else, as tests do."""
    if sys.platform != "linux":
        yield
        return
    limits = {
        limit: resource.getrlimit(limit)
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK)
    }
    dumpable = _call("prctl", PR_GET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        for limit, values in limits.items():
            resource.setrlimit(limit, values)
        _call("prctl", PR_SET_DUMPABLE, dumpable, 0, 0, 0)
        _call("munlockall")


def _call(function: str, *arguments: int) -> int:
    """Call a function of the C library that Python lacks. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        result = int(getattr(libc, function)(*map(ctypes.c_ulong, arguments)))
    except AttributeError:
        raise OSError(f"no {function} in the C library") from None
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(f"{function}: {os.strerror(code)}")
    return result
