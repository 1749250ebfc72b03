"""A message broker in memory and the driver that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from conflux.api import (
    MAX_CONTROL_BYTES,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
    Refused,
    Settings,
    Unreachable,
)
from conflux.testing.fakes.tether import Carrier, next_turn

QUEUE_BYTES = 1 << 20
"""What one channel has under way at most."""

Tap = Callable[[bytes, bytes, bytes], None]
"""Sees (tag, sender handle, payload) of every message, as a curious Master would."""


class MemoryBroker:
    """Carries messages between its channels. *carrier* is the place for delay and loss."""

    def __init__(self, carrier: Carrier = next_turn) -> None:
        self.url = "memory://broker"
        self.dead_url = "memory://nowhere"
        self.taps: list[Tap] = []
        self.carrier = carrier
        self._admitted: dict[str, ControlCredentials] = {}
        self._channels: list[MemoryChannel] = []
        self._shared_turn = 0

    def credentials(
        self, *, handle: bytes, tags: Sequence[bytes], shared_tag: bytes
    ) -> ControlCredentials:
        number = len(self._admitted) + 1
        admitted = ControlCredentials(
            urls=[self.url],
            prefix="memory",
            handle=handle,
            tags=tuple(tags),
            shared_tag=shared_tag,
            jwt=f"memory-jwt-{number:06}",
            seed=f"memory-seed-{number:06}",
        )
        self._admitted[admitted.jwt] = admitted
        return admitted

    def refused(self, credentials: ControlCredentials) -> ControlCredentials:
        return ControlCredentials(
            urls=credentials.urls,
            prefix=credentials.prefix,
            handle=credentials.handle,
            tags=credentials.tags,
            shared_tag=credentials.shared_tag,
            jwt="memory-jwt-of-nobody",
            seed="memory-seed-of-nobody",
        )

    async def interrupt(self) -> None:
        """Break every connection; each comes back at the carrier's next turn."""
        for channel in list(self._channels):
            channel.lose_connection()
            self.carrier(channel.mend_connection, size_bytes=0, reliable=True)

    def admit(self, credentials: ControlCredentials) -> None:
        """Raise Unreachable or Refused unless these credentials let a node in here."""
        if self.url not in credentials.urls:
            raise Unreachable(f"{', '.join(credentials.urls)} does not answer: try again later")
        admitted = self._admitted.get(credentials.jwt)
        if admitted is None or credentials not in (admitted, replace(admitted, shared_tag=b"")):
            raise Refused("the broker does not take the credentials: log in again")

    def add(self, channel: MemoryChannel) -> None:
        self._channels.append(channel)

    def remove(self, channel: MemoryChannel) -> None:
        self._channels.remove(channel)

    def route(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        for tap in self.taps:
            tap(tag, handle, payload)
        for channel in [c for c in self._channels if tag in c.credentials.tags]:
            channel.hand_over(tag, handle, payload)
        if sharing := [c for c in self._channels if tag == c.credentials.shared_tag]:
            self._shared_turn += 1
            sharing[self._shared_turn % len(sharing)].hand_over(tag, handle, payload)


class MemoryChannel(ControlChannel):
    """One node's connection to a MemoryBroker."""

    def __init__(
        self,
        broker: MemoryBroker,
        credentials: ControlCredentials,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
    ) -> None:
        self.credentials = credentials
        self.connected = True
        self._broker = broker
        self._on_message = on_message
        self._on_connected = on_connected
        self._under_way_bytes = 0
        self._unsent = 0
        self._closed = False
        broker.add(self)

    def publish(self, tag: bytes, payload: bytes) -> bool:
        if len(payload) > MAX_CONTROL_BYTES:
            raise ValueError(f"a control message has at most {MAX_CONTROL_BYTES} bytes")
        if not self.connected or self._under_way_bytes + len(payload) > QUEUE_BYTES:
            self._unsent += 1
            return False
        self._under_way_bytes += len(payload)
        handle, kept = self.credentials.handle, bytes(payload)

        def deliver() -> None:
            self._under_way_bytes -= len(kept)
            self._broker.route(tag, handle, kept)

        self._broker.carrier(deliver, size_bytes=len(kept), reliable=False)
        return True

    def dropped(self) -> Mapping[str, int]:
        return {"unsent": self._unsent}

    async def renew(self, credentials: ControlCredentials) -> None:
        self._broker.admit(credentials)
        self.credentials = credentials

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.connected = False
            self._broker.remove(self)

    def hand_over(self, tag: bytes, handle: bytes, payload: bytes) -> None:
        if self.connected:
            self._on_message(tag, handle, payload)

    def lose_connection(self) -> None:
        self.connected = False
        self._on_connected(self.connected)

    def mend_connection(self) -> None:
        if not self._closed:
            self.connected = True
            self._on_connected(self.connected)


class MemoryControl(ControlDriver):
    """Connects to the MemoryBroker that it was made with."""

    def __init__(
        self, settings: Settings | None = None, *, broker: MemoryBroker | None = None
    ) -> None:
        self._broker = broker or MemoryBroker()

    async def connect(
        self,
        credentials: ControlCredentials,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
    ) -> ControlChannel:
        self._broker.admit(credentials)
        return MemoryChannel(self._broker, credentials, on_message, on_connected)
