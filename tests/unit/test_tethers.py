"""The tether drivers of a node: one from the start, the others once they are asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conflux.api import (
    DriverInfo,
    Kind,
    Settings,
    Tether,
    TetherConfig,
    TetherDriver,
    TetherError,
    Unavailable,
    hookimpl,
)
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime.tethers import Tethers

SHARED = TetherConfig(is_overlay=lambda address: False)


class Recording(TetherDriver):
    """Notes what is done with it."""

    name: ClassVar[str]
    log: ClassVar[list[str]]

    def __init__(self, settings: Settings) -> None:
        self.log.append(f"{self.name} made with {dict(settings)}")

    async def start(self, config: TetherConfig) -> None:
        assert config is SHARED
        self.log.append(f"{self.name} started")

    async def offer(self) -> Tether:
        raise TetherError("not here")

    async def answer(self, offer: bytes) -> Tether:
        raise TetherError("not here")

    async def stop(self) -> None:
        self.log.append(f"{self.name} stopped")


class Fast(Recording):
    name = "fast"


class Sure(Recording):
    name = "sure"


class Broken(Recording):
    name = "broken"

    async def start(self, config: TetherConfig) -> None:
        raise Unavailable("it lost its screws")


class Plugin:
    @hookimpl
    def conflux_tether_driver(self) -> Any:
        priorities = {Broken: 3, Fast: 2, Sure: 1}
        return [
            DriverInfo(
                name=driver.name, target=f"{__name__}:{driver.__name__}", api=(1, 0), priority=rank
            )
            for driver, rank in priorities.items()
        ]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    entries: list[str] = []
    monkeypatch.setattr(Recording, "log", entries, raising=False)
    return entries


def tethers(*pinned: str, **settings: Settings) -> Tethers:
    registry = Registry()
    registry.add(Plugin(), name="plugin")
    pins = {Kind.TETHER: pinned} if pinned else {}
    config = Config(config_dir=Path("/nowhere"), pins=pins, tables={Kind.TETHER: settings})
    return Tethers(registry, config)


def test_a_fallback_is_made_and_started_only_once_it_is_needed(log: list[str]) -> None:
    async def main() -> None:
        both = tethers("fast", "sure", sure={"knob": 1})
        assert both.kinds == ("fast", "sure")
        assert log == []
        await both.start(SHARED)
        assert log == ["fast made with {}", "fast started"]
        first, second = await asyncio.gather(both.get("sure"), both.get("sure"))
        assert first is second
        assert log[2:] == ["sure made with {'knob': 1}", "sure started"]
        await both.stop()
        assert sorted(log[4:]) == ["fast stopped", "sure stopped"]

    asyncio.run(main())


def test_the_best_one_that_is_broken_gives_way_with_a_warning(
    log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        all_of_them = tethers()
        assert all_of_them.kinds == ("broken", "fast", "sure")
        await all_of_them.start(SHARED)
        assert all_of_them.kinds == ("fast", "sure")
        await all_of_them.stop()

    asyncio.run(main())
    assert [r.getMessage() for r in caplog.records] == [
        "the tether driver broken is left out: it lost its screws"
    ]


def test_the_only_one_that_is_broken_is_an_error_that_says_why(log: list[str]) -> None:
    with pytest.raises(Unavailable, match="it lost its screws"):
        asyncio.run(tethers("broken").start(SHARED))


def test_a_broken_fallback_is_complained_of_once(
    log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        some = tethers("fast", "broken")
        await some.start(SHARED)
        for _ in range(3):
            with pytest.raises(TetherError, match="it lost its screws"):
                await some.get("broken")
        with pytest.raises(TetherError, match="not in use"):
            await some.get("sure")
        await some.stop()

    asyncio.run(main())
    assert len(caplog.records) == 1
