"""Each conformance class catches the faults that it is there for: a driver that breaks one promise
fails the check of that promise. `test_fakes.py` shows that the unbroken ones pass.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from conflux.api import (
    AuthDriver,
    Buffer,
    Closed,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
    CryptoDriver,
    Gso,
    KemPrivateKey,
    Layout,
    LoginAnswer,
    NodeId,
    Path,
    Refused,
    Registration,
    RegistrationRequest,
    Router,
    ServiceDriver,
    ServiceState,
    ServiceUnit,
    Signer,
    Tether,
    TetherConfig,
    TetherDriver,
    TunDevice,
    WireError,
)
from conflux.testing import (
    AuthConformance,
    AuthServer,
    ControlBroker,
    ControlConformance,
    CryptoConformance,
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
    PluginConformance,
    RouterConformance,
    ServiceConformance,
    TetherConformance,
    TunConformance,
    plain_config,
    rig,
)
from conflux.testing.fakes.control import MemoryChannel
from conflux.testing.fakes.crypto import FakeSigner


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is waited for in vain: in memory everything comes at once or never."""
    monkeypatch.setattr(rig, "WAIT_S", 0.2)
    monkeypatch.setattr(rig, "DEADLINE_S", 3.0)


def assert_caught(check: Callable[[], object]) -> None:
    """The check fails. A skip is no failure."""
    try:
        check()
    except (pytest.skip.Exception, KeyboardInterrupt):
        raise
    except BaseException:  # noqa: BLE001 (pytest's own failures and groups of them, too)
        return
    pytest.fail("the sabotage went unnoticed")


# TUN


class MergingTun(MemoryTun):
    """Joins two packets in one record."""

    def send(self, burst: memoryview, layout: Layout) -> int:
        first = int.from_bytes(burst[:2], "big")
        if len(burst) > 2 + first:
            second = int.from_bytes(burst[2 + first : 4 + first], "big")
            joined = (first + second).to_bytes(2, "big") + burst[2 : 2 + first]
            super().send(memoryview(joined + burst[4 + first :]), layout)
            return len(burst)
        return super().send(burst, layout)


class ReorderingTun(MemoryTun):
    def receive(self, burst: memoryview) -> int:
        self._queue.reverse()
        return super().receive(burst)


class LendingTun(MemoryTun):
    """Keeps the sender's buffer and reads it later."""

    def send(self, burst: memoryview, layout: Layout) -> int:
        asyncio.get_running_loop().call_soon(super().send, burst, layout)
        return len(burst)


class ScribblingTun(MemoryTun):
    """Keeps the receiver's buffer and writes to it later."""

    def receive(self, burst: memoryview) -> int:
        size = super().receive(burst)
        if size:
            asyncio.get_running_loop().call_soon(burst.__setitem__, 0, 0)
        return size


class BrimfulTun(MemoryTun):
    """Fills the buffer to the brim, and cuts a record for it."""

    def receive(self, burst: memoryview) -> int:
        waiting = b"".join(self._queue)
        self._queue.clear()
        if len(waiting) > len(burst):
            self._queue.append(waiting[len(burst) :])
        size = min(len(waiting), len(burst))
        burst[:size] = waiting[:size]
        return size


class EdgeTriggeredTun(MemoryTun):
    """Calls once for what has come, not again for what was left."""

    def _fire(self) -> None:
        self._due = False
        if self._on_readable:
            self._on_readable()


class CarelessTun(MemoryTun):
    """Takes any buffer and any layout."""

    def receive(self, burst: memoryview) -> int:
        return 0 if len(burst) < self.record_bytes else super().receive(burst)

    def send(self, burst: memoryview, layout: Layout) -> int:
        return super().send(burst, Layout.BARE)


class UndeadTun(MemoryTun):
    """Neither tells that it is closed nor stops calling."""

    def receive(self, burst: memoryview) -> int:
        try:
            return super().receive(burst)
        except Closed:
            return 0

    def close(self) -> None:
        if self._on_readable and not self.closed:
            asyncio.get_running_loop().call_soon(self._on_readable)
        super().close()


