"""The control channel over NATS: docs/protocol/control.md §2 on the connections of `client`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from conflux.api import (
    MAX_CONTROL_BYTES,
    TAG_BYTES,
    Closed,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
    ServerCheck,
    Settings,
    UsageError,
)
from conflux_control_nats import greeting
from conflux_control_nats.client import MasterClient

_DEFAULT_PING_S = 4.0
_CLOSE_S = 1.0
_HAND_OVER_S = 2.0
_HANDLE = re.compile(rb"[0-9a-f]{32}")


class NatsControlDriver(ControlDriver):
    """Settings: `ping_s`, seconds between probes; a server that hangs is left within two."""

    def __init__(self, settings: Settings) -> None:
        if unknown := sorted(set(settings) - {"ping_s"}):
            raise UsageError(f"[plugin.control.nats] knows no {unknown[0]!r}, only 'ping_s'")
        ping_s = settings.get("ping_s", _DEFAULT_PING_S)
        if isinstance(ping_s, bool) or not isinstance(ping_s, int | float) or not 0 < ping_s <= 60:
            raise UsageError("[plugin.control.nats] ping_s must be seconds, above 0 and at most 60")
        self._ping_s = float(ping_s)

    async def connect(
        self,
        credentials: ControlCredentials,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
    ) -> NatsChannel:
        channel = NatsChannel(on_message, on_connected, ping_s=self._ping_s)
        await channel.renew(credentials)
        return channel

    async def check(self, url: str, *, ca_pem: str = "") -> ServerCheck:
        return await greeting.check(url, ca_pem)


@dataclass(slots=True)
class ChannelCounters:
    """What a channel dropped: incoming noise by its kind, and what `publish` could not take."""

    bad_subject: int = 0
    oversized: int = 0
    unsent: int = 0


class NatsChannel(ControlChannel):
    """Made by NatsControlDriver.connect, which hands it its first credentials.

    The kernel's callbacks are called by the event loop itself and not by nats-py, whose reader
    or reconnecting would end with their first bug.
    """

    __slots__ = (
        "_client",
        "_closed",
        "_loop",
        "_on_connected",
        "_on_message",
        "_ping_s",
        "_prefix",
        "_renewing",
        "_sender",
        "connected",
        "counters",
    )

    def __init__(
        self,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
        *,
        ping_s: float,
    ) -> None:
        self.connected = False
        self.counters = ChannelCounters()
        self._on_message = on_message
        self._on_connected = on_connected
        self._ping_s = ping_s
        self._loop = asyncio.get_running_loop()
        self._renewing = asyncio.Lock()
        self._client: MasterClient | None = None
        self._closed = False
        self._prefix = self._sender = ""

    def publish(self, tag: bytes, payload: bytes) -> bool:
        if len(tag) != TAG_BYTES:
            raise ValueError(f"a tag has {TAG_BYTES} bytes, not {len(tag)}")
        if len(payload) > MAX_CONTROL_BYTES:
            raise ValueError(f"a message has at most {MAX_CONTROL_BYTES} bytes, not {len(payload)}")
        subject = f"{self._prefix}.{tag.hex()}.{self._sender}"
        if self._closed or self._client is None or not self._client.post(subject, payload):
            self.counters.unsent += 1
            return False
        return True

    async def renew(self, credentials: ControlCredentials) -> None:
        """As the contract says; raises Closed on a channel that was closed."""
        async with self._renewing:
            fresh = await self._open(credentials)
            former, self._client = self._client, fresh
            self._prefix = credentials.prefix
            self._sender = credentials.handle.hex()
            # The first connection is no return of a lost one.
            if former is None:
                self.connected = fresh.is_connected
            else:
                self._notice()
                await former.finish(_HAND_OVER_S)

    def dropped(self) -> Mapping[str, int]:
        return asdict(self.counters)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.connected = False
        if self._client is not None:
            await self._client.finish(_CLOSE_S)

    async def _open(self, credentials: ControlCredentials) -> MasterClient:
        self._require_open()
        tags = {
            f"{credentials.prefix}.{tag.hex()}".encode(): tag
            for tag in (*credentials.tags, credentials.shared_tag)
            if tag
        }
        client = MasterClient(
            credentials,
            lambda subject, payload: self._receive(tags, subject, payload),
            on_change=self._notice,
            ping_s=self._ping_s,
        )
        await client.open()
        if self._closed:
            await client.close()
            self._require_open()
        return client

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("the control channel was closed")

    def _receive(self, tags: Mapping[bytes, bytes], subject: bytes, payload: bytes) -> None:
        head, _, sender = subject.rpartition(b".")
        tag = tags.get(head)
        if tag is None or not _HANDLE.fullmatch(sender):
            self.counters.bad_subject += 1
        elif len(payload) > MAX_CONTROL_BYTES:
            self.counters.oversized += 1
        elif not self._closed:
            handle = bytes.fromhex(sender.decode())
            self._loop.call_soon(self._on_message, tag, handle, payload)

    def _notice(self) -> None:
        """Report the connection in use if it was lost or has come back since the last report."""
        if self._closed or self._client is None:
            return
        if self._client.is_connected != self.connected:
            self.connected = self._client.is_connected
            self._loop.call_soon(self._on_connected, self.connected)
