"""`python killed_at.py STEP FILE FOLDERS WORD...` types `veilnet-conflux WORD...` and kills it.

A step is what others can see afterwards: a file below one of FOLDERS (with colons between) that is
opened to be written, renamed or removed, a connection, a program that is started. SIGKILL comes
just before step STEP (from 1): nothing of the command runs any more. FILE gets a line for each step
that was reached, so that STEP 0, which never comes, lists them all.
"""

from __future__ import annotations

import os
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR
FILES = {"open", "os.rename", "os.remove"}
PROGRAMS = {sys.executable, "systemctl"}
ASKS = {"show", "--version"}
"""Words of systemctl that change nothing."""


class Killer:
    """An audit hook, see sys.addaudithook: it hears of a step before it is done."""

    def __init__(self, step: int, file: int, folders: str) -> None:
        self._left = step
        self._file = file
        self._folders = tuple(folders.split(":"))

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not (what := self._step(event, args)):
            return
        os.write(self._file, f"{event} {what}\n".encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _step(self, event: str, args: tuple[object, ...]) -> str:
        """What it is about; empty if nobody will see it."""
        if event in FILES:
            path = str(args[0])
            reads = event == "open" and not (isinstance(args[2], int) and args[2] & WRITES)
            own = os.path.dirname(path).endswith("/manager") and not path.endswith("/unit")
            # What the stand-in keeps of a running service is not the command's, but a manager's.
            return "" if reads or own or not path.startswith(self._folders) else path
        if event == "subprocess.Popen" and args[0] in PROGRAMS:
            words = [str(word) for word in args[1]] if isinstance(args[1], list) else []
            return "" if ASKS & set(words) else " ".join(words)
        return str(args[1]) if event == "socket.connect" else ""


if __name__ == "__main__":
    from conflux.cli import main

    step, log, folders = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(Killer(step, file, folders))
    main(sys.argv[4:], prog_name="veilnet-conflux")
