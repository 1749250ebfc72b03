"""Values that several contracts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NewType

Buffer = bytes | bytearray | memoryview

NodeId = NewType("NodeId", bytes)
"""32 bytes: SHA3-256 (FIPS 202) of a node's ML-DSA-65 public key. New at every start of a node."""

Path = tuple[NodeId, ...]
"""The nodes of a route in travel order, source first, destination last, none twice."""

Link = tuple[NodeId, NodeId]
"""One hop of a path, in travel order."""

Settings = Mapping[str, object]
"""One driver's own table of conflux.toml, `[plugin.<kind>.<name>]`, as TOML values."""
