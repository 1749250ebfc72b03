"""The stand-in for wintun.dll and iphlpapi.dll: standin.c, compiled by test_under_wine.py."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conflux_tun_wintun import library, link, netio


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the driver the stand-in for both; nothing may be left of what a test made."""
    path = os.environ["VEILNET_STANDIN"]
    dll = ctypes.WinDLL(path)
    monkeypatch.setattr(library, "find", lambda: Path(path))
    monkeypatch.setattr(link, "load", lambda: library.bind(dll, netio.PROTOTYPES))
    yield dll
    assert told(dll) == ["tables 0"]


def told(dll: Any) -> list[str]:
    """All that is set, as C reads the structures."""
    text = ctypes.create_string_buffer(16_384)
    dll.StandinTell(text)
    return text.value.decode().splitlines()
