"""The driver: its settings, its port, its tethers."""

from __future__ import annotations

from conflux.api import (
    Settings,
    TetherConfig,
    TetherDriver,
    TetherError,
    UsageError,
)
from conflux_tether_udp import description as wire
from conflux_tether_udp import stun
from conflux_tether_udp.port import Port
from conflux_tether_udp.reach import Reach
from conflux_tether_udp.tether import UdpTether

_WHERE = "conflux.toml, [plugin.tether.udp]"


class UdpTetherDriver(TetherDriver):
    """Makes tethers of sealed UDP datagrams, all on one port.

    Settings: `port` (0, any), for firewalls that open one; `allow_loopback` (false), to offer
    127.0.0.1 and ::1 and connect to them, for tests.
    """

    def __init__(self, settings: Settings) -> None:
        unknown = sorted(set(settings) - {"allow_loopback", "port"})
        if unknown:
            raise UsageError(
                f"{_WHERE}: no setting {unknown[0]!r}, there are only port and allow_loopback"
            )
        allow_loopback, number = settings.get("allow_loopback", False), settings.get("port", 0)
        if not isinstance(allow_loopback, bool):
            raise UsageError(f"{_WHERE}: allow_loopback must be true or false")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 65_536:
            raise UsageError(f"{_WHERE}: port must be a number from 0 to 65535")
        self._allow_loopback = allow_loopback
        self._number = number
        self._port: Port | None = None
        self._tethers: set[UdpTether] = set()

    async def start(self, config: TetherConfig) -> None:
        """Bind the port. Raises Unavailable, also for an ICE server that cannot be read.

        Waits for the first answer of a STUN server, FIRST_ANSWER_S at most: nothing else ever does.
        """
        servers = [server for server in map(stun.server, config.ice_servers) if server is not None]
        reach = Reach(is_overlay=config.is_overlay, allow_loopback=self._allow_loopback)
        self._port = Port(reach, servers, self._number)
        try:
            await self._port.start()
        except BaseException:  # cancelled: nobody will stop what did not start
            await self.stop()
            raise

    async def offer(self) -> UdpTether:
        return self._make(None)

    async def answer(self, offer: bytes) -> UdpTether:
        return self._make(wire.decode(offer, wire.Kind.OFFER))

    async def stop(self) -> None:
        if self._port is None:
            return
        port, self._port = self._port, None
        for tether in list(self._tethers):
            tether.close()
        await port.stop()

    def _make(self, offer: wire.Description | None) -> UdpTether:
        port = self._port
        if port is None:
            raise TetherError("the driver is not running")
        candidates = port.candidates()
        if not candidates:
            raise TetherError("this machine has no address that a tether may use")
        tether = UdpTether(
            port=port, candidates=candidates, offer=offer, forget=self._tethers.discard
        )
        self._tethers.add(tether)
        return tether
