"""What the burst contract of TUN devices costs over bare os.readv and os.write.

Prints microseconds per packet through a real device, through bare system calls on the same
descriptor, and their ratio. The bare reader keeps each packet in a buffer of its own and so has
no records to lay out; the bare writer is given packets that are cut already. Medians of
interleaved rounds, so that a slow moment hits both. The kernel's own part is in both.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
from collections.abc import Callable
from ipaddress import ip_interface
from time import perf_counter

from conflux import lab
from conflux.api import Layout, TunConfig
from conflux_tun_linux.device import LinuxTun, LinuxTunDriver

ROUNDS = 200
PACKETS = 64  # one wake-up's worth, and well below the interface's queue
SIZES = (64, 1_200)
HERE, THERE, PORT = "10.128.0.7", "10.128.0.9", 47_000


def main() -> None:
    if missing := lab.missing():
        print("tun: not measured, for this machine lacks", "; ".join(missing))
        return
    lab.in_private_network(lambda: asyncio.run(measure()), timeout_s=300)


async def measure() -> None:
    config = TunConfig(name="veilnet", addresses=[ip_interface(f"{HERE}/16")])
    device = await LinuxTunDriver({}).open(config)
    assert isinstance(device, LinuxTun)
    print(f"{'operation':<10}{'bytes':>7}{'device µs':>11}{'bare µs':>9}{'ratio':>8}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, PORT))
        for size in SIZES:
            compare("receive", size, receive_rounds(device, sock, size))
            compare("send", size, send_rounds(device, sock, size))
    device.close()


def compare(operation: str, size: int, rounds: list[tuple[float, float]]) -> None:
    ours, bare = (statistics.median(times) / PACKETS * 1e6 for times in zip(*rounds, strict=True))
    print(f"{operation:<10}{size:>7}{ours:>11.3f}{bare:>9.3f}{ours / bare:>8.2f}")


def receive_rounds(device: LinuxTun, sock: socket.socket, size: int) -> list[tuple[float, float]]:
    burst = memoryview(bytearray((PACKETS + 1) * device.record_bytes))
    buffers = [bytearray(device.mtu_bytes) for _ in range(PACKETS + 1)]
    descriptor = device._descriptor  # noqa: SLF001 - to leave the contract out is the point

    def through_the_device() -> None:
        assert device.receive(burst) == PACKETS * (2 + 28 + size)

    def bare() -> None:
        count = 0
        try:
            for buffer in buffers:
                os.readv(descriptor, [buffer])
                count += 1
        except BlockingIOError:
            assert count == PACKETS

    def timed(read: Callable[[], None]) -> float:
        for _ in range(PACKETS):
            sock.sendto(bytes(size), (THERE, PORT))
        return seconds(read)

    return [(timed(through_the_device), timed(bare)) for _ in range(ROUNDS)]


def send_rounds(device: LinuxTun, sock: socket.socket, size: int) -> list[tuple[float, float]]:
    # To a socket whose queue is full: the kernel takes the same short way with every packet.
    packet = packet_from_there(device, sock, size)
    burst = memoryview((len(packet).to_bytes(2, "big") + packet) * PACKETS)
    packets = [packet] * PACKETS
    descriptor = device._descriptor  # noqa: SLF001 - to leave the contract out is the point

    def through_the_device() -> None:
        assert device.send(burst, Layout.BARE) == len(burst)

    def bare() -> None:
        for whole in packets:
            os.write(descriptor, whole)

    for _ in range(100):
        through_the_device()
    return [(seconds(through_the_device), seconds(bare)) for _ in range(ROUNDS)]


def packet_from_there(device: LinuxTun, sock: socket.socket, size: int) -> bytes:
    """Have the kernel make a packet and turn it round: its checksums stay right (RFC 1071)."""
    sock.sendto(bytes(size), (THERE, PORT))
    buffer = memoryview(bytearray(device.record_bytes))
    packet = bytes(buffer[2 : device.receive(buffer)])
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def seconds(operation: Callable[[], None]) -> float:
    start = perf_counter()
    operation()
    return perf_counter() - start


if __name__ == "__main__":
    main()
