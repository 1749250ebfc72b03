"""The kit's conformance on two real TUN devices: the kernel forwards from one to the other."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from conflux.api import TunConfig, TunDevice
from conflux.testing import TunConformance
from conflux_tun_linux.device import LinuxTunDriver

pytestmark = pytest.mark.lab


class TestLinuxTun(TunConformance):
    offload = True, True
    """Of the left device, and of the right one."""

    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        _forward()
        left, right = (LinuxTunDriver({"offload": on}) for on in self.offload)
        here = ["192.0.2.254/24", "2001:db8:1::fe/64"]
        there = ["198.51.100.254/24", "2001:db8:2::fe/64"]
        return await left.open(_config("left", here)), await right.open(_config("right", there))


class TestLinuxTunWithoutOffload(TestLinuxTun):
    offload = False, False


class TestLinuxTunFromOffload(TestLinuxTun):
    offload = True, False


class TestLinuxTunToOffload(TestLinuxTun):
    offload = False, True


def _forward() -> None:
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", switch).write_text("1")


def _config(name: str, addresses: list[str]) -> TunConfig:
    return TunConfig(name=name, addresses=[ip_interface(address) for address in addresses])
