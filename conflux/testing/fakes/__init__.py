"""In-memory drivers of every kind. Each passes its conformance class; none does I/O."""

from conflux.testing.fakes.auth import MemoryAuth, MemoryGuardian
from conflux.testing.fakes.control import MemoryBroker, MemoryControl
from conflux.testing.fakes.crypto import FakeCrypto
from conflux.testing.fakes.router import EqualRouter
from conflux.testing.fakes.service import MemoryService
from conflux.testing.fakes.tether import Carrier, MemoryHub, MemoryTether, MemoryTetherDriver
from conflux.testing.fakes.tun import MemoryTun, MemoryTunDriver

__all__ = [
    "Carrier",
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
]
