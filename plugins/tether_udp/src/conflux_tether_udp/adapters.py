"""ifaddr, imported without a search for libc.

It asks `ctypes.util.find_library` for it, which starts ldconfig, and gcc and ld where that says
nothing. A node runs as root and starts no compiler; libc is in this process already, which is what
CDLL(None) means.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _unsearched() -> Iterator[None]:
    former = ctypes.util.find_library

    def find(name: str) -> str | None:
        return None if name == "c" else former(name)

    ctypes.util.find_library = find
    try:
        yield
    finally:
        # Another thread may have put one of its own over ours meanwhile: it still needs that.
        if ctypes.util.find_library is find:
            ctypes.util.find_library = former


with _unsearched():
    from ifaddr import get_adapters

__all__ = ["get_adapters"]
