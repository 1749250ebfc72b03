"""The tether drivers of a node: the best one from the start, the others once they are needed.

A fallback that nobody falls back to costs no memory: its module is not even imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from conflux.api import Kind, TetherConfig, TetherDriver, TetherError, UsageError
from conflux.config import Config
from conflux.registry import Registry

log = logging.getLogger("conflux.node")


class Tethers:
    """Drivers by kind. Not thread safe: one event loop uses it."""

    def __init__(self, registry: Registry, config: Config) -> None:
        """Choose, and make none yet. Raises UsageError if there is nothing to choose."""
        self._registry = registry
        self._config = config
        infos = registry.select_all(Kind.TETHER, config.pins.get(Kind.TETHER, ()))
        self.kinds = tuple(info.name for info in infos)
        """Names of the drivers, best first; from `start` on without those found broken before."""
        self._shared: TetherConfig | None = None
        self._started: dict[str, TetherDriver] = {}
        self._broken: dict[str, str] = {}
        self._lock = asyncio.Lock()

    @property
    def left_out(self) -> Mapping[str, str]:
        """Drivers that could not be started, and why."""
        return self._broken

    async def start(self, shared: TetherConfig) -> None:
        """Start the best driver that can be. Raises UsageError, the last one's, if none can."""
        self._shared = shared
        while True:
            best, *others = self.kinds
            try:
                self._started[best] = await self._start(best, shared)
            except UsageError as error:
                if not others:
                    raise
                log.warning("the tether driver %s is left out: %s", best, error)
                self._broken[best] = str(error)
                self.kinds = tuple(others)
            else:
                return

    async def get(self, kind: str) -> TetherDriver:
        """Return the driver of *kind*, made and started if need be. Raises TetherError.

        The first time a module is imported, in a thread: the loop goes on meanwhile.
        """
        driver = self._started.get(kind)
        if driver is not None:
            return driver
        async with self._lock:
            if kind not in self._started:
                self._started[kind] = await self._start_late(kind)
            return self._started[kind]

    async def stop(self) -> None:
        """Stop every driver that was started."""
        while self._started:
            await self._started.popitem()[1].stop()

    async def _start_late(self, kind: str) -> TetherDriver:
        if self._shared is None or kind not in self.kinds:
            raise TetherError(f"tethers of kind {kind} are not in use")
        if kind in self._broken:
            raise TetherError(self._broken[kind])
        try:
            return await self._start(kind, self._shared)
        except UsageError as error:
            log.warning("the tether driver %s is left out: %s", kind, error)
            self._broken[kind] = str(error)
            raise TetherError(str(error)) from None

    async def _start(self, kind: str, shared: TetherConfig) -> TetherDriver:
        driver: TetherDriver
        _, driver = await asyncio.to_thread(
            self._registry.create,
            Kind.TETHER,
            lambda info: self._config.settings(Kind.TETHER, info.name),
            kind,
        )
        await driver.start(shared)
        return driver
