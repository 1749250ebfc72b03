"""Guardian and the Master: are they there, under which encryption, how far away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from conflux.api import AuthDriver, ControlDriver, Kind, ServerCheck, UsageError
from conflux.checks.findings import Finding, fail, ok, refused, unknown, warn
from conflux.checks.nat import Endpoint
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime.drivers import create

CLOCK_S = 30.0
"""A node goes by Guardian's clock; certificates of TLS, and people who read logs, by its own."""


def endpoint(url: str) -> Endpoint | None:
    """Return host and port of a URL; None if there is none in it."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4222)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def check_guardian(registry: Registry, config: Config, url: str) -> Iterator[Finding]:
    """Ask Guardian by its driver. Blocks for as long as that waits."""

    async def ask() -> ServerCheck | None:
        driver: AuthDriver = create(registry, config, Kind.AUTH)[1]
        try:
            return await driver.check(url)
        finally:
            await driver.close()

    yield from _asked("guardian", url, ask)


def check_master(
    registry: Registry, config: Config, urls: Sequence[str], ca_pem: str, connected: bool | None
) -> Iterator[Finding]:
    """Ask each broker by its driver. *connected*: whether the running node is; None without one."""
    if connected is False:
        yield fail("master", "the running node has no connection to the Master", "see below")
    if not urls:
        do = "start the node: Guardian tells it at login"
        yield unknown("master", "where the Master is, only a running node knows", do)
    for url in urls:

        async def ask(url: str = url) -> ServerCheck | None:
            driver: ControlDriver = create(registry, config, Kind.CONTROL)[1]
            return await driver.check(url, ca_pem=ca_pem)

        yield from _asked("master", url, ask)


def _asked(
    name: str, url: str, ask: Callable[[], Awaitable[ServerCheck | None]]
) -> Iterator[Finding]:
    began, clock_s = time.monotonic(), time.time()
    try:
        # What a driver would log of plain HTTP is said here anyway.
        logging.disable(logging.WARNING)
        answer = asyncio.run(_awaited(ask))
    except UsageError as error:
        yield refused(name, error)
        return
    finally:
        logging.disable(logging.NOTSET)
    took_ms = (time.monotonic() - began) * 1000
    if answer is None:
        yield unknown(name, f"the driver cannot tell whether {url} is there", "")
        return
    yield ok(name, f"{url} is there: {answer.spoken}, {took_ms:.0f} ms")
    if answer.clock_s is not None:
        yield _clock(answer.clock_s - clock_s)


async def _awaited(ask: Callable[[], Awaitable[Any]]) -> Any:
    return await ask()


def _clock(ahead_s: float) -> Finding:
    if abs(ahead_s) <= CLOCK_S:
        return ok("clock", "as Guardian's")
    word = "behind" if ahead_s > 0 else "ahead of"
    return warn(
        "clock",
        f"this machine's clock is {abs(ahead_s):.0f} s {word} Guardian's",
        "switch on NTP (`timedatectl set-ntp true`), or set the clock",
    )
