"""The in-memory drivers keep every promise that a real driver must keep."""

from conflux.api import CryptoDriver, Layout, TetherDriver, TunDevice
from conflux.testing import (
    CryptoContract,
    FakeCrypto,
    MemoryHub,
    MemoryTetherDriver,
    MemoryTun,
    TetherConformance,
    TunConformance,
    plain_config,
)


class TestMemoryTun(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        return MemoryTun.pair()


class TestMemoryTunWithOffload(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        return MemoryTun.pair(layout=Layout.VIRTIO)


class TestMemoryTether(TetherConformance):
    async def make_drivers(self) -> tuple[TetherDriver, TetherDriver]:
        hub = MemoryHub()
        near, far = MemoryTetherDriver(hub=hub), MemoryTetherDriver(hub=hub)
        for driver in (near, far):
            await driver.start(plain_config())
        return near, far


class TestFakeCrypto(CryptoContract):
    def make_driver(self) -> CryptoDriver:
        return FakeCrypto({"seed": 7})

    def test_same_seed_makes_the_same_run(self) -> None:
        def run(seed: int) -> tuple[bytes, ...]:
            crypto = FakeCrypto({"seed": seed})
            key = crypto.generate_kem()
            signer = crypto.generate_signer()
            return (key.public, *crypto.encapsulate(key.public), signer.sign(b"m", b"c"))

        assert run(1) == run(1)
        assert not set(run(1)) & set(run(2))
