"""The program: `veilnet-conflux`, and `python -m conflux`.

Ctrl-C ends it as SIGTERM does: at once and without a word, by the signal itself (a shell says 130).
Python's own way, an exception out of nowhere, would print where it hit, mostly in an import. What
has something to undo asks for another way: a running node does, and the demo.
"""

import io
import os
import signal
import sys

# Where it is ignored it stays so: a shell does that with what it starts in the background.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line; raises SystemExit."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # not where it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding lacks
    try:
        from conflux.cli import main as command

        command()
    except OSError as error:
        if not _output_is_lost():
            raise
        line = f"standard output cannot be written: {error.strerror or error}"
        print(f"veilnet-conflux: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # asyncio leaves Python's way behind when its loop ends
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _output_is_lost() -> bool:
    """Whether standard output takes no more, as on a full disk; if so, what is left is dropped."""
    try:
        if sys.stdout is not None:
            print(flush=True)  # with or without a buffer, it fails where the last text did
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or Python's own last flush would complain
        os.close(nowhere)
        return True
    return False


if __name__ == "__main__":
    main()
