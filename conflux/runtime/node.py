"""The life of a node: log in, join the control channel, open the interface, carry, leave.

STARTING ─► waiting for Guardian ─► waiting for the Master ─► RUNNING ─► STOPPING
                                                      ▲            │
                                                      └─ renewals ─┘  (nothing restarts)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from conflux.anchor.handshake import Standing
from conflux.anchor.identity import Identity, login_binding, open_grant
from conflux.anchor.idle import IdleTimes
from conflux.anchor.node import Anchor
from conflux.anchor.quota import Relaying
from conflux.api import (
    ControlChannel,
    ControlCredentials,
    Refused,
    TetherConfig,
    TunConfig,
    TunDevice,
    Unreachable,
    UsageError,
    WireError,
)
from conflux.config import Config
from conflux.hardening import Hardening
from conflux.registry import Registry
from conflux.runtime import status
from conflux.runtime.continuity import Break, watching
from conflux.runtime.drivers import Drivers, bind
from conflux.runtime.localapi import LocalApi
from conflux.runtime.loop import staying_awake, stop_on_signals
from conflux.runtime.manager import Manager
from conflux.runtime.pump import pump
from conflux.runtime.saved import Membership
from conflux.runtime.throughput import Meter
from conflux.runtime.token import fingerprint_of
from conflux.runtime.world import LiveWorld
from conflux.wire.control import AuthLevel
from conflux.wire.credentials import Grant

log = logging.getLogger("conflux.node")

STARTING = "starting"

RETRY_S = 0.5
RETRY_MAX_S = 5.0
REFUSED_RETRY_S = 60.0
WATCH_S = 1.0
WORKERS = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to run. `patience_s` is how long to wait for Guardian and Master at start; `hardening`
    is what was done for this process; `manager` is told how it goes."""

    config: Config
    membership: Membership
    api_socket: Path
    patience_s: float
    hardening: Hardening
    manager: Manager = field(default_factory=lambda: Manager({}))


