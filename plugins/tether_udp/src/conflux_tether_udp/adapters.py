"""ifaddr, imported without the search for libc that it makes: that is in this process already."""

from __future__ import annotations

from conflux.api import named_libraries

with named_libraries({"c": None}):
    from ifaddr import get_adapters

__all__ = ["get_adapters"]
