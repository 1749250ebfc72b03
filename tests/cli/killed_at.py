"""`python killed_at.py STEP FILE FOLDERS WORD...` types `veilnet-conflux WORD...` and kills it.

A step is what others can see afterwards: a file below one of FOLDERS (with colons between) that is
opened to be written, renamed or removed, a connection, a program that is started. SIGKILL comes
just before step STEP (from 1): nothing of the command runs any more. FILE gets a line for each step
that was reached, so that STEP 0, which never comes, lists them all.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from conflux.killer import Killer, change_of_file

PROGRAMS = {sys.executable, "systemctl"}
ASKS = {"show", "--version"}
"""Words of systemctl that change nothing."""


def seen(folders: tuple[str, ...], event: str, arguments: tuple[object, ...]) -> str:
    """What the step is about; empty if nobody will see it."""
    if event == "subprocess.Popen" and arguments[0] in PROGRAMS:
        words = [str(word) for word in arguments[1]] if isinstance(arguments[1], list) else []
        return "" if ASKS & set(words) else f"{event} {' '.join(words)}"
    if event == "socket.connect":
        return f"{event} {arguments[1]}"
    change = change_of_file(event, arguments, folders)
    # What the stand-in keeps of a running service is not the command's, but a manager's.
    own = os.path.dirname(change).endswith("/manager") and not change.endswith("/unit")
    return "" if own else change


if __name__ == "__main__":
    from conflux.cli import main

    step, log, folders = int(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3].split(":"))
    Killer(step, log).watch(partial(seen, folders))
    main(sys.argv[4:], prog_name="veilnet-conflux")
