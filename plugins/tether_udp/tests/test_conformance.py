"""The plugin and its driver are what the contracts say, over loopback."""

from __future__ import annotations

from conflux.api import TetherConfig, TetherDriver
from conflux.testing import PluginConformance, TetherConformance
from conflux_tether_udp.driver import UdpTetherDriver


class TestPlugin(PluginConformance):
    plugin_name = "tether-udp"


class TestUdpTether(TetherConformance):
    async def make_drivers(self) -> tuple[TetherDriver, TetherDriver]:
        # Everything but loopback counts as overlay: no test touches the machine's own network.
        config = TetherConfig(is_overlay=lambda address: not address.is_loopback)
        near, far = (UdpTetherDriver({"allow_loopback": True}) for _ in range(2))
        await near.start(config)
        await far.start(config)
        return near, far
