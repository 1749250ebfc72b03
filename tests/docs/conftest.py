"""Fixtures of the tests that do what the documents say."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from conflux import lab


@functools.cache
def _missing() -> str:
    return "; ".join(lab.missing())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and _missing():
        pytest.skip(f"the lab needs {_missing()}")


@pytest.fixture
def internet() -> Iterator[lab.Internet]:
    with lab.World() as world:
        yield lab.Internet(world)


@pytest.fixture
def until():
    return lab.until
