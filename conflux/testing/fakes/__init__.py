"""In-memory drivers of every kind. Each passes its conformance class; none does I/O."""

from conflux.testing.fakes.crypto import FakeCrypto
from conflux.testing.fakes.tether import MemoryHub, MemoryTether, MemoryTetherDriver
from conflux.testing.fakes.tun import MemoryTun, MemoryTunDriver

__all__ = [
    "FakeCrypto",
    "MemoryHub",
    "MemoryTether",
    "MemoryTetherDriver",
    "MemoryTun",
    "MemoryTunDriver",
]