class NarrowTun(MemoryTun):
    """Says 1500 and carries 1400."""

    def _is_valid(self, body: bytes) -> bool:
        return len(body) <= 10 + 1_400 and super()._is_valid(body)


class FussyTun(MemoryTun):
    """Fails on a packet that the system would drop."""

    def _is_valid(self, body: bytes) -> bool:
        if not super()._is_valid(body):
            raise OSError(22, "Invalid argument")
        return True


class PartialTun(MemoryTun):
    def send(self, burst: memoryview, layout: Layout) -> int:
        taken = super().send(burst, layout)
        return taken if taken < 1_000 else taken - 1


class ShySizeTun(MemoryTun):
    """Says that its records are smaller than they are."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.record_bytes = 600


class ForgetfulTun(MemoryTun):
    """Leaves a checksum undone."""

    def _records(self, body: bytes, layout: Layout) -> list[bytes]:
        return super()._records(body if layout is Layout.BARE else bytes(10) + body[10:], layout)


class BoastfulTun(MemoryTun):
    """Says that it takes many packets at once, in a layout that it does not have."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.gso = frozenset(Gso)


def test_tun_that_leaves_a_checksum_undone_is_caught() -> None:
    class Sabotaged(TunConformance):
        async def make_pair(self) -> tuple[TunDevice, TunDevice]:
            return ForgetfulTun.pair(layout=Layout.VIRTIO)

    assert_caught(Sabotaged().test_record_arrives_as_the_packets_that_it_stands_for)


@pytest.mark.parametrize(
    ("device", "check"),
    [
        (BoastfulTun, "test_device_describes_itself"),
        (MergingTun, "test_burst_keeps_packet_boundaries_and_order"),
        (ReorderingTun, "test_burst_keeps_packet_boundaries_and_order"),
        (LendingTun, "test_sender_may_reuse_its_buffer_at_once"),
        (ScribblingTun, "test_receiver_may_reuse_its_buffer_at_once"),
        (BrimfulTun, "test_receive_gives_whole_records_whatever_the_buffer"),
        (EdgeTriggeredTun, "test_callback_comes_again_for_what_was_left"),
        (CarelessTun, "test_buffer_too_small_for_a_record_is_refused"),
        (CarelessTun, "test_device_takes_bare_records_and_its_own_layout_alone"),
        (UndeadTun, "test_closed_device_says_so"),
        (UndeadTun, "test_no_callback_after_close"),
        (NarrowTun, "test_packet_as_long_as_the_mtu_passes"),
        (FussyTun, "test_invalid_packet_counts_as_taken"),
        (PartialTun, "test_send_never_waits_and_takes_whole_records"),
        (ShySizeTun, "test_device_describes_itself"),
    ],
)
def test_tun_sabotage_is_caught(device: type[MemoryTun], check: str) -> None:
    class Sabotaged(TunConformance):
        async def make_pair(self) -> tuple[TunDevice, TunDevice]:
            return device.pair()

    assert_caught(getattr(Sabotaged(), check))


# Tether


class ReorderingTether(MemoryTether):
    """Lets every second reliable message overtake the one before."""

    __slots__ = ("held",)
    held: bytes | None

    def send_reliable(self, message: Buffer) -> bool:
        held, self.held = getattr(self, "held", None), None
        if held is None:
            self.held = bytes(message)
            return not self._closed
        return super().send_reliable(message) and super().send_reliable(held)


class ForgetfulTether(MemoryTether):
    """Loses reliable messages that it took."""

    def send_reliable(self, message: Buffer) -> bool:
        return len(message) % 7 == 0 or super().send_reliable(message)


class MergingTether(MemoryTether):
    def send(self, messages: Sequence[Buffer]) -> int:
        if len(messages) > 1:
            super().send([b"".join(bytes(message) for message in messages)])
            return len(messages)
        return super().send(messages)


class TruncatingTether(MemoryTether):
    def send(self, messages: Sequence[Buffer]) -> int:
        return super().send([bytes(message)[:16_384] for message in messages])


class LendingTether(MemoryTether):
    """Keeps the sender's buffers and reads them later."""

    def send(self, messages: Sequence[Buffer]) -> int:
        asyncio.get_running_loop().call_soon(super().send, list(messages))
        return len(messages)


