"""What the kernel does by itself: the bare cable, and VXLAN, which encrypts nothing."""

from __future__ import annotations

from pathlib import Path

from benches.compare import machine
from benches.compare.products import Tunnel
from benches.compare.worlds import CABLE, Underlay


class Veth:
    """The cable without a tunnel: what the machine can do at most."""

    name = "veth"
    label = "bare veth (no tunnel)"

    def prepare(self) -> str:
        return machine.kernel()

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        return Tunnel(underlay.near.address, underlay.far.address)


class Vxlan:
    """RFC 7348, one tunnel between two known ends."""

    name = "vxlan"
    label = "kernel VXLAN (no encryption)"

    def prepare(self) -> str:
        return machine.kernel()

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        ends = (underlay.near, underlay.far)
        for number, (here, there) in enumerate((ends, ends[::-1]), start=1):
            between = f"local {here.address} remote {there.address} dstport 4789 dev {CABLE}"
            for command in (
                f"link add vx0 type vxlan id 7 {between}",
                f"address add 10.88.0.{number}/24 dev vx0",
                "link set vx0 up",
            ):
                here.place.run(["ip", *command.split()])
        return Tunnel("10.88.0.1", "10.88.0.2")
