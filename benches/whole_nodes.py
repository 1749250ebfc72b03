"""Two whole nodes in this process, on drivers in memory, whose auth and service drivers count.

Not a benchmark by itself: those of the contracts that no packet ever touches show with it that none
does. What runs is `conflux.runtime.node.Node` as the command line runs it, with the fakes of
`conflux.testing` below and a Guardian that grants by the kernel's own code.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conflux.anchor.identity import guardian_fingerprint, login_binding, node_id, seal_grant
from conflux.api import (
    API_VERSION,
    ControlCredentials,
    DriverInfo,
    Kind,
    Layout,
    Settings,
    hookimpl,
)
from conflux.config import Config
from conflux.hardening import Hardening
from conflux.registry import Registry
from conflux.runtime.node import Launch, Node
from conflux.runtime.saved import Membership
from conflux.testing import (
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
    MemoryTunDriver,
)
from conflux.testing.packets import udp_packet
from conflux.testing.simnet.guardian import SimGuardian
from conflux.wire.credentials import LoginRequest

BURST = 40
ADDRESSES = {"left": "10.77.0.1", "right": "10.77.0.2"}

calls: Counter[str] = Counter()
"""Every call of a method of an auth or service driver, by "kind.method"."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a driver was called while the nodes started, carried packets, and ended."""

    packets: int
    seconds: float
    at_start: Counter[str]
    meanwhile: Counter[str]
    at_end: Counter[str]

    def print(self, kind: str) -> None:
        """One line for each part of the two nodes' life, of the calls to drivers of *kind*."""
        us = self.seconds / self.packets * 1e6
        for when, counted in (
            ("two nodes start", self.at_start),
            (f"{self.packets:,} packets, {us:.1f} µs each", self.meanwhile),
            ("both end", self.at_end),
        ):
            mine = {name: n for name, n in counted.items() if name.startswith(f"{kind}.")}
            which = ", ".join(f"{n} {name}" for name, n in sorted(mine.items()))
            print(f"{when:<34}{sum(mine.values()):>6} calls  {which}")


def carry(packets: int) -> Carried:
    """Start two nodes, send *packets* from one to the other, end both."""
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder:
        return asyncio.run(_carry(packets, Path(folder)))


async def _carry(packets: int, folder: Path) -> Carried:
    calls.clear()
    nodes = {name: Node(_launch(name, folder), registry()) for name in ADDRESSES}
    async with asyncio.TaskGroup() as tasks:
        running = [asyncio.Event() for _ in nodes]
        for node, event in zip(nodes.values(), running, strict=True):
            tasks.create_task(node.run(event.set))
        for event in running:
            await event.wait()
        left, right = (Shared.far[name] for name in ADDRESSES)
        sink = Sink(right)
        await _send(left, sink, 1)  # the handshake; not measured
        before = calls.copy()
        began = time.perf_counter()
        await _send(left, sink, packets)
        seconds = time.perf_counter() - began
        after = calls.copy()
        for node in nodes.values():
            node.stop()
    return Carried(packets, seconds, before, after - before, calls - after)


async def _send(source: MemoryTun, sink: Sink, packets: int) -> None:
    """Send in bursts and wait until each has arrived, so that no queue overflows."""
    left, right = map(ip_address, ADDRESSES.values())
    packet = udp_packet(left, right, bytes(64))
    record = len(packet).to_bytes(2, "big") + packet
    for first in range(0, packets, BURST):
        count = min(BURST, packets - first)
        arrived = sink.expect(count)
        assert source.send(memoryview(record * count), Layout.BARE) == count * len(record)
        await arrived.wait()


class Sink:
    """Counts the packets that come out of a device."""

    def __init__(self, device: MemoryTun) -> None:
        self._device = device
        self._buffer = memoryview(bytearray(65_536))
        self._missing = 0
        self._arrived = asyncio.Event()
        device.attach(self._take)

    def expect(self, packets: int) -> asyncio.Event:
        """Return what is set once so many have come."""
        self._missing = packets
        self._arrived.clear()
        return self._arrived

    def _take(self) -> None:
        filled = self._device.receive(self._buffer)
        at = 0
        while at < filled:
            at += 2 + int.from_bytes(self._buffer[at : at + 2], "big")
            self._missing -= 1
        if self._missing <= 0:
            self._arrived.set()


# The world around both nodes


