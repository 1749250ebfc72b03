"""The kit's conformance on two adapters: what one sends, the other receives."""

from __future__ import annotations

from ipaddress import ip_interface

from conflux.api import TunConfig, TunDevice
from conflux.testing import TunConformance
from conflux_tun_wintun.device import WintunDriver


class TestWintun(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        driver = WintunDriver({})
        here = ["192.0.2.254/24", "2001:db8:1::fe/64"]
        there = ["198.51.100.254/24", "2001:db8:2::fe/64"]
        return await driver.open(_config("left", here)), await driver.open(_config("right", there))


def _config(name: str, addresses: list[str]) -> TunConfig:
    return TunConfig(name=name, addresses=[ip_interface(address) for address in addresses])
