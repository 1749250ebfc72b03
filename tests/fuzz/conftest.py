"""The fuzzed functions, without the fuzzer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import fuzz_receiver  # noqa: E402
import fuzz_targets  # noqa: E402
import fuzz_udp  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stored" in metafunc.fixturenames:
        stored = [
            path
            for kind in ("corpus", "regressions")
            for path in sorted((FOLDER / kind).glob("*/*"))
        ]
        names = [f"{path.parent.name}/{path.name}" for path in stored]
        metafunc.parametrize("stored", stored, ids=names)


@pytest.fixture
def targets() -> Mapping[str, fuzz_targets.Fuzzed]:
    return fuzz_targets.TARGETS


@pytest.fixture
def receiver() -> ModuleType:
    return fuzz_receiver


@pytest.fixture
def udp_runner() -> type[fuzz_udp.Runner]:
    return fuzz_udp.Runner


@pytest.fixture
def folder() -> Path:
    return FOLDER