class OpenBroker(MemoryBroker):
    """Lets in whom the Guardian below let in."""

    def admit(self, credentials: ControlCredentials) -> None:
        """Take the grant's word."""


class Shared:
    """What the drivers of both nodes have in common."""

    hub, broker, seeds = MemoryHub(), OpenBroker(), itertools.count()
    far: dict[str, MemoryTun] = {}  # noqa: RUF012 (one for all, on purpose)


class Granting:
    """A Guardian in memory whose grants are real: signed by it, and sealed to their node."""

    def __init__(self) -> None:
        self._crypto = FakeCrypto({"seed": next(Shared.seeds)})
        self._sim = SimGuardian(self._crypto, secrets.token_bytes, time.time, lambda *_: None)
        self.memory = MemoryGuardian(self._seal)
        self._names: dict[str, str] = {}

    def token(self, name: str) -> str:
        """A conflux token of *name*, which is enrolled."""
        self._sim.enrol(name, addresses=[f"{ADDRESSES[name]}/24"], teams=["ops"])
        fingerprint = guardian_fingerprint(self._sim.key.public)
        claim = base64.urlsafe_b64encode(fingerprint).rstrip(b"=").decode()
        body = base64.urlsafe_b64encode(f'{{"gkf":"{claim}"}}'.encode()).rstrip(b"=").decode()
        token = f"{name}.{body}.-"
        self._names[token] = name
        self.memory.registrations[token] = None  # type: ignore[assignment]  # only asked for
        return token

    def _seal(self, token: str, encoded: bytes) -> bytes:
        request = LoginRequest.decode(encoded)
        applicant: Any = SimpleNamespace(
            signer=SimpleNamespace(public=request.sign_public),
            kem=SimpleNamespace(public=request.kem_public),
            node_id=node_id(request.sign_public),
        )
        return seal_grant(
            self._crypto,
            self._sim._signer,  # noqa: SLF001 (the kit's Guardian signs for its owner alone)
            self._sim.admit(self._names[token], applicant),
            binding=login_binding(encoded),
            entropy=os.urandom,
        )


guardian = Granting()


def counted(kind: str, base: type) -> type:
    """A driver class like *base* that counts the calls of its methods."""

    class Counting(base):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name.startswith("_") or not callable(value):
                return value

            def count_and_call(*arguments: Any, **named: Any) -> Any:
                calls[f"{kind}.{name}"] += 1
                return value(*arguments, **named)

            return count_and_call

    return Counting


class _Auth(MemoryAuth):
    def __init__(self, settings: Settings) -> None:
        super().__init__(guardian=guardian.memory)


class _Tun(MemoryTunDriver):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.far = Shared.far


class _Tether(MemoryTetherDriver):
    def __init__(self, settings: Settings) -> None:
        super().__init__(hub=Shared.hub)


class _Control(MemoryControl):
    def __init__(self, settings: Settings) -> None:
        super().__init__(broker=Shared.broker)


class _Crypto(FakeCrypto):
    def __init__(self, settings: Settings) -> None:
        super().__init__({"seed": next(Shared.seeds)})  # two of one seed would be one node


Auth, Service = counted("auth", _Auth), counted("service", MemoryService)
Tun, Tether, Control, Crypto, Router = _Tun, _Tether, _Control, _Crypto, EqualRouter


def registry(*, counting: bool = True) -> Registry:
    """A registry with the drivers above and no other."""
    made = Registry()
    made.add(_plugin(counting=counting), name="whole-nodes")
    assert made.reports[0].stage == "ok", made.reports
    return made


def _plugin(*, counting: bool) -> object:
    """Describes the drivers above, as an installed plugin would."""

    def describing(kind: Kind) -> Callable[[Any], DriverInfo]:
        target = f"{__name__}:{kind.value.capitalize()}"
        if kind is Kind.SERVICE and not counting:
            target = "conflux.testing:MemoryService"
        return hookimpl(lambda self: DriverInfo(name="memory", target=target, api=API_VERSION))

    return type("Plugin", (), {f"conflux_{kind}_driver": describing(kind) for kind in Kind})()


def _launch(name: str, folder: Path) -> Launch:
    return Launch(
        config=Config(config_dir=folder / name, tun_name=name),
        membership=Membership(guardian=guardian.memory.url, conflux_token=guardian.token(name)),
        api_socket=folder / name / "api.sock",
        patience_s=0,
        hardening=Hardening(core_dumps=True, memory_locked=False, missing=()),
    )
