"""What the burst contract of TUN devices costs over bare system calls, and what offload saves.

First table: microseconds per packet through a real device without offload, through bare os.readv
and os.write on the same descriptor, and their ratio. The bare reader keeps each packet in a buffer
of its own and so has no records to lay out; the bare writer is given packets that are cut already.

Second table: 60 kB of one flow, which a device with offload gives and takes in one record and
another in 42 packets: microseconds and Mbit/s of each, and how much faster the first is. `receive`
is the read alone: the kernel cuts up before that, when it sends. `send` is into a socket that is
full.

Medians, of interleaved rounds in the first table, so that a slow moment hits both. The kernel's own
part is in both.
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
from conflux.api import MAX_RECORD_BYTES, Layout, TunConfig
from conflux_tun_linux.device import LinuxTun, LinuxTunDriver

ROUNDS = 200
PACKETS = 64  # one wake-up's worth, and well below the interface's queue
SIZES = (64, 1_200)
MANY_BYTES, SEGMENT_BYTES = 60_480, 1_440
HERE, THERE, PORT = "10.128.0.7", "10.128.0.9", 47_000
UDP_SEGMENT = 103  # linux/udp.h


def main() -> None:
    if missing := lab.missing():
        print("tun: not measured, for this machine lacks", "; ".join(missing))
        return
    lab.in_private_network(lambda: asyncio.run(measure()), timeout_s=300)


async def measure() -> None:
    device = await open_tun(offload=False)
    print(f"{'operation':<10}{'bytes':>7}{'device µs':>11}{'bare µs':>9}{'ratio':>8}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, PORT))
        for size in SIZES:
            compare("receive", size, receive_rounds(device, sock, size))
            compare("send", size, send_rounds(device, sock, size))
    device.close()
    print(f"\n{'60 kB':<10}{'offload':>9}{'Mbit/s':>8}{'bare':>9}{'Mbit/s':>8}{'faster':>8}")
    with_offload = await rounds_of_many(offload=True)
    without = await rounds_of_many(offload=False)
    for operation in ("receive", "send"):
        ours, bare = (statistics.median(r[operation]) * 1e6 for r in (with_offload, without))
        rates = (f"{us:>9.1f}{MANY_BYTES * 8 / us:>8.0f}" for us in (ours, bare))
        print(f"{operation:<10}{''.join(rates)}{bare / ours:>8.1f}")


async def open_tun(*, offload: bool) -> LinuxTun:
    config = TunConfig(name="veilnet", addresses=[ip_interface(f"{HERE}/16")])
    device = await LinuxTunDriver({"offload": offload}).open(config)
    assert isinstance(device, LinuxTun)
    return device


async def rounds_of_many(*, offload: bool) -> dict[str, list[float]]:
    """Seconds for MANY_BYTES of one flow, read from the device and written to it."""
    device = await open_tun(offload=offload)
    times: dict[str, list[float]] = {"receive": [], "send": []}
    buffer = memoryview(bytearray(2 * MAX_RECORD_BYTES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, PORT))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)
        for _ in range(ROUNDS):
            sock.sendto(bytes(MANY_BYTES), (THERE, PORT))
            began = perf_counter()
            filled = device.receive(buffer)
            times["receive"].append(perf_counter() - began)
            assert filled > MANY_BYTES
            burst = turned_round(buffer[:filled], device.layout)
            began = perf_counter()
            assert device.send(burst, device.layout) == filled
            times["send"].append(perf_counter() - began)
    device.close()
    return times


def turned_round(burst: memoryview, layout: Layout) -> memoryview:
    """Swap the addresses of every packet: checksums, made or not, stay right (RFC 1071)."""
    turned, at = bytearray(burst), 0
    while at < len(turned):
        packet = at + 2 + (10 if layout is Layout.VIRTIO else 0)
        source, target = turned[packet + 12 : packet + 16], turned[packet + 16 : packet + 20]
        turned[packet + 12 : packet + 20] = target + source
        at += 2 + int.from_bytes(turned[at : at + 2], "big")
    return memoryview(turned)


def compare(operation: str, size: int, rounds: list[tuple[float, float]]) -> None:
    ours, bare = (statistics.median(times) / PACKETS * 1e6 for times in zip(*rounds, strict=True))
    print(f"{operation:<10}{size:>7}{ours:>11.3f}{bare:>9.3f}{ours / bare:>8.2f}")


def receive_rounds(device: LinuxTun, sock: socket.socket, size: int) -> list[tuple[float, float]]:
    burst = memoryview(bytearray((PACKETS + 1) * device.record_bytes))
    buffers = [bytearray(device.mtu_bytes) for _ in range(PACKETS + 1)]
    descriptor = descriptor_of(device)

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
    descriptor = descriptor_of(device)

    def through_the_device() -> None:
        assert device.send(burst, Layout.BARE) == len(burst)

    def bare() -> None:
        for whole in packets:
            os.write(descriptor, whole)

    for _ in range(100):
        through_the_device()
    return [(seconds(through_the_device), seconds(bare)) for _ in range(ROUNDS)]


def descriptor_of(device: LinuxTun) -> int:
    assert device._file is not None  # noqa: SLF001 - to leave the contract out is the point
    return device._file.fileno()  # noqa: SLF001


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