class CrossedTether(MemoryTether):
    """Sends small datagrams on the reliable lane."""

    def send(self, messages: Sequence[Buffer]) -> int:
        return sum(super(CrossedTether, self).send_reliable(message) for message in messages)


class BottomlessTether(MemoryTether):
    """Queues without end, takes messages of any size, says nothing of its queue."""

    def send(self, messages: Sequence[Buffer]) -> int:
        for message in messages:
            self._under_way = {False: 0, True: 0}
            self._cross(message, reliable=False)
        return len(messages)

    def send_reliable(self, message: Buffer) -> bool:
        self._under_way = {False: 0, True: 0}
        return self._cross(message, reliable=True)


class BoastfulTether(MemoryTether):
    """Promises room that it has not."""

    def room_bytes(self) -> int:
        return 1 << 30

    def send(self, messages: Sequence[Buffer]) -> int:
        return super().send(messages) if len(messages[0]) < 10_000 else 0


class SelfPityingTether(MemoryTether):
    """Hears of its own close."""

    def close(self) -> None:
        was_closed = self._closed
        super().close()
        if not was_closed:
            self._on_closed("closed")


class StutteringTether(MemoryTether):
    """Tells of the end twice."""

    def _end(self) -> None:
        if not self._closed:
            super()._end()
            self._on_closed("closed again")


class MuteTether(MemoryTether):
    """Never tells of the end."""

    def _end(self) -> None:
        super().close()


class LingeringTether(MemoryTether):
    """Hands messages over after close."""

    def close(self) -> None:
        handlers = self._on_datagram, self._on_reliable
        asyncio.get_running_loop().call_soon(handlers[1], memoryview(b"late"))
        super().close()


class PoliteTether(MemoryTether):
    """Says goodbye also when it is abandoned."""

    def abandon(self) -> None:
        peer, was_closed = self._peer, self._closed
        super().abandon()
        if peer is not None and not was_closed:
            self._hub.carrier(peer._end, size_bytes=0, reliable=True)


class StubbornTether(MemoryTether):
    """Does not close when connecting is cancelled."""

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        self._become_ready(secret)
        try:
            await self._joined.wait()
        except asyncio.CancelledError:
            self._joined.set()
            raise


class DeafTether(MemoryTether):
    """Drops what comes before its own connect has returned."""

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        handlers = self._on_datagram, self._on_reliable
        self._on_datagram = self._on_reliable = lambda _: None
        await super().connect(secret, remote)
        for _ in range(5 if remote is None else 0):
            await asyncio.sleep(0)
        self._on_datagram, self._on_reliable = handlers


class TetherSabotage(MemoryTetherDriver):
    """Makes tethers of a sabotaged class."""

    def __init__(self, hub: MemoryHub, tether: type[MemoryTether] = MemoryTether) -> None:
        super().__init__(hub=hub)
        self._class = tether

    def _make(self, kind: bytes) -> MemoryTether:
        tether = self._class(self._hub, kind)
        self._tethers.append(tether)
        return tether


class CrashingDriver(TetherSabotage):
    """Raises what its parser raises."""

    async def answer(self, offer: bytes) -> Tether:
        try:
            return await super().answer(offer)
        except WireError as error:
            raise KeyError("candidates") from error


class CredulousDriver(TetherSabotage):
    """Takes any description for a good one."""

    async def answer(self, offer: bytes) -> Tether:
        try:
            return await super().answer(offer)
        except WireError:
            return await self.offer()


class TalkativeDriver(TetherSabotage):
    async def offer(self) -> Tether:
        tether = self._make(b"memory offer ")
        tether.description += b" " * 4_096
        return tether


class LitteringDriver(TetherSabotage):
    """Leaves a task behind."""

    async def start(self, config: TetherConfig) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        await super().stop()
        self._task = self._loop.create_task(asyncio.sleep(3_600))


class HoardingDriver(TetherSabotage):
    """Stops without closing its tethers."""

    async def stop(self) -> None:
        self._tethers.clear()


