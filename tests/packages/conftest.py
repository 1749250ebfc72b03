"""The wheels of the workspace."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wheels(release: type, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of every member of the workspace, by distribution."""
    built: dict[str, Path] = release.wheels.build(tmp_path_factory.mktemp("wheels"))
    return built
