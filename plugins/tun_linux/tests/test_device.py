"""How an open device carries packets, and what it says when it no longer can."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from conflux.api import Closed, Layout, TunConfig, TunDevice
from conflux.testing.tun import cut_up
from conflux_tun_linux.device import LinuxTun, LinuxTunDriver

HERE, THERE = "10.128.0.7", "10.128.0.9"
HERE6, THERE6 = "fd00:77::7", "fd00:77::9"
PORT = 47_000
OFFLOAD = pytest.mark.parametrize("offload", [True, False], ids=["offload", "bare"])


async def open_tun(mtu_bytes: int = 1500, *, offload: bool = False) -> TunDevice:
    addresses = [ip_interface(f"{HERE}/16"), ip_interface(f"{HERE6}/64")]
    return await LinuxTunDriver({"offload": offload}).open(
        TunConfig(name="veilnet", addresses=addresses, mtu_bytes=mtu_bytes)
    )


def ip_link(*arguments: str) -> None:
    subprocess.run(["ip", "link", *arguments], check=True)


def burst_of(*packets: bytes) -> memoryview:
    return memoryview(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))


def receive(device: TunDevice, *, records_of_room: int = 1) -> list[bytes]:
    buffer = memoryview(bytearray(records_of_room * device.record_bytes))
    return cut_up(buffer[: device.receive(buffer)], device.layout)


def swap_ends(packet: bytes) -> bytes:
    """Turn a UDP packet from here into one from there; the checksums stay right (RFC 1071)."""
    start, size, header = (12, 4, 20) if packet[0] >> 4 == 4 else (8, 16, 40)
    source, target = packet[start : start + size], packet[start + size : start + 2 * size]
    ports = packet[header + 2 : header + 4] + packet[header : header + 2]
    return (
        packet[:start]
        + target
        + source
        + packet[start + 2 * size : header]
        + ports
        + packet[header + 4 :]
    )


@pytest.mark.lab
@OFFLOAD
@pytest.mark.parametrize("mtu_bytes", [1280, 1500, 9000, 65_482, 65_535])
@pytest.mark.parametrize(
    ("family", "here", "there", "headers"),
    [(socket.AF_INET, HERE, THERE, 28), (socket.AF_INET6, HERE6, THERE6, 48)],
    ids=["IPv4", "IPv6"],
)
def test_packets_up_to_the_mtu_pass_between_sockets_and_device(
    family: socket.AddressFamily,
    here: str,
    there: str,
    headers: int,
    mtu_bytes: int,
    offload: bool,
) -> None:
    # A UDP datagram ends at 65,535 bytes with its own header (RFC 768), within IPv4 with both.
    largest = min(mtu_bytes - headers, 65_535 - headers)

    async def main() -> None:
        device = await open_tun(mtu_bytes, offload=offload)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.bind((here, PORT))
            for size in (0, 1, largest):
                payload = bytes([size & 0xFF]) * size
                sock.sendto(payload, (there, PORT))
                [packet] = receive(device)
                assert len(packet) == headers + size
                assert packet[headers:] == payload
                answer = burst_of(swap_ends(packet))
                assert device.send(answer, Layout.BARE) == len(answer)
                assert sock.recvfrom(65_535)[0] == payload
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_ipv6_address_takes_packets_as_soon_as_open_returns() -> None:
    async def main() -> None:
        device = await open_tun()
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.bind((HERE6, PORT))
            sock.sendto(b"early", (THERE6, PORT))
            [packet] = receive(device)
            device.close()
            for _ in range(20):  # the system needs some milliseconds, but not each time
                device = await open_tun()
                device.send(burst_of(swap_ends(packet)), Layout.BARE)
                assert sock.recv(100) == b"early"
                device.close()

    asyncio.run(main())


@pytest.mark.lab
@OFFLOAD
def test_one_receive_takes_what_one_wakeup_found(offload: bool) -> None:
    async def main() -> None:
        device = await open_tun(offload=offload)
        payloads = [i.to_bytes(2, "big") * (i % 50) for i in range(200)]
        woken = asyncio.Event()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for payload in payloads:
                sock.sendto(payload, (THERE, PORT))
        device.attach(woken.set)
        await woken.wait()
        packets = receive(device, records_of_room=100)
        assert [packet[28:] for packet in packets] == payloads
        assert receive(device) == []
        device.close()

    asyncio.run(main())


@pytest.mark.lab
@OFFLOAD
def test_more_than_the_queue_holds_is_dropped_by_the_system_in_order(offload: bool) -> None:
    async def main() -> None:
        device = await open_tun(offload=offload)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for i in range(1500):
                sock.sendto(i.to_bytes(2, "big"), (THERE, PORT))
        packets = receive(device, records_of_room=100)
        numbers = [int.from_bytes(packet[28:], "big") for packet in packets]
        assert numbers == list(range(len(numbers)))
        assert 1000 <= len(numbers) < 1500
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_interface_that_somebody_removes_wakes_the_reader_once_and_is_closed() -> None:
    async def main() -> None:
        device = await open_tun()
        said: list[str] = []
        woken = asyncio.Event()

        def on_readable() -> None:
            with pytest.raises(Closed) as caught:
                receive(device)
            said.append(str(caught.value))
            woken.set()

        device.attach(on_readable)
        ip_link("delete", "veilnet")
        await woken.wait()
        for _ in range(10):  # turns of the loop, in which a descriptor still watched would call
            await asyncio.sleep(0)
        assert len(said) == 1
        assert said[0].startswith("interface veilnet is gone: ")
        with pytest.raises(Closed):
            device.send(burst_of(b"\x45" + bytes(19)), Layout.BARE)
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_sending_into_a_removed_interface_says_closed() -> None:
    async def main() -> None:
        device = await open_tun()
        ip_link("delete", "veilnet")
        with pytest.raises(Closed, match="interface veilnet is gone"):
            device.send(burst_of(b"\x45" + bytes(19)), Layout.BARE)

    asyncio.run(main())


@pytest.mark.lab
def test_interface_set_down_drops_and_set_up_again_carries() -> None:
    async def main() -> None:
        device = await open_tun()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.bind(("", PORT))
            sock.sendto(b"hello", (THERE, PORT))
            [packet] = receive(device)
            answer = burst_of(swap_ends(packet))
            ip_link("set", "veilnet", "down")
            assert device.send(answer, Layout.BARE) == len(answer)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            ip_link("set", "veilnet", "up")
            assert device.send(answer, Layout.BARE) == len(answer)
            assert sock.recv(100) == b"hello"
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_closed_device_watches_nothing_and_says_closed() -> None:
    async def main() -> None:
        device = await open_tun()
        device.attach(lambda: None)
        device.close()
        with pytest.raises(Closed):
            device.attach(lambda: None)
        with pytest.raises(Closed):
            receive(device)
        with pytest.raises(Closed):
            device.send(burst_of(b"\x45" + bytes(19)), Layout.BARE)

    asyncio.run(main())


@pytest.mark.lab
def test_close_outside_the_loop_that_watched_is_fine() -> None:
    async def main() -> TunDevice:
        device = await open_tun()
        device.attach(lambda: None)
        return device

    asyncio.run(main()).close()


@pytest.fixture
def stand_in() -> Iterator[tuple[LinuxTun, socket.socket]]:
    """A device on a socket that keeps message boundaries, as a TUN descriptor does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.settimeout(0)
    far.settimeout(0)
    device = LinuxTun(near.detach(), "stand-in", 100)
    yield device, far
    device.close()
    far.close()