TETHERS: list[tuple[type[MemoryTether], str]] = [
    (ReorderingTether, "test_reliable_lane_keeps_order_boundaries_and_everything"),
    (ForgetfulTether, "test_reliable_lane_keeps_order_boundaries_and_everything"),
    (MergingTether, "test_several_messages_in_one_send_stay_several"),
    (TruncatingTether, "test_datagram_lane_keeps_boundaries_at_every_size"),
    (LendingTether, "test_sender_may_reuse_its_buffers_at_once"),
    (CrossedTether, "test_lanes_do_not_mix"),
    (BottomlessTether, "test_reliable_queue_is_bounded_and_loses_nothing_it_took"),
    (BottomlessTether, "test_oversized_messages_are_refused"),
    (BoastfulTether, "test_room_is_there_to_be_used"),
    (SelfPityingTether, "test_close_is_heard_once_at_the_far_end_only"),
    (StutteringTether, "test_close_is_heard_once_at_the_far_end_only"),
    (MuteTether, "test_close_is_heard_once_at_the_far_end_only"),
    (MuteTether, "test_stop_closes_every_tether"),
    (PoliteTether, "test_abandoned_tether_says_nothing"),
    (LingeringTether, "test_nothing_is_handed_over_after_close"),
    (StubbornTether, "test_cancelled_connect_closes_the_tether"),
    (StubbornTether, "test_malformed_answers_are_wire_errors"),
    (DeafTether, "test_first_message_is_not_lost_on_an_end_that_still_connects"),
    (BoastfulTether, "test_closed_tether_takes_nothing"),
]
DRIVERS: list[tuple[type[TetherSabotage], str]] = [
    (CrashingDriver, "test_malformed_offers_are_wire_errors"),
    (CrashingDriver, "test_damaged_offers_raise_nothing_else"),
    (CredulousDriver, "test_malformed_offers_are_wire_errors"),
    (TalkativeDriver, "test_descriptions_are_small_and_hold_no_secret"),
    (LitteringDriver, "test_nothing_is_left_after_stop"),
    (HoardingDriver, "test_stop_closes_every_tether"),
]


def _cases() -> Iterator[Any]:
    for tether, check in TETHERS:
        make = functools.partial(TetherSabotage, tether=tether)
        yield pytest.param(make, check, id=f"{tether.__name__}-{check}")
    for driver, check in DRIVERS:
        yield pytest.param(driver, check, id=f"{driver.__name__}-{check}")


@pytest.mark.parametrize(("make", "check"), list(_cases()))
def test_tether_sabotage_is_caught(make: Callable[[MemoryHub], TetherDriver], check: str) -> None:
    class Sabotaged(TetherConformance):
        async def make_drivers(self) -> tuple[TetherDriver, TetherDriver]:
            hub = MemoryHub()
            near, far = make(hub), make(hub)
            for driver in (near, far):
                await driver.start(plain_config())
            return near, far

    assert_caught(getattr(Sabotaged(), check))


# Crypto


class ContextBlind(FakeCrypto):
    """Signs and verifies without the context."""

    def load_signer(self, seed: bytes) -> Signer:
        signer = super().load_signer(seed)
        sign = signer.sign

        class Blind(FakeSigner):
            def sign(self, message: bytes, context: bytes) -> bytes:
                return sign(message, b"")

        return Blind(signer.public, self._coins)

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return super().verify(public, message, signature, b"")


class Gullible(FakeCrypto):
    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return True


class Touchy(FakeCrypto):
    """Raises where it should say False."""

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        if len(public) != 1_952 or len(signature) != 3_309:
            raise WireError("length")
        return super().verify(public, message, signature, context)


class Oracle(FakeCrypto):
    """Tells whether a ciphertext was wrong, by raising or by always giving another secret."""

    def generate_kem(self) -> KemPrivateKey:
        key = super().generate_kem()
        known: dict[bytes, bytes] = self.__dict__.setdefault("known", {})

        class Explicit(KemPrivateKey):
            public = key.public

            def decapsulate(self, ciphertext: bytes) -> bytes:
                if ciphertext not in known:
                    raise WireError("wrong ciphertext")
                return key.decapsulate(ciphertext)

        return Explicit()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = super().encapsulate(public)
        self.__dict__.setdefault("known", {})[ciphertext] = secret
        return secret, ciphertext


