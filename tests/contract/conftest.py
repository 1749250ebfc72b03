"""Plugins made on the fly: real distributions in a folder of their own on the import path."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., str]

_numbers = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin from its source; return its module's name, which is nobody else's."""
    modules: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(source: str, *, name: str, dist: str = "", entry: str = "{module}") -> str:
        module = f"plugin_on_the_fly_{next(_numbers)}"
        modules.append(module)
        dist = dist or f"conflux-plugin-{name}"
        (tmp_path / f"{module}.py").write_text(source.replace("{module}", module))
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        target = entry.replace("{module}", module)
        (info / "entry_points.txt").write_text(f"[conflux.plugins]\n{name} = {target}\n")
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)
