"""The public kit for plugin authors: `pip install veilnet-conflux[testing]`.

Subclass the conformance class of your driver's kind and `PluginConformance`, then run pytest
(docs/plugins.md). The fakes pass the same classes and are there for tests of your own.
"""

# ruff: noqa: E402 (pytest rewrites only what is imported after it was told to)

import pytest

# So that a failing check shows the values it compared.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{kind}"
        for kind in (
            "auth",
            "control",
            "crypto",
            "killed",
            "plugin",
            "router",
            "service",
            "tether",
            "tun",
        )
    )
)

from conflux.testing.auth import AuthConformance, AuthServer
from conflux.testing.control import ControlBroker, ControlConformance
from conflux.testing.crypto import CryptoConformance, CryptoContract
from conflux.testing.fakes import (
    Carrier,
    EqualRouter,
    FakeCrypto,
    MemoryAuth,
    MemoryBroker,
    MemoryControl,
    MemoryGuardian,
    MemoryHub,
    MemoryService,
    MemoryTether,
    MemoryTetherDriver,
    MemoryTun,
    MemoryTunDriver,
)
from conflux.testing.plugin import PluginConformance
from conflux.testing.router import RouterConformance
from conflux.testing.service import ServiceConformance
from conflux.testing.tether import TetherConformance, plain_config
from conflux.testing.tun import TunConformance

__all__ = [
    "AuthConformance",
    "AuthServer",
    "Carrier",
    "ControlBroker",
    "ControlConformance",
    "CryptoConformance",
    "CryptoContract",
    "EqualRouter",
    "FakeCrypto",
    "MemoryAuth",
    "MemoryBroker",
    "MemoryControl",
    "MemoryGuardian",
    "MemoryHub",
    "MemoryService",
    "MemoryTether",
    "MemoryTetherDriver",
    "MemoryTun",
    "MemoryTunDriver",
    "PluginConformance",
    "RouterConformance",
    "ServiceConformance",
    "TetherConformance",
    "TunConformance",
    "plain_config",
]