class Unchecking(FakeCrypto):
    """Encapsulates to any bytes."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return super().encapsulate(bytes(1_184))


class Repeating(FakeCrypto):
    """Uses the same coins every time."""

    def __init__(self) -> None:
        super().__init__()
        coins = self._coins.draw()
        self._coins.draw = lambda: coins  # type: ignore[method-assign]


class Seedless(FakeCrypto):
    """Makes a new key from the same seed."""

    def load_signer(self, seed: bytes) -> Signer:
        return super().load_signer(seed + self._coins.draw())


CRYPTO: list[tuple[type[FakeCrypto], str, tuple[object, ...]]] = [
    (ContextBlind, "test_signature_holds_for_its_message_context_and_key_alone", ()),
    (Gullible, "test_changed_signature_does_not_verify", ()),
    (Gullible, "test_malformed_keys_and_signatures_do_not_verify", ()),
    (Touchy, "test_malformed_keys_and_signatures_do_not_verify", ()),
    (Oracle, "test_wrong_ciphertext_gives_another_secret_and_always_the_same", ()),
    (Unchecking, "test_invalid_encapsulation_key_is_a_wire_error", (b"\xff" * 1_184,)),
    (Unchecking, "test_invalid_encapsulation_key_is_a_wire_error", (b"",)),
    (Repeating, "test_every_key_and_every_encapsulation_is_fresh", ()),
    (Repeating, "test_signing_is_hedged", ()),
    (Seedless, "test_seed_gives_the_same_key_pair_every_time", ()),
    (FakeCrypto, "test_speaks_fips_203", ()),
    (FakeCrypto, "test_speaks_fips_204", ()),
    (FakeCrypto, "test_seed_gives_the_key_pair_of_fips_204", ()),
]


@pytest.mark.parametrize(("driver", "check", "arguments"), CRYPTO)
def test_crypto_sabotage_is_caught(
    driver: type[FakeCrypto], check: str, arguments: tuple[object, ...]
) -> None:
    class Sabotaged(CryptoConformance):
        def make_driver(self) -> CryptoDriver:
            return driver()

    case = Sabotaged()
    assert_caught(lambda: getattr(case, check)(case.make_driver(), *arguments))


# Router


def weighing(weigh: Callable[[Sequence[Path]], Sequence[float]]) -> type[EqualRouter]:
    class Weighing(EqualRouter):
        def weigh(
            self, destination: NodeId, paths: Sequence[Path], *, now: float
        ) -> Sequence[float]:
            return weigh(paths)

    return Weighing


class Gossiping(EqualRouter):
    """Crashes on what it hears."""

    def hear(self, origin: NodeId, gossip: bytes, *, now: float) -> None:
        gossip.decode()


class Shouting(EqualRouter):
    def gossip(self, *, now: float) -> bytes:
        return bytes(8_193)


class Circling(EqualRouter):
    """Proposes a path with a loop, through whatever it is."""

    def propose(
        self, destination: NodeId, *, limit: int, avoid: frozenset[NodeId], now: float
    ) -> Sequence[Path]:
        here, relay = NodeId(bytes(32)), NodeId(bytes([4]) * 32)
        return [(here, relay, here, destination)][:limit]


class Avoidless(EqualRouter):
    def propose(
        self, destination: NodeId, *, limit: int, avoid: frozenset[NodeId], now: float
    ) -> Sequence[Path]:
        return [(NodeId(bytes(32)), relay, destination) for relay in sorted(avoid)][:limit]


class Remembering(EqualRouter):
    """Lets one router's history colour another's answers."""

    asked = 0

    def weigh(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> Sequence[float]:
        Remembering.asked += 1
        return [float(Remembering.asked)] * len(paths)


SHARES = "test_weights_are_shares_whatever_happened"
ROUTERS: list[tuple[str, type[EqualRouter], str]] = [
    ("NaN", weighing(lambda paths: [float("nan")] * len(paths)), SHARES),
    ("infinite", weighing(lambda paths: [float("inf")] * len(paths)), SHARES),
    ("negative", weighing(lambda paths: [-1.0] * len(paths)), SHARES),
    ("all zero", weighing(lambda paths: [0.0] * len(paths)), SHARES),
    ("too few", weighing(lambda paths: [1.0]), SHARES),
    ("too many", weighing(lambda paths: [1.0] * 9), SHARES),
    ("none at first", weighing(lambda paths: []), "test_unmeasured_paths_are_weighed_too"),
    ("chance", weighing(lambda paths: [random.random()] * len(paths)), SHARES),
    ("clock", weighing(lambda paths: [time.monotonic()] * len(paths)), SHARES),
    ("crashes on noise", Gossiping, "test_gossip_that_is_noise_is_a_wire_error_or_nothing"),
    ("too long", Shouting, "test_own_gossip_is_understood"),
    ("loops", Circling, SHARES),
    ("avoids nothing", Avoidless, SHARES),
    ("remembers", Remembering, "test_same_history_and_seed_give_the_same_answers"),
]


@pytest.mark.parametrize(
    ("router", "check"), [pytest.param(r, check, id=name) for name, r, check in ROUTERS]
)
def test_router_sabotage_is_caught(router: type[EqualRouter], check: str) -> None:
    class Sabotaged(RouterConformance):
        def make_router(self) -> Router:
            return router()

    assert_caught(getattr(Sabotaged(), check))


# Auth


class TellTale(MemoryAuth):
    """Shows the token in its error."""

    async def unregister(self, server: str, *, conflux_token: str) -> None:
        try:
            await super().unregister(server, conflux_token=conflux_token)
        except Refused:
            raise Refused(f"no conflux has the token {conflux_token}") from None


class Impatient(MemoryAuth):
    """Takes silence for a refusal."""

    def _at(self, server: str) -> MemoryGuardian:
        if server != self._guardian.url:
            raise Refused("no")
        return self._guardian


class Admitting(MemoryAuth):
    """Takes every answer for a yes."""

    async def login(self, server: str, *, conflux_token: str, request: bytes) -> LoginAnswer:
        try:
            return await super().login(server, conflux_token=conflux_token, request=request)
        except Refused:
            return LoginAnswer(session="s", sealed=b"{}")


class Unplaned(MemoryAuth):
    """Loses the plane's prefix length, and the tag."""

    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        granted = await super().register(server, request)
        return Registration(
            conflux_id=granted.conflux_id,
            conflux_token=granted.conflux_token,
            tag=granted.tag,
            plane=granted.plane,
            address=granted.address.partition("/")[0],
        )


