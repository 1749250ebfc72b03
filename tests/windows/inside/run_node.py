"""A program: `veilnet-conflux` with the stand-in for wintun.dll and iphlpapi.dll given first.

Ctrl-Break is what ends it once its standard input ends, since nobody is at a console.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from pathlib import Path

from conflux_tun_wintun import library, link, netio

standin = sys.argv.pop(1)
dll = ctypes.WinDLL(standin)
library.find = lambda platform="": Path(standin)
link.load = lambda: library.bind(dll, netio.PROTOTYPES)


def break_at_the_end() -> None:
    sys.stdin.read()
    signal.raise_signal(signal.SIGBREAK)


threading.Thread(target=break_at_the_end, daemon=True).start()

if __name__ == "__main__":
    from conflux.__main__ import main

    main()
