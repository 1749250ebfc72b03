"""The in-memory drivers keep every promise that a real driver must keep."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from conflux.api import (
    AuthDriver,
    ControlDriver,
    CryptoDriver,
    Layout,
    Router,
    ServiceDriver,
    ServiceUnit,
    TetherDriver,
    TunDevice,
)
from conflux.testing import (
    AuthConformance,
    AuthServer,
    ControlBroker,
    ControlConformance,
    CryptoContract,
    EqualRouter,
    FakeCrypto,
    MemoryAuth,
    MemoryBroker,
    MemoryControl,
    MemoryGuardian,
    MemoryHub,
    MemoryService,
    MemoryTetherDriver,
    MemoryTun,
    RouterConformance,
    ServiceConformance,
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


class TestMemoryTunFromOffload(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        return MemoryTun.pair(layout=Layout.VIRTIO, right_layout=Layout.BARE)


class TestMemoryTunToOffload(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        return MemoryTun.pair(layout=Layout.BARE, right_layout=Layout.VIRTIO)


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


class TestEqualRouter(RouterConformance):
    def make_router(self) -> Router:
        return EqualRouter()


class TestMemoryAuth(AuthConformance):
    guardian: MemoryGuardian

    def make_driver(self) -> AuthDriver:
        return MemoryAuth(guardian=self.guardian)

    @asynccontextmanager
    async def server(self) -> AsyncIterator[AuthServer]:
        self.guardian = MemoryGuardian()
        yield self.guardian


class TestMemoryControl(ControlConformance):
    memory: MemoryBroker

    def make_driver(self) -> ControlDriver:
        return MemoryControl(broker=self.memory)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[ControlBroker]:
        self.memory = MemoryBroker()
        yield self.memory


class TestMemoryService(ServiceConformance):
    def make_driver(self) -> ServiceDriver:
        return MemoryService()

    def make_unit(self) -> ServiceUnit:
        return ServiceUnit(command=["/bin/true"], description="A unit that comes up")

    def make_failing_unit(self) -> ServiceUnit:
        return ServiceUnit(command=["/bin/false"], description="A unit that fails")
