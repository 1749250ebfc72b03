"""What the UDP tether costs: beside bare UDP sockets with the same batches, and beside WebRTC.

Two hosts of the lab, a process each, links of 1,500 bytes, a router between. The sender keeps
WINDOW_BYTES on the way, as TCP inside a tether would, for SECONDS; then small messages go there and
back one by one. CPU is that of both processes, per gigabyte that arrived.

    .venv/bin/python benches/bench_tether_udp.py [SIZE ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conflux import lab
from conflux.api import TetherConfig, TetherDriver

KINDS = ("bare", "udp", "webrtc")
SIZES = (1_400, 8_000, 40_000, 64_000)
SECONDS = 2.0
WINDOW_BYTES = 1 << 20
CREDIT_BYTES = 128 * 1024
"""After so many the receiver says how much has arrived."""
STALLED_S = 0.05
PINGS = 2_000
PING_BYTES = 100
CREDIT = struct.Struct("!4sQ")


def main() -> None:
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    print(f"{'bytes':>7} | " + " | ".join(f"{kind:^34}" for kind in KINDS))
    columns = f"{'Mbit/s':>8} {'CPU s/GB':>8} {'RTT p50 us':>11} {'lost':>4}"
    print(f"{'':7} | " + " | ".join([columns] * len(KINDS)))
    for size in sizes:
        print(f"{size:>7} | " + " | ".join(_cell(_measure(kind, size)) for kind in KINDS))


def _cell(figures: dict[str, float]) -> str:
    return (
        f"{figures['mbits']:>8.0f} {figures['cpu_s_per_gb']:>8.2f} {figures['rtt_us']:>11.0f} "
        f"{figures['lost']:>4.0%}"
    )


def _measure(kind: str, size: int) -> dict[str, float]:
    with lab.World() as world:
        internet = lab.Internet(world)
        near, far = (
            _Program(internet.host(name), kind, role, size)
            for name, role in (("near", "sender"), ("far", "receiver"))
        )
        # Descriptions of tethers, or addresses of sockets.
        far.tell(near.hear())
        near.tell(far.hear())
        sent, received = near.hear(), far.hear()
        gigabytes = received["bytes"] / 1e9
        return {
            "mbits": received["bytes"] * 8 / sent["seconds"] / 1e6,
            "cpu_s_per_gb": (sent["cpu_s"] + received["cpu_s"]) / gigabytes,
            "rtt_us": sent["rtt_s"] * 1e6,
            "lost": 1 - received["bytes"] / sent["bytes"],
        }


class _Program:
    def __init__(self, host: lab.Host, *arguments: object) -> None:
        self._process = host.popen(
            [sys.executable, str(Path(__file__).resolve()), "--end", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


# One end


def tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def hear() -> Any:
    loop = asyncio.get_running_loop()
    return json.loads(await loop.run_in_executor(None, sys.stdin.readline))


async def end(kind: str, role: str, size: int) -> None:
    is_sender = role == "sender"
    link: Any = _Bare() if kind == "bare" else _Tethered(kind)
    flow = _Flow(link.send)
    await link.open(flow.take, is_sender=is_sender)
    await asyncio.sleep(1.0)  # until sizes of datagrams are known
    if is_sender:
        tell(await flow.drive(size))
        await asyncio.sleep(0.2)
    else:
        await flow.finished.wait()
        tell({"bytes": flow.received, "cpu_s": flow.cpu_s})
        await asyncio.sleep(1.0)
    await link.close()


class _Flow:
    """Sends within a window, counts, gives credit; then sends one message there and back by one."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self.received = 0
        self.cpu_s = 0.0
        self.finished = asyncio.Event()
        self._told = 0
        self._acknowledged = 0
        self._news = asyncio.Event()
        self._began = 0.0

    def take(self, message: memoryview) -> None:
        head = bytes(message[:4])
        if head == b"cred":
            self._acknowledged = CREDIT.unpack_from(message)[1]
            self._news.set()
        elif head == b"ping":
            self._send(b"pong".ljust(PING_BYTES))
        elif head == b"pong":
            self._news.set()
        elif head == b"stop":
            if not self.finished.is_set():
                self.cpu_s = time.process_time() - self._began
                self.finished.set()
        else:
            if not self.received:
                self._began = time.process_time()
            self.received += len(message)
            if self.received - self._told >= CREDIT_BYTES:
                self._told = self.received
                self._send(CREDIT.pack(b"cred", self.received))

    async def drive(self, size: int) -> dict[str, float]:
        message = os.urandom(size)
        clock = time.perf_counter
        sent = base = 0
        cpu, began = time.process_time(), clock()
        while clock() - began < SECONDS:
            is_full = False
            while not is_full and sent - base - self._acknowledged < WINDOW_BYTES:
                is_full = not self._send(message)
                sent += 0 if is_full else size
            if not await self._wait(0.001 if is_full else STALLED_S) and not is_full:
                base = sent - self._acknowledged  # what is on the way was lost
        seconds, cpu = clock() - began, time.process_time() - cpu
        await asyncio.sleep(0.2)
        rtt_s = await self._ping()
        for _ in range(5):
            self._send(b"stop")
            await asyncio.sleep(0.02)
        return {"bytes": sent, "seconds": seconds, "cpu_s": cpu, "rtt_s": rtt_s}

    async def _ping(self) -> float:
        times = []
        for _ in range(PINGS):
            began = time.perf_counter()
            self._send(b"ping".ljust(PING_BYTES))
            await self._wait(1.0)
            times.append(time.perf_counter() - began)
        return sorted(times)[PINGS // 2]

    async def _wait(self, most_s: float) -> bool:
        """Wait for a word of the far end; False if there was none."""
        try:
            async with asyncio.timeout(most_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class _Tethered:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    async def open(self, take: Callable[[memoryview], None], *, is_sender: bool) -> None:
        self._driver = self._make()
        await self._driver.start(TetherConfig(is_overlay=lambda address: False))
        if is_sender:
            self._tether = await self._driver.offer()
        else:
            self._tether = await self._driver.answer(bytes.fromhex(await hear()))
        self._tether.attach(take, lambda message: None, lambda reason: None)
        tell(self._tether.description.hex())
        remote = bytes.fromhex(await hear()) if is_sender else None
        await self._tether.connect(bytes(32), remote)

    def _make(self) -> TetherDriver:
        if self._kind == "udp":
            from conflux_tether_udp.driver import UdpTetherDriver

            return UdpTetherDriver({})
        from conflux_tether_webrtc.driver import WebRtcTetherDriver

        return WebRtcTetherDriver({})

    def send(self, message: bytes) -> int:
        return self._tether.send((message,))

    async def close(self) -> None:
        await self._driver.stop()


class _Bare:
    """A connected socket with UDP_SEGMENT and UDP_GRO, and nothing else."""

    DATAGRAM_BYTES = 1_472
    BATCH_BYTES = 44 * DATAGRAM_BYTES

    async def open(self, take: Callable[[memoryview], None], *, is_sender: bool) -> None:
        sock = self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        sock.setsockopt(17, 104, 1)
        routed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        routed.connect((str(lab.Internet.address), 9))
        sock.bind((routed.getsockname()[0], 0))
        routed.close()
        if is_sender:
            tell(sock.getsockname())
            sock.connect(tuple(await hear()))
        else:
            sock.connect(tuple(await hear()))
            tell(sock.getsockname())
        self._control = [(17, 103, struct.pack("=H", self.DATAGRAM_BYTES))]
        self._buffer = memoryview(bytearray(65_535))
        self._take = take
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(32):
            try:
                size = self._sock.recvmsg_into([self._buffer], 64)[0]
            except BlockingIOError:
                return
            self._take(self._buffer[:size])

    def send(self, message: bytes) -> int:
        try:
            for start in range(0, len(message), self.BATCH_BYTES):
                batch = message[start : start + self.BATCH_BYTES]
                small = len(batch) <= self.DATAGRAM_BYTES
                self._sock.sendmsg([batch], [] if small else self._control)
        except BlockingIOError:
            return 0
        return 1

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--end"]:
        asyncio.run(end(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main()
