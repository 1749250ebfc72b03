"""What the conformance classes share: a deadline around every check, and waiting on a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import pytest

from conflux.api import Unavailable

DEADLINE_S = 60.0
"""No check may take longer. Generous: it ends a hang, it measures nothing."""

WAIT_S = 10.0
"""How long a driver may take to do what it promised without naming a time."""

POLL_S = 0.001


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run *main* on a fresh event loop under DEADLINE_S."""

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main

    asyncio.run(bounded())


async def until(condition: Callable[[], bool], what: str, *, within_s: float | None = None) -> None:
    """Wait until *condition* holds; fail the test with *what* if it does not in time.

    *within_s* is WAIT_S if not given. Real devices and sockets have no event that says "it got
    there", hence the polling. It can only end by the condition or by failing, so a slow machine
    changes no outcome.
    """
    within_s = WAIT_S if within_s is None else within_s
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 (the condition belongs to a driver)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        if condition():
            return
        pytest.fail(f"{what}: did not happen within {within_s:g} s")


async def settle(rounds: int = 20) -> None:
    """Let whatever is already due on the loop run: for checks that something does *not* happen."""
    for _ in range(rounds):
        await asyncio.sleep(POLL_S)


def not_here(error: Unavailable) -> NoReturn:
    """Skip, by name: the driver itself said that it cannot run on this machine."""
    pytest.skip(f"driver unavailable: {error}")


def named(test: Callable[[Any], None], like: Callable[..., Any]) -> Callable[[Any], None]:
    """Give *test* the name and docstring of *like*.

    Not functools.wraps: pytest follows `__wrapped__` and would take the check's arguments for
    fixtures.
    """
    test.__name__ = like.__name__
    test.__qualname__ = like.__qualname__
    test.__doc__ = like.__doc__
    test.__module__ = like.__module__
    return test
