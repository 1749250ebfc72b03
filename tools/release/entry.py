"""Where the executable begins: the command line, or Python itself.

Plugins start programs of theirs as `sys.executable -I FILE` (`rule_keeper.py` of tun_linux is one).
In the executable that is the executable, so it takes the words that Python takes: options, which
change nothing here since nothing but what was packed is on the path, then `-m MODULE`, `-c CODE` or
a file that ends with .py. No verb looks like one of these.
"""

from __future__ import annotations

import os
import runpy
import sys

IGNORED = {"-I", "-P", "-S", "-E", "-B", "-s", "-u"}


def main() -> None:
    # The file that its user has, not what it unpacked: a service that names it is upgraded with it.
    if file := os.environ.pop("CONFLUX_EXECUTABLE", ""):
        sys.argv[0] = sys.executable = file
    words = sys.argv[1:]
    while words and words[0] in IGNORED:
        words.pop(0)
    match words:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        case [file, *rest] if file.endswith(".py"):
            sys.argv = [file, *rest]
            runpy.run_path(file, run_name="__main__")
        case _:
            from conflux.__main__ import main as command_line

            command_line()


if __name__ == "__main__":
    main()
