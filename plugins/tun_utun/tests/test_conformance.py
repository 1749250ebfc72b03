"""The kit's conformance on two ends of a socket pair, with utun's family before each packet."""

from __future__ import annotations

import socket

from conflux.api import TunDevice
from conflux.testing import TunConformance
from conflux_tun_utun.device import Utun


class TestUtun(TunConformance):
    async def make_pair(self) -> tuple[TunDevice, TunDevice]:
        # Keeps packets apart as a control socket does, and queues more of them than SOCK_DGRAM.
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setblocking(False)  # noqa: FBT003
        left, right = ends
        return Utun(left, "utun7", 1500), Utun(right, "utun8", 1400)
