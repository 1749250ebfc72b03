"""Programs that die with whoever started them, even if that is killed with SIGKILL.

    Popen(with_parent([program, argument]))

The kernel keeps the death signal across exec (prctl(2), PR_SET_PDEATHSIG). A process of its own
sets it, this file as a script, since running Python between fork and exec of a process with threads
may hang. The signal follows the *thread* that started it: start from one that stays. Elsewhere than
on Linux the program just runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def with_parent(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The command line that runs *argv* and ends it, by SIGKILL, with this process.

    Process id, signals and exit code are those of the program itself.
    """
    # Not the whole of Python's start: no site-packages, nothing from the folder or environment.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *(os.fspath(a) for a in argv)]


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        # A parent that died before the call above would never be noticed.
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606  # there is no shell to want


if __name__ == "__main__":
    main()
