"""The event loop of a node: it looks first, whenever it wakes up, and does everything else then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from conflux.runtime.awake import Awake

T = TypeVar("T")


class _LookingSelector(selectors.DefaultSelector):
    """Calls `look` after every wait, before anything that became ready, or due, is done."""

    look: Callable[[], None] | None = None
    awake: Awake | None = None
    _since = 0.0
    """When the last wait ended."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.awake is None or (timeout is not None and timeout <= 0):
            ready = super().select(timeout)
        else:
            ready = self._wait(self.awake, timeout)
        if self.look is not None:
            self.look()
        return ready

    def _wait(self, awake: Awake, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        begun = time.perf_counter()
        awake.worked(begun - self._since)
        ready = self._look_again(awake.budget_s, begun, timeout) if awake.pays else []
        if not ready:
            if timeout is not None:
                timeout = max(timeout - (time.perf_counter() - begun), 0.0)
            ready = super().select(timeout)
        self._since = time.perf_counter()
        awake.waited(self._since - begun)
        return ready

    def _look_again(
        self, budget_s: float, begun: float, timeout: float | None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Look without sleeping, for *budget_s* at most; between looks others may run."""
        until = begun + (budget_s if timeout is None else min(budget_s, timeout))
        while not (ready := super().select(0)) and time.perf_counter() < until:
            os.sched_yield()
        return ready


class LookingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with that selector."""

    def __init__(self) -> None:
        self._looking = _LookingSelector()
        super().__init__(self._looking)

    def look_first(self, look: Callable[[], None] | None) -> None:
        """Call *look* at each wake-up, before anything else; None ends that."""
        self._looking.look = look

    def stay_awake(self, budget_s: float) -> bool:
        """Spend short waits awake, *budget_s* of each at most, while that pays; 0 ends that.

        Says whether it is done: never where this process may use one processor only, since whoever
        is waited for could not run meanwhile, and on Linux only.
        """
        can = sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1
        self._looking.awake = Awake(budget_s) if can and budget_s > 0 else None
        return self._looking.awake is not None


@contextlib.contextmanager
def staying_awake(us: int) -> Iterator[None]:
    """Let the running loop stay awake for *us* microseconds, as long as the block runs."""
    loop = asyncio.get_running_loop()
    if us and isinstance(loop, LookingLoop):
        loop.stay_awake(us / 1e6)
    try:
        yield
    finally:
        if isinstance(loop, LookingLoop):
            loop.stay_awake(0)


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
