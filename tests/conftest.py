"""What tests of several folders share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

RELEASE = Path(__file__).resolve().parents[1] / "tools" / "release"


@pytest.fixture(scope="session")
def release() -> Iterator[type]:
    """The modules of tools/release as attributes: they are no package, but scripts' neighbours."""
    sys.path.insert(0, str(RELEASE))
    try:

        class Release:
            steps: ModuleType = importlib.import_module("steps")
            wheels: ModuleType = importlib.import_module("wheels")
            executable: ModuleType = importlib.import_module("executable")
            debian_package: ModuleType = importlib.import_module("debian_package")

        yield Release
    finally:
        sys.path.remove(str(RELEASE))
