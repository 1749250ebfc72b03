"""One end of a tether as a program: a command of JSON a line, an answer of JSON a line.

peer.py STUN_URL|- OVERLAY_NETWORK|-
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from ipaddress import ip_network

from conflux.api import IceServer, TetherConfig
from conflux_tether_udp.driver import UdpTetherDriver


class Peer:
    def __init__(self, driver: UdpTetherDriver) -> None:
        self.driver = driver
        self.tether = None
        self.datagrams = 0
        self.bytes = 0
        self.reliable: list[int] = []
        self.closed: list[str] = []

    def attach(self, tether) -> dict[str, object]:
        self.tether = tether
        tether.attach(
            self.took, lambda message: self.reliable.append(len(message)), self.closed.append
        )
        return {"description": tether.description.hex()}

    def took(self, message: memoryview) -> None:
        self.datagrams += 1
        self.bytes += len(message)

    async def offer(self) -> dict[str, object]:
        return self.attach(await self.driver.offer())

    async def answer(self, offer: str) -> dict[str, object]:
        return self.attach(await self.driver.answer(bytes.fromhex(offer)))

    async def connect(self, remote: str | None, within_s: float = 5.0) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        description = None if remote is None else bytes.fromhex(remote)
        try:
            async with asyncio.timeout(within_s):
                await self.tether.connect(bytes(32), description)
        except TimeoutError:
            return {"connected": False}
        return {"connected": True, "after_s": loop.time() - began}

    async def send(self, count: int, size: int, every_s: float = 0.0) -> dict[str, object]:
        """Send messages of *size*, 0 for what the tether wants, one every *every_s*."""
        taken = 0
        for _ in range(count):
            taken += self.tether.send([os.urandom(size or self.tether.unit_bytes)])
            await asyncio.sleep(every_s)
        return {"taken": taken}

    async def send_reliable(self, sizes: list[int]) -> dict[str, object]:
        for size in sizes:
            while not self.tether.send_reliable(bytes(size)):  # noqa: ASYNC110 (no event for room)
                await asyncio.sleep(0.005)
        return {}

    async def state(self) -> dict[str, object]:
        stats = self.tether.stats()
        return {
            "datagrams": self.datagrams,
            "bytes": self.bytes,
            "reliable": self.reliable,
            "closed": self.closed,
            "unit": self.tether.unit_bytes,
            "loss": stats.loss,
            "rtt_s": stats.rtt_s,
            "underlay": stats.underlay,
        }

    async def close(self) -> dict[str, object]:
        self.tether.close()
        return {}


async def main() -> None:
    stun, overlay = sys.argv[1:]
    network = None if overlay == "-" else ip_network(overlay)
    driver = UdpTetherDriver({})
    await driver.start(
        TetherConfig(
            is_overlay=lambda address: network is not None and address in network,
            ice_servers=[] if stun == "-" else [IceServer(url=stun)],
        )
    )
    peer = Peer(driver)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        name, arguments = json.loads(line)
        print(json.dumps(await getattr(peer, name)(**arguments)), flush=True)
    await driver.stop()


if __name__ == "__main__":
    asyncio.run(main())
