"""The public kit for plugin authors: `pip install veilnet-conflux[testing]`.

Subclass the conformance class of your driver's kind and `PluginConformance`, then run pytest
(docs/plugins.md). The fakes pass the same classes and are there for tests of your own.
"""

# ruff: noqa: E402 (pytest rewrites only what is imported after it was told to)

import pytest

# So that a failing check shows the values it compared.
pytest.register_assert_rewrite(*(f"conflux.testing.{name}" for name in ("crypto", "tether", "tun")))

from conflux.testing.crypto import CryptoConformance, CryptoContract
from conflux.testing.fakes import (
    FakeCrypto,
    MemoryHub,
    MemoryTether,
    MemoryTetherDriver,
    MemoryTun,
    MemoryTunDriver,
)
from conflux.testing.tether import TetherConformance, plain_config
from conflux.testing.tun import TunConformance

__all__ = [
    "CryptoConformance",
    "CryptoContract",
    "FakeCrypto",
    "MemoryHub",
    "MemoryTether",
    "MemoryTetherDriver",
    "MemoryTun",
    "MemoryTunDriver",
    "TetherConformance",
    "TunConformance",
    "plain_config",
]
