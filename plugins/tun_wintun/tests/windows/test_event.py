"""Waiting for an event of Windows in asyncio's Proactor loop."""

from __future__ import annotations

import asyncio
import ctypes

import pytest

from conflux_tun_wintun.event import Event

KERNEL32 = ctypes.WinDLL("kernel32")
KERNEL32.CreateEventW.restype = ctypes.c_void_p


@pytest.fixture
def handle() -> int:
    """One that its test need not close: two of them do."""
    made = KERNEL32.CreateEventW(None, 0, 0, None)
    assert made
    return int(made)


def set_event(handle: int) -> None:
    assert KERNEL32.SetEvent(ctypes.c_void_p(handle))


def test_set_event_calls_back_once_for_each_wait(handle: int) -> None:
    async def main() -> None:
        calls: asyncio.Queue[int] = asyncio.Queue()
        event = Event(handle, lambda: calls.put_nowait(1))
        event.wait()
        event.wait()
        set_event(handle)
        await calls.get()
        set_event(handle)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert calls.empty()
        event.wait()
        await calls.get()
        event.close()

    asyncio.run(main())


def test_event_that_is_set_before_the_wait_is_not_missed(handle: int) -> None:
    async def main() -> None:
        called = asyncio.Event()
        event = Event(handle, called.set)
        set_event(handle)
        event.wait()
        await called.wait()
        event.close()

    asyncio.run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_owner_may_close_its_handle_after_close(handle: int, waits: bool) -> None:
    async def main() -> None:
        calls: list[int] = []
        event = Event(handle, lambda: calls.append(1))
        if waits:
            event.wait()
        event.close()
        event.close()
        assert KERNEL32.CloseHandle(ctypes.c_void_p(handle))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert calls == []

    asyncio.run(main())


def test_loop_may_end_while_an_event_is_waited_for(handle: int) -> None:
    async def main() -> None:
        Event(handle, lambda: None).wait()

    asyncio.run(main())


def test_other_loop_is_refused(handle: int) -> None:
    async def main() -> None:
        Event(handle, lambda: None)

    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
        pytest.raises(RuntimeError, match="Proactor"),
    ):
        runner.run(main())
