"""What the protocol needs of the world around it. `runtime` provides it live, the simulated
network on a virtual clock; the protocol itself waits for nothing and owns no thread or task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from conflux.api import Layout, NodeId, Path, Tether, WireError
from conflux.wire.credentials import Grant

T = TypeVar("T")


class World(Protocol):
    """Every callback comes from the same thread that calls the protocol, with the time."""

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def publish(self, tag: bytes, message: bytes) -> bool:
        """Send a control message by the Master, best effort; False if it is not there."""

    def defer(
        self,
        work: Callable[[], T],
        then: Callable[[T, float], None],
        failed: Callable[[WireError, float], None],
    ) -> None:
        """Run *work*, which is slow and pure, aside; call *then* with its result."""

    def offer_tether(self, kind: str, then: Callable[[Tether | None, float], None]) -> None:
        """Begin a tether; *then* gets None if that fails."""

    def answer_tether(
        self, kind: str, offer: bytes, then: Callable[[Tether | None, float], None]
    ) -> None:
        """Begin the other end; *then* gets None if that fails or the offer is malformed."""

    def connect_tether(
        self,
        tether: Tether,
        secret: bytes,
        remote: bytes | None,
        *,
        deadline_s: float,
        then: Callable[[bool, float], None],
    ) -> None:
        """Connect; *then* gets False if it failed or took longer, and *tether* is closed."""

    def deliver(self, records: memoryview, layout: Layout) -> None:
        """Hand records to the TUN device. Keeps nothing of *records*."""

    def tell_system(self, packet: bytes) -> None:
        """Hand the TUN device an ICMP error of our own about a packet that came out of it."""

    def granted(self, grant: Grant) -> None:
        """Guardian sent a new grant, which is in force; its control credentials may be new."""

    def stream_opened(self, peer: NodeId, address: str) -> None: ...

    def alarmed(self, peer: NodeId, event: str) -> None:
        """Something happened in a stream with *peer* that only an attack explains."""

    def stream_closed(self, peer: NodeId, reason: str) -> None: ...

    def route_changed(self, peer: NodeId, paths: list[Path]) -> None: ...
