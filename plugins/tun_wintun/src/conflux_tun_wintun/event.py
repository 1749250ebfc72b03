"""An event of Windows that calls back from asyncio's Proactor loop."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from ctypes import byref, c_int, c_uint32, c_void_p

DUPLICATE_SAME_ACCESS = 2


class Event:
    """A handle of our own on an auto-reset event, and at most one wait for it in the running loop.

    Our own, since a handle must not be closed while it is waited for, and the end of a wait cannot
    be waited for: whoever owns the first handle may close it once `close` has returned.
    """

    def __init__(self, handle: int, on_set: Callable[[], None]) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.ProactorEventLoop):
            raise RuntimeError("an event can be waited for in asyncio's Proactor loop alone")
        self._proactor = loop._proactor  # type: ignore[attr-defined]  # noqa: SLF001
        self._kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        self._kernel32.GetCurrentProcess.restype = c_void_p
        self._handle = self._duplicate(handle)
        self._on_set = on_set
        self._waits = False
        self._closed = False

    def _duplicate(self, handle: int) -> int:
        process = c_void_p(self._kernel32.GetCurrentProcess())
        copy = c_void_p()
        done = self._kernel32.DuplicateHandle(
            process, c_void_p(handle), process, byref(copy), c_uint32(0), c_int(0),
            c_uint32(DUPLICATE_SAME_ACCESS),
        )  # fmt: skip
        if not done or copy.value is None:
            raise ctypes.WinError(ctypes.get_last_error())
        return copy.value

    def wait(self) -> None:
        """Call *on_set* from the loop once the event is set, which resets it; once for one wait."""
        if not self._waits and not self._closed:
            self._waits = True
            # The loop's own way to wait for a process to end (asyncio/windows_events.py).
            self._proactor.wait_for_handle(self._handle).add_done_callback(self._done)

    def close(self) -> None:
        """Call nothing any more. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._waits:
            self._kernel32.SetEvent(c_void_p(self._handle))  # ends the wait; then it is let go of
        else:
            self._release()

    def _done(self, future: asyncio.Future[bool]) -> None:
        self._waits = False
        if self._closed:
            self._release()
        elif not future.cancelled():  # it is when the loop is closed
            future.result()
            self._on_set()

    def _release(self) -> None:
        self._kernel32.CloseHandle(c_void_p(self._handle))