class Node:
    """One conflux. `run` does everything; `stop` may be called from its loop at any time."""

    def __init__(self, launch: Launch, registry: Registry) -> None:
        self._launch = launch
        self._relaying = Relaying(**launch.config.relay)
        self._registry = registry
        self._state = STARTING
        self._waiting = ""
        """What whoever is waited for answered last, and what to do; empty unless one is."""
        self._stop = asyncio.Event()
        self._gone = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._drivers: Drivers | None = None
        self._session = ""
        self._anchor: Anchor | None = None
        self._control: ControlChannel | None = None
        self._meter = Meter()
        self._renewal = ""
        """Why the certificate could not be renewed; empty once it is."""
        self._new_grant: asyncio.Queue[Grant] = asyncio.Queue()
        self._in_use: ControlCredentials | None = None
        """What the connection to the Master was made with; None if it is to be made anew."""

    async def run(self, on_running: Callable[[], None] = lambda: None) -> None:
        """Live until `stop`, SIGTERM or SIGINT. Raises UsageError with what to do."""
        stop_on_signals(self.stop)
        refused: UsageError | None = None
        manager = self._launch.manager
        manager.when_told_to_stop(self.stop)
        try:
            async with asyncio.TaskGroup() as tasks:
                beat = tasks.create_task(manager.beat())
                life = tasks.create_task(self._live(on_running))
                end = tasks.create_task(self._stop.wait())
                await asyncio.wait({life, end}, return_when=asyncio.FIRST_COMPLETED)
                manager.stopping()
                life.cancel()
                end.cancel()
                await asyncio.wait({life})
                beat.cancel()
        except* UsageError as group:
            # Raised below: Python 3.11.2, that of Debian 12, would wrap it in a group of its own.
            refused = _first(group)
        if refused is not None:
            raise refused

    def stop(self) -> None:
        self._stop.set()

    # Local API

    def status(self) -> dict[str, object]:
        drivers = self._drivers
        around = status.Surroundings(
            plugins=drivers.names if drivers is not None else {},
            packet_auth=self._launch.config.packet_auth,
            hardening=self._launch.hardening,
            meter=self._meter,
            control=self._control,
            waiting=self._waiting,
            renewal=self._renewal,
            left_out=drivers.tethers.left_out if drivers is not None else {},
        )
        return status.status(self._state, self._anchor, around)

    def info(self) -> dict[str, object]:
        return status.info(self._launch.membership, self._anchor)

    def underlay(self) -> dict[str, object]:
        launch = self._launch
        return status.underlay(launch.membership, launch.config.tun_name, self._anchor)

    def _stop_by_api(self) -> str:
        self.stop()
        return "stopping"

    # Life

    async def _live(self, on_running: Callable[[], None]) -> None:
        launch = self._launch
        for what in launch.hardening.missing:
            log.info("%s", what)
        async with contextlib.AsyncExitStack() as stack:
            api = LocalApi(
                launch.api_socket,
                {
                    "status": self.status,
                    "info": self.info,
                    "underlay": self.underlay,
                    "stop": self._stop_by_api,
                },
            )
            await api.start()
            stack.push_async_callback(api.close)
            drivers = self._drivers = bind(self._registry, launch.config)
            stack.push_async_callback(drivers.auth.close)
            executor = stack.enter_context(ThreadPoolExecutor(WORKERS, "conflux"))
            identity = Identity(drivers.crypto, os.urandom)
            stack.callback(identity.erase)
            standing = await self._patiently(
                "waiting for Guardian", lambda: self._log_in(drivers, identity)
            )
            stack.push_async_callback(self._log_out, drivers)
            await stack.enter_async_context(self._tethers(drivers, standing.grant))
            await self._carry(drivers, standing, executor, on_running)

    async def _carry(
        self,
        drivers: Drivers,
        standing: Standing,
        executor: ThreadPoolExecutor,
        on_running: Callable[[], None],
    ) -> None:
        async with asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as stack:
            world = LiveWorld(
                tasks,
                executor,
                self._registry,
                drivers.tethers,
                on_grant=self._new_grant.put_nowait,
            )
            stack.callback(world.close)
            anchor = self._anchor = Anchor(
                standing,
                world,
                drivers.router,
                tether_kinds=drivers.tethers.kinds,
                auth_level=AuthLevel[self._launch.config.packet_auth.upper()],
                idle=IdleTimes(**self._launch.config.idle),
                relaying=self._relaying,
                now=world.now(),
                mtu_bytes=self._launch.config.mtu_bytes,
            )
            stack.callback(self._end_anchor, anchor, world)
            world.drive(anchor.timers)
            world.tun = await stack.enter_async_context(self._interface(drivers, standing.grant))
            anchor.ingress.device_takes(world.tun.gso)
            world.control = self._control = await self._patiently(
                "waiting for the Master", lambda: self._join(drivers, anchor, world)
            )
            stack.push_async_callback(self._leave, world)
            pump(world.tun, anchor, world.now, self._gone.set)
            self._announce(standing.grant, world.tun)
            on_running()
            stack.callback(self._registry.notify, "conflux_node_stopping", node=standing.node_id)
            tasks.create_task(self._keep_certified(drivers, anchor, world))
            tasks.create_task(self._keep_joined(world))
            look = stack.enter_context(watching(lambda found: self._broken(found, anchor, world)))
            stack.enter_context(staying_awake(self._launch.config.awake_us))
            tasks.create_task(self._keep_watch(look, anchor, world))
            await self._gone.wait()
            raise UsageError(
                f"the interface {world.tun.name} was taken away: "
                "find out by whom, then start the node again"
            )

    def _end_anchor(self, anchor: Anchor, world: LiveWorld) -> None:
        self._state = "stopping"
        anchor.close(now=world.now())
        self._anchor = None

    @contextlib.asynccontextmanager
    async def _tethers(self, drivers: Drivers, grant: Grant) -> AsyncIterator[None]:
        await drivers.tethers.start(
            TetherConfig(is_overlay=self._is_overlay, ice_servers=grant.ice_servers)
        )
        try:
            yield
        finally:
            await drivers.tethers.stop()

    @contextlib.asynccontextmanager
    async def _interface(self, drivers: Drivers, grant: Grant) -> AsyncIterator[TunDevice]:
        config = self._launch.config
        self._check_overlap(grant)
        tun = await drivers.tun.open(
            TunConfig(
                name=config.tun_name,
                addresses=grant.certificate.addresses,
                routes=grant.networks,
                plane=grant.certificate.plane_id.hex(),
                mtu_bytes=config.mtu_bytes,
            )
        )
        try:
            yield tun
        finally:
            tun.close()

    def _check_overlap(self, grant: Grant) -> None:
        """A plane that covers Guardian or the Master would cut the node off from them."""
        for url in (self._launch.membership.guardian, *grant.control.urls):
            host = urlsplit(url).hostname or ""
            for interface in grant.certificate.addresses:
                if _is_address(host) and ip_address(host) in interface.network:
                    raise UsageError(
                        f"the plane {interface.network} covers {host}, which this node needs: "
                        "make a plane with another range and register there"
                    )

    def _is_overlay(self, address: IPv4Address | IPv6Address) -> bool:
        if self._anchor is None:
            return False
        interfaces = self._anchor.standing.grant.certificate.addresses
        return any(address in interface.network for interface in interfaces)

    def _announce(self, grant: Grant, tun: TunDevice) -> None:
        self._state = "running"
        addresses = ", ".join(str(address) for address in grant.certificate.addresses)
        log.info("running: %s on %s, plane %s", addresses, tun.name, grant.plane_name)
        self._launch.manager.ready(f"running: {addresses} on {tun.name}")
        if self._anchor is not None:
            self._registry.notify("conflux_node_started", node=self._anchor.standing.node_id)

    # Guardian

    async def _log_in(self, drivers: Drivers, identity: Identity) -> Standing:
        membership = self._launch.membership
        fingerprint = fingerprint_of(membership.conflux_token)
        request = await asyncio.to_thread(
            identity.login_request,
            membership.conflux_token,
            time_ms=int(time.time() * 1000),
            entropy=os.urandom,
        )
        encoded = request.encode()
        answer = await drivers.auth.login(
            membership.guardian, conflux_token=membership.conflux_token, request=encoded
        )
        self._session = answer.session
        try:
            grant, key = await asyncio.to_thread(
                open_grant,
                drivers.crypto,
                identity,
                answer.sealed,
                binding=login_binding(encoded),
                fingerprint=fingerprint,
            )
        except WireError as error:
            raise Refused(
                f"{membership.guardian} is not the Guardian of this token ({error}): "
                "check its address, or get a new token"
            ) from None
        return Standing(drivers.crypto, os.urandom, identity, key, grant)

    async def _log_out(self, drivers: Drivers) -> None:
        with contextlib.suppress(UsageError, TimeoutError):
            async with asyncio.timeout(2):
                await drivers.auth.logout(self._launch.membership.guardian, session=self._session)

    async def _keep_certified(self, drivers: Drivers, anchor: Anchor, world: LiveWorld) -> None:
        """Log in anew at half of the certificate's life, or when the clock jumped."""
        while True:
            certificate = anchor.standing.grant.certificate
            half = (certificate.not_before + certificate.not_after) / 2
            await self._renewal_due(half - anchor.wall(world.now()))
            retry = _backoff()
            while True:
                try:
                    standing = await self._log_in(drivers, anchor.standing.identity)
                    self._renewal = ""
                    if anchor.renew(standing, now=world.now()):
                        break
                    wait_s = RETRY_S
                except Unreachable as error:
                    log.warning("the certificate is not renewed yet: %s", error)
                    self._renewal = str(error)
                    wait_s = next(retry)
                except Refused as error:
                    if anchor.wall(world.now()) >= certificate.not_after:
                        raise
                    log.warning("Guardian does not renew the certificate: %s", error)
                    self._renewal = str(error)
                    wait_s = REFUSED_RETRY_S
                await asyncio.sleep(wait_s)
            self._new_grant.put_nowait(standing.grant)

    async def _renewal_due(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 1.0)):
                await self._renew_now.wait()
        self._renew_now.clear()

    # Breaks in time

    async def _keep_watch(self, look: Callable[[], None], anchor: Anchor, world: LiveWorld) -> None:
        """The loop looks whenever it wakes up: see to it that it does, and does elsewhere."""
        while True:
            await asyncio.sleep(WATCH_S)
            look()
            neighbours = anchor.neighbours.all()
            totals = {n.node_id: (n.sent_bytes, n.received_bytes) for n in neighbours}
            self._meter.look(totals, now=world.now())

    def _broken(self, found: Break, anchor: Anchor, world: LiveWorld) -> None:
        log.warning("%s: all keys of streams and tethers are dropped", found.reason)
        anchor.drop_keys(now=world.now(), slept_s=found.slept_s)
        self._renew_now.set()
        # The connection to the Master may be dead, and has keys of its own.
        self._in_use = None
        self._new_grant.put_nowait(anchor.standing.grant)

    # Master

    async def _join(self, drivers: Drivers, anchor: Anchor, world: LiveWorld) -> ControlChannel:
        return await drivers.control.connect(
            self._control_of(anchor.standing.grant),
            lambda tag, sender, message: anchor.take_control(tag, sender, message, now=world.now()),
            lambda connected: log.info("the Master is %s", "back" if connected else "gone"),
        )

    def _control_of(self, grant: Grant) -> ControlCredentials:
        """Who relays for nobody does not listen where relays are asked for."""
        if self._relaying.enabled:
            return grant.control
        return replace(grant.control, shared_tag=b"")

    async def _leave(self, world: LiveWorld) -> None:
        if world.control is not None:
            channel, world.control, self._control = world.control, None, None
            await channel.close()

    async def _keep_joined(self, world: LiveWorld) -> None:
        """Take each new grant's credentials to the control channel, and each break's to a new
        connection."""
        self._in_use = None if self._anchor is None else self._anchor.standing.grant.control
        retry = _backoff()
        while True:
            grant = await self._new_grant.get()
            if grant.control == self._in_use or world.control is None:
                continue
            try:
                self._in_use = grant.control
                await world.control.renew(self._control_of(grant))
                retry = _backoff()
            except (Unreachable, Refused) as error:
                log.warning("the new credentials for the Master do not work yet: %s", error)
                self._in_use = None
                await asyncio.sleep(next(retry))
                if self._new_grant.empty():
                    self._new_grant.put_nowait(grant)

    # Patience

    async def _patiently(self, state: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat *attempt* while it raises Unreachable, for at most `patience_s`."""
        ends = time.monotonic() + self._launch.patience_s
        for wait_s in _backoff():
            try:
                done = await attempt()
            except Unreachable as error:
                if time.monotonic() + wait_s > ends:
                    raise
                self._wait_for(state, str(error))
            else:
                self._wait_no_more()
                return done
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable: the back-off has no end")

    def _wait_for(self, state: str, reason: str) -> None:
        self._state = state
        if reason != self._waiting:
            self._waiting = reason
            log.warning("%s: %s", state, reason)
            self._launch.manager.ready(f"{state}: {reason}")

    def _wait_no_more(self) -> None:
        """Who was waited for has answered: what comes next is no fault of theirs."""
        if self._waiting:
            self._state, self._waiting = STARTING, ""
            self._launch.manager.status(STARTING)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _backoff() -> Iterator[float]:
    wait_s = RETRY_S
    while True:
        yield wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        wait_s = min(1.5 * wait_s, RETRY_MAX_S)


def _first(group: BaseExceptionGroup[UsageError]) -> UsageError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
