"""What a node tells the service manager that started it, in the words of sd_notify(3).

    READY=1       it runs, or waits for Guardian or the Master and goes on by itself
    STATUS=...    a line for people: the state, at the end the error
    WATCHDOG=1    its event loop turns
    STOPPING=1    it closes what it has

By datagrams to NOTIFY_SOCKET, as systemd has it; or, where VEILNET_NOTIFY is "stdio", by lines on
standard output, until standard input ends, which means stop. That serves managers without sockets.
Without either nobody is told anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping

MAX_STATUS_CHARACTERS = 512


class Manager:
    """The service manager, or none. Every method is quick and raises nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._tell = _teller(environ)
        self._by_stdio = environ.get("VEILNET_NOTIFY") == "stdio"
        self._is_ready = False
        self.beat_s = _beat_s(environ)
        """How often `beat` tells that the loop turns; None if nobody wants to know."""

    def ready(self, status: str) -> None:
        """It is up. Told once; later the status alone."""
        words = [f"STATUS={_line(status)}"]
        if not self._is_ready:
            self._is_ready = True
            words.insert(0, "READY=1")
        self._tell("\n".join(words))

    def status(self, text: str) -> None:
        self._tell(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=stopping")

    async def beat(self) -> None:
        """Tell for ever that the loop turns, if somebody wants to know."""
        if self.beat_s is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.beat_s)

    def when_told_to_stop(self, stop: Callable[[], None]) -> None:
        """Call *stop* in the running loop once standard input ends, if that is what it is for."""
        if self._by_stdio:
            loop = asyncio.get_running_loop()
            # A thread that never ends would keep the process: a daemon, it holds nothing.
            threading.Thread(target=_read_to_end, args=(loop, stop), daemon=True).start()


def _teller(environ: Mapping[str, str]) -> Callable[[str], None]:
    if environ.get("VEILNET_NOTIFY") == "stdio":
        return _print
    if address := environ.get("NOTIFY_SOCKET"):
        if address.startswith("@"):  # an abstract name, unix(7)
            address = "\0" + address[1:]
        return lambda words: _send(address, words)
    return lambda words: None


def _print(words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever listened is gone
        print(words, flush=True)


def _send(address: str, words: str) -> None:
    # A manager that does not read is no reason to wait, or to end.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.settimeout(0)
        teller.sendto(words.encode(), address)


def _beat_s(environ: Mapping[str, str]) -> float | None:
    """Half of what sd_watchdog_enabled(3) says, which is what it recommends."""
    limit, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or (process and process != str(os.getpid())):
        return None
    return max(int(limit), 1) / 2e6


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS_CHARACTERS]


def _read_to_end(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended before
        loop.call_soon_threadsafe(stop)