def test_full_queue_ends_the_burst_between_two_records(
    stand_in: tuple[LinuxTun, socket.socket],
) -> None:
    device, far = stand_in
    packets = [bytes([i & 0xFF]) * 90 for i in range(5000)]
    burst = burst_of(*packets)
    taken = device.send(burst, Layout.BARE)
    assert 0 < taken < len(burst)
    assert taken % 92 == 0
    assert device.send(burst[taken:], Layout.BARE) == 0
    assert [far.recv(200) for _ in range(taken // 92)] == packets[: taken // 92]
    assert device.send(burst[taken:], Layout.BARE) > 0


def test_receive_stops_while_a_whole_record_still_fits(
    stand_in: tuple[LinuxTun, socket.socket],
) -> None:
    device, far = stand_in
    sent = [bytes([i]) * 100 for i in range(5)]
    for packet in sent:
        far.send(packet)
    guard = b"\xee" * 101
    buffer = bytearray(2 * device.record_bytes) + guard
    size = device.receive(memoryview(buffer))
    assert cut_up(memoryview(buffer)[:size], device.layout) == sent[:2]
    assert buffer[2 * device.record_bytes :] == guard
    size = device.receive(memoryview(buffer))
    assert cut_up(memoryview(buffer)[:size], device.layout) == sent[2:4]


@pytest.mark.parametrize("cut", [b"\0", b"\0\x05abcd", b"\0\x01a\0\x03bc"])
def test_burst_that_ends_within_a_record_is_a_bug_of_the_caller(
    stand_in: tuple[LinuxTun, socket.socket], cut: bytes
) -> None:
    with pytest.raises(ValueError, match="burst ends within a record"):
        stand_in[0].send(memoryview(cut), Layout.BARE)


def test_descriptor_is_closed_once(stand_in: tuple[LinuxTun, socket.socket]) -> None:
    device, far = stand_in
    device.close()
    reused = os.open(os.devnull, os.O_RDONLY)
    device.close()
    os.fstat(reused)
    os.close(reused)
    assert far.recv(1) == b""
