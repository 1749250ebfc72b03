"""The driver: its settings, and the task group that every task of its tethers belongs to."""

from __future__ import annotations

import asyncio

# First: aioice imports ifaddr, too.
from conflux_tether_webrtc import adapters  # noqa: F401

# isort: split
from conflux.api import (
    IceServer,
    Settings,
    TetherConfig,
    TetherDriver,
    TetherError,
    Unavailable,
    UsageError,
)
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc.ice import Reach, Server
from conflux_tether_webrtc.rtc import parse_stun_turn_uri
from conflux_tether_webrtc.tether import WebRtcTether


class WebRtcTetherDriver(TetherDriver):
    """Makes tethers of WebRTC data channels.

    One setting, `allow_loopback` (false): offer 127.0.0.1 and ::1 and connect to them. It is for
    tests; no neighbour is ever there.
    """

    def __init__(self, settings: Settings) -> None:
        self._allow_loopback = _allow_loopback(settings)
        self._group: asyncio.TaskGroup | None = None
        self._reach: Reach | None = None
        self._tethers: set[WebRtcTether] = set()

    async def start(self, config: TetherConfig) -> None:
        """Open the group of tasks. The task that calls this calls `stop`, too.

        Raises Unavailable for an ICE server that cannot be read.
        """
        servers = tuple(_server(server) for server in config.ice_servers)
        self._reach = Reach(
            is_overlay=config.is_overlay, allow_loopback=self._allow_loopback, servers=servers
        )
        self._group = await asyncio.TaskGroup().__aenter__()

    async def offer(self) -> WebRtcTether:
        return await self._make(None)

    async def answer(self, offer: bytes) -> WebRtcTether:
        return await self._make(wire.decode(offer, wire.Kind.OFFER))

    async def stop(self) -> None:
        if self._group is None:
            return
        group, self._group = self._group, None
        for tether in list(self._tethers):
            tether.close()
        await group.__aexit__(None, None, None)

    async def _make(self, offer: wire.Description | None) -> WebRtcTether:
        if self._group is None or self._reach is None:
            raise TetherError("the driver is not running")
        tether = WebRtcTether(
            group=self._group, reach=self._reach, offer=offer, forget=self._tethers.discard
        )
        self._tethers.add(tether)
        await tether.gather()
        return tether


def _allow_loopback(settings: Settings) -> bool:
    where = "conflux.toml, [plugin.tether.webrtc]"
    unknown = sorted(set(settings) - {"allow_loopback"})
    if unknown:
        raise UsageError(f"{where}: no setting {unknown[0]!r}, there is only allow_loopback")
    value = settings.get("allow_loopback", False)
    if not isinstance(value, bool):
        raise UsageError(f"{where}: allow_loopback must be true or false")
    return value


def _server(server: IceServer) -> Server:
    try:
        parts = parse_stun_turn_uri(server.url)
    except ValueError:
        parts = {}
    scheme = parts.get("scheme")
    transport = parts.get("transport", "udp")
    if scheme not in ("stun", "turn", "turns") or transport not in ("udp", "tcp"):
        raise Unavailable(
            f"ICE server {server.url!r} cannot be used: write stun:host:port, turn:host:port or "
            "turns:host:port?transport=tcp"
        )
    return Server(
        host=parts["host"],
        port=parts["port"],
        turn=scheme != "stun",
        transport=transport,
        tls=scheme == "turns",
        username=server.username,
        credential=server.credential,
    )
