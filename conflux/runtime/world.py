"""The live world of the protocol: the loop's clock, a TUN device, tethers, threads for crypto."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import TypeVar

from conflux.anchor.timers import Timers
from conflux.api import (
    Closed,
    ControlChannel,
    Layout,
    NodeId,
    Path,
    Tether,
    TetherDriver,
    TetherError,
    TunDevice,
    WireError,
)
from conflux.registry import Registry
from conflux.runtime.tethers import Tethers
from conflux.wire.credentials import Grant
from conflux.wire.frame import SIZE

T = TypeVar("T")
_Begin = Callable[[TetherDriver], Awaitable[Tether]]
log = logging.getLogger("conflux.node")


class LiveWorld:
    """What `anchor.world.World` asks for. Owned by one node; its tasks live in *tasks*."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        executor: Executor,
        registry: Registry,
        tethers: Tethers,
        *,
        on_grant: Callable[[Grant], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks
        self._executor = executor
        self._registry = registry
        self._tethers = tethers
        self._on_grant = on_grant
        self.control: ControlChannel | None = None
        self.tun: TunDevice | None = None
        self._closed = False

    # Clock

    def now(self) -> float:
        return self._loop.time()

    def drive(self, timers: Timers) -> None:
        """Run *timers* when they are due, for as long as the loop runs."""
        armed: asyncio.TimerHandle | None = None

        def arm(when: float) -> None:
            nonlocal armed
            if armed is not None:
                armed.cancel()
            armed = self._loop.call_at(when, run)

        def run() -> None:
            nonlocal armed
            armed = None
            if self._closed:
                return
            try:
                timers.run(self._loop.time())
            finally:
                following = timers.next_deadline()
                if following is not None:
                    arm(following)

        timers.on_earliest = arm
        if (first := timers.next_deadline()) is not None:
            arm(first)

    # Control and threads

    def publish(self, tag: bytes, message: bytes) -> bool:
        return self.control is not None and self.control.publish(tag, message)

    def defer(
        self,
        work: Callable[[], T],
        then: Callable[[T, float], None],
        failed: Callable[[WireError, float], None],
    ) -> None:
        def done(future: asyncio.Future[T]) -> None:
            if self._closed or future.cancelled():
                return
            error = future.exception()
            if isinstance(error, WireError):
                failed(error, self._loop.time())
            elif error is not None:
                raise error  # a bug: the loop reports it, the node goes on
            else:
                then(future.result(), self._loop.time())

        self._loop.run_in_executor(self._executor, work).add_done_callback(done)

    # Tethers

    def offer_tether(self, kind: str, then: Callable[[Tether | None, float], None]) -> None:
        self._spawn(self._begin(kind, lambda driver: driver.offer(), then))

    def answer_tether(
        self, kind: str, offer: bytes, then: Callable[[Tether | None, float], None]
    ) -> None:
        self._spawn(self._begin(kind, lambda driver: driver.answer(offer), then))

    def connect_tether(
        self,
        tether: Tether,
        secret: bytes,
        remote: bytes | None,
        *,
        deadline_s: float,
        then: Callable[[bool, float], None],
    ) -> None:
        self._spawn(self._connect(tether, secret, remote, deadline_s, then))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        if self._closed:
            work.close()
        else:
            self._tasks.create_task(work)

    async def _begin(
        self, kind: str, begin: _Begin, then: Callable[[Tether | None, float], None]
    ) -> None:
        try:
            tether: Tether | None = await begin(await self._tethers.get(kind))
        except (TetherError, WireError):
            tether = None
        except Exception:  # a plugin's bug must not stop the node
            log.exception("the tether driver %s failed", kind)
            tether = None
        if tether is not None and self._closed:
            tether.close()
            return
        then(tether, self._loop.time())

    async def _connect(
        self,
        tether: Tether,
        secret: bytes,
        remote: bytes | None,
        deadline_s: float,
        then: Callable[[bool, float], None],
    ) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await tether.connect(secret, remote)
            up = True
        except (TetherError, WireError, TimeoutError, Closed):
            up = False
        except Exception:  # a plugin's bug must not stop the node
            log.exception("a tether failed: %s", type(tether).__qualname__)
            up = False
        if not up or self._closed:
            tether.close()
        if not self._closed:
            then(up, self._loop.time())

    # Packets

    def deliver(self, records: memoryview, layout: Layout) -> None:
        if self.tun is not None:
            # Taken away this moment: the pump finds that out too and ends the node.
            with contextlib.suppress(Closed):
                self.tun.send(records, layout)

    def tell_system(self, packet: bytes) -> None:
        self.deliver(memoryview(SIZE.pack(len(packet)) + packet), Layout.BARE)

    # What happened

    def granted(self, grant: Grant) -> None:
        self._on_grant(grant)

    def stream_opened(self, peer: NodeId, address: str) -> None:
        log.info("streams with %s (%s) are open", address, peer.hex()[:8])
        self._registry.notify("conflux_stream_opened", peer=peer, address=address)

    def alarmed(self, peer: NodeId, event: str) -> None:
        log.warning("security: %s (streams with %s)", event, peer.hex()[:8])

    def stream_closed(self, peer: NodeId, reason: str) -> None:
        log.info("streams with %s are closed: %s", peer.hex()[:8], reason)
        self._registry.notify("conflux_stream_closed", peer=peer, reason=reason)

    def route_changed(self, peer: NodeId, paths: list[Path]) -> None:
        ways = [" > ".join(node.hex()[:8] for node in path[1:]) for path in paths]
        log.info("routes to %s: %s", peer.hex()[:8], ", ".join(ways) or "none")
        self._registry.notify("conflux_route_changed", peer=peer, paths=paths)

    def close(self) -> None:
        """Call nothing back any more."""
        self._closed = True
