"""The event loop of a node: it looks first, whenever it wakes up, and does everything else then."""

from __future__ import annotations

import asyncio
import selectors
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _LookingSelector(selectors.DefaultSelector):
    """Calls `look` after every wait, before anything that became ready, or due, is done."""

    look: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if self.look is not None:
            self.look()
        return ready


class LookingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with that selector."""

    def __init__(self) -> None:
        self._looking = _LookingSelector()
        super().__init__(self._looking)

    def look_first(self, look: Callable[[], None] | None) -> None:
        """Call *look* at each wake-up, before anything else; None ends that."""
        self._looking.look = look


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call *stop* in the running loop on SIGINT and SIGTERM, on Windows on Ctrl-C and Ctrl-Break.

    Windows sends the latter also when the console is closed or the user logs off, and then ends the
    process 5 s later. Until the loop is closed.
    """
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    else:

        def told(number: int, frame: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop)

        for number in (signal.SIGINT, signal.SIGBREAK):
            signal.signal(number, told)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in a LookingLoop where there are selectors."""
    factory = None if sys.platform == "win32" else LookingLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
