"""The program: `veilnet-conflux`, and `python -m conflux`.

Ctrl-C ends it as SIGTERM does: at once and without a word, by the signal itself (a shell says 130).
Python's own way, an exception out of nowhere, would print where it hit, mostly in an import. What
has something to undo asks for another way: a running node does, and the demo.
"""

import signal

# Where it is ignored it stays so: a shell does that with what it starts in the background.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line; raises SystemExit."""
    try:
        from conflux.cli import main as command

        command()
    except KeyboardInterrupt:  # asyncio leaves Python's way behind when its loop ends
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
