"""A process that kills itself just before a step, for tests of what is left and what mends it.

Nothing else is imported: a test starts dozens of such processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

KILL = 9
"""SIGKILL; on Windows os.kill makes TerminateProcess of it, with this exit code."""


class Killer:
    """Ends this process just before its step number *step*, from 1; 0 never comes.

    A step is what others can see afterwards. *log* gets a line for each step that was reached.
    """

    def __init__(self, step: int, log: Path) -> None:
        self._left = step
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def reached(self, what: str) -> None:
        """The next thing that this process would do is *what*."""
        os.write(self._log, f"{what}\n".encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), KILL)

    def watch(self, step: Callable[[str, tuple[object, ...]], str]) -> None:
        """Take for steps what *step* names of what sys.addaudithook tells; "" is none."""

        def hear(event: str, arguments: tuple[object, ...]) -> None:
            if what := step(event, arguments):
                self.reached(what)

        sys.addaudithook(hear)


def change_of_file(event: str, arguments: tuple[object, ...], folders: tuple[str, ...]) -> str:
    """Name the change of a file below one of *folders* that an audit event tells of, or ""."""
    if event not in ("open", "os.rename", "os.remove", "os.rmdir"):
        return ""
    flags = arguments[2] if event == "open" else os.O_WRONLY
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    path = str(arguments[0])
    return f"{event} {path}" if writes and path.startswith(folders) else ""