class Forgetful(MemoryAuth):
    """Does not send what tells a repeated registration from a new one."""

    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        return await super().register(server, replace(request, attempt=""))


AUTH: list[tuple[type[MemoryAuth], str]] = [
    (TellTale, "test_foreign_tokens_are_refused_with_a_line_for_people"),
    (Impatient, "test_silent_server_is_unreachable"),
    (Admitting, "test_login_request_that_is_noise_is_refused"),
    (Admitting, "test_unregistered_conflux_cannot_log_in"),
    (Unplaned, "test_registration_turns_a_token_into_a_conflux"),
    (Forgetful, "test_repeated_registration_makes_one_conflux"),
]


@pytest.mark.parametrize(("driver", "check"), AUTH)
def test_auth_sabotage_is_caught(driver: type[MemoryAuth], check: str) -> None:
    class Sabotaged(AuthConformance):
        guardian = MemoryGuardian()

        def make_driver(self) -> AuthDriver:
            return driver(guardian=self.guardian)

        @asynccontextmanager
        async def server(self) -> AsyncIterator[AuthServer]:
            yield self.guardian

    assert_caught(getattr(Sabotaged(), check))


# Control


class Anonymous(MemoryChannel):
    """Loses the sender's handle."""

    def hand_over(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        super().hand_over(tag, bytes(16), payload)


class Untagged(MemoryChannel):
    """Takes everything for a message to the node itself."""

    def hand_over(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        super().hand_over(self.credentials.handle, handle, payload)


class Oversized(MemoryChannel):
    def publish(self, tag: bytes, payload: bytes) -> bool:
        return super().publish(tag, payload[:65_536])


class Unending(MemoryChannel):
    def publish(self, tag: bytes, payload: bytes) -> bool:
        self._under_way_bytes = 0
        return super().publish(tag, payload)


class Abrupt(MemoryChannel):
    """Drops at close what it took before."""

    def publish(self, tag: bytes, payload: bytes) -> bool:
        asyncio.get_running_loop().call_soon(super().publish, tag, payload)
        return True


class Chatty(MemoryChannel):
    """Announces the first connection, too."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._on_connected(self.connected)


class Silent(MemoryChannel):
    """Does not tell of a loss."""

    def lose_connection(self) -> None:
        self.connected = False


class Gapped(MemoryChannel):
    """Breaks the old connection before the new one works."""

    async def renew(self, credentials: ControlCredentials) -> None:
        self.connected = False
        await asyncio.sleep(0.02)
        await super().renew(credentials)
        self.connected = True


class Sticky(MemoryChannel):
    """Goes on listening to what it no longer may."""

    async def renew(self, credentials: ControlCredentials) -> None:
        self._broker.admit(credentials)
        tags = (*credentials.tags, *self.credentials.tags)
        self.credentials = ControlCredentials(
            urls=credentials.urls, prefix=credentials.prefix, handle=credentials.handle,
            tags=tags, shared_tag=credentials.shared_tag, jwt=credentials.jwt,
            seed=credentials.seed,
        )  # fmt: skip


class Hasty(MemoryChannel):
    """Gives the old connection up before it knows the new one."""

    async def renew(self, credentials: ControlCredentials) -> None:
        self.connected = False
        await super().renew(credentials)
        self.connected = True


class Ghost(MemoryChannel):
    """Hands messages over after close."""

    async def close(self) -> None:
        self._closed = True
        self.connected = False

    def hand_over(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        self._on_message(tag, handle, payload)


class Broadcasting(MemoryBroker):
    """Gives everything to everybody."""

    def route(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        for channel in list(self._channels):
            channel.hand_over(tag, handle, payload)


class Generous(MemoryBroker):
    """Gives a shared message to each who shares."""

    def route(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        for channel in list(self._channels):
            if tag in (*channel.credentials.tags, channel.credentials.shared_tag):
                channel.hand_over(tag, handle, payload)


class Drafting(MemoryBroker):
    """Lets everybody share, asked or not."""

    def route(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        for channel in self._channels:
            channel.credentials = self._admitted[channel.credentials.jwt]
        super().route(tag, handle, payload)


class Vague(MemoryBroker):
    """Does not tell a refusal from silence."""

    def admit(self, credentials: ControlCredentials) -> None:
        try:
            super().admit(credentials)
        except Exception as error:
            raise ConnectionError("failed") from error


CONTROL: list[tuple[type[MemoryChannel], type[MemoryBroker], str]] = [
    (Anonymous, MemoryBroker, "test_message_arrives_with_its_senders_handle"),
    (Untagged, MemoryBroker, "test_message_tells_the_tag_that_it_was_published_to"),
    (Oversized, MemoryBroker, "test_oversized_payload_is_refused"),
    (Unending, MemoryBroker, "test_publish_never_waits_and_its_queue_is_bounded"),
    (Abrupt, MemoryBroker, "test_close_flushes_and_ends"),
    (Chatty, MemoryBroker, "test_connection_that_breaks_comes_back_and_says_so"),
    (Silent, MemoryBroker, "test_connection_that_breaks_comes_back_and_says_so"),
    (Gapped, MemoryBroker, "test_renewal_changes_what_is_heard_without_a_gap"),
    (Sticky, MemoryBroker, "test_renewal_changes_what_is_heard_without_a_gap"),
    (Hasty, MemoryBroker, "test_failed_renewal_keeps_the_old_connection"),
    (Ghost, MemoryBroker, "test_closed_channel_hands_over_nothing"),
    (MemoryChannel, Broadcasting, "test_message_reaches_its_listener_alone"),
    (MemoryChannel, Generous, "test_message_to_the_shared_tag_reaches_exactly_one"),
    (MemoryChannel, Drafting, "test_node_without_the_shared_tag_hears_nothing_of_it"),
    (MemoryChannel, Vague, "test_connecting_tells_refusal_from_silence"),
]


@pytest.mark.parametrize(("channel", "broker_type", "check"), CONTROL)
def test_control_sabotage_is_caught(
    channel: type[MemoryChannel], broker_type: type[MemoryBroker], check: str
) -> None:
    class Driver(MemoryControl):
        async def connect(
            self,
            credentials: ControlCredentials,
            on_message: Callable[[bytes, bytes, bytes], None],
            on_connected: Callable[[bool], None],
        ) -> ControlChannel:
            self._broker.admit(credentials)
            return channel(self._broker, credentials, on_message, on_connected)

    class Sabotaged(ControlConformance):
        memory = broker_type()

        def make_driver(self) -> ControlDriver:
            return Driver(broker=self.memory)

        @asynccontextmanager
        async def broker(self) -> AsyncIterator[ControlBroker]:
            yield self.memory

    assert_caught(getattr(Sabotaged(), check))


# Service


class Eager(MemoryService):
    """Starts what it installs."""

    def install(self, unit: ServiceUnit) -> None:
        super().install(unit)
        self._state = ServiceState.RUNNING


class Optimist(MemoryService):
    """Believes that everything came up."""

    def start(self) -> None:
        self._state = ServiceState.RUNNING


class Tidy(MemoryService):
    """Fails to remove what is not there."""

    def remove(self) -> None:
        if self.unit is None:
            raise FileNotFoundError("unit")
        super().remove()


class Keeper(MemoryService):
    """Keeps the first unit."""

    def install(self, unit: ServiceUnit) -> None:
        if self.unit is None:
            super().install(unit)


SERVICE: list[tuple[type[MemoryService], str]] = [
    (Eager, "test_life_of_a_service"),
    (Optimist, "test_service_that_is_not_there_cannot_be_started"),
    (Optimist, "test_service_that_does_not_come_up_is_an_error"),
    (Tidy, "test_every_verb_may_come_twice"),
    (Keeper, "test_install_replaces"),
]


@pytest.mark.parametrize(("driver", "check"), SERVICE)
def test_service_sabotage_is_caught(driver: type[MemoryService], check: str) -> None:
    class Sabotaged(ServiceConformance):
        def make_driver(self) -> ServiceDriver:
            return driver()

        def make_unit(self) -> ServiceUnit:
            return ServiceUnit(command=["/bin/true"], description="A unit that comes up")

        def make_failing_unit(self) -> ServiceUnit:
            return ServiceUnit(command=["/bin/false"], description="A unit that fails")

    case = Sabotaged()
    assert_caught(lambda: getattr(case, check)(case.make_driver()))


# Plugin

PLUGIN = """
{imports}
from conflux.api import DriverInfo, Unavailable, hookimpl

def probe():
    {probe}

@hookimpl
def conflux_router_driver():
    return DriverInfo(name="sabotaged", target="{target}", api=(1, 0), priority=1, probe=probe)
"""
PLUGINS = {
    "heavy standard library": ("import asyncio", "pass", "test_describing_is_import_light"),
    "third-party library": ("import hypothesis", "pass", "test_describing_is_import_light"),
    "probe that crashes": ("", "1 / 0", "test_probes_answer_yes_or_say_why_not"),
    "target that is none": ("", "pass", "test_every_target_is_a_driver_of_its_kind"),
    "broken": ("import no_such_module", "pass", "test_plugin_loads_cleanly"),
}


@pytest.fixture
def import_path(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, install: Callable[..., str]
) -> Callable[..., str]:
    """Install plugins where a subprocess finds them, too."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return install


@pytest.mark.parametrize(("imports", "probe", "check"), PLUGINS.values(), ids=PLUGINS.keys())
def test_plugin_sabotage_is_caught(
    import_path: Callable[..., str], imports: str, probe: str, check: str
) -> None:
    source = PLUGIN.replace("{imports}", imports).replace("{probe}", probe)
    import_path(source.replace("{target}", "no_such_module:Router"), name="sabotaged")

    class Sabotaged(PluginConformance):
        plugin_name = "sabotaged"

    case = Sabotaged()
    if check == "test_describing_is_import_light":
        assert_caught(case.test_describing_is_import_light)
    else:
        from conflux.registry import Registry

        registry = Registry()
        registry.load()
        assert_caught(lambda: getattr(case, check)(registry))
