"""Run a program that dies with its parent: `python -I -S with_parent.py PARENT_PID PROGRAM ARG...`

The kernel keeps the death signal across exec (prctl(2), PR_SET_PDEATHSIG), so that even SIGKILL of
the parent leaves nothing behind. A process of its own sets it, since running Python between fork
and exec of a process with threads may hang. Elsewhere than on Linux the program just runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        # A parent that died before the call above would never be noticed.
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606  # the path is absolute, there is no shell to want


if __name__ == "__main__":
    main()
