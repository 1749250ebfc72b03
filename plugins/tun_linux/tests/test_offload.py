"""What the kernel leaves to the device and does for it, and kernels that do less."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import socket
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from conflux.api import (
    MAX_GSO_BYTES,
    MAX_RECORD_BYTES,
    Gso,
    Layout,
    TunConfig,
    TunDevice,
    UsageError,
)
from conflux.testing.packets import udp_packet
from conflux.testing.tun import cut_up
from conflux.testing.virtio import virtio_body
from conflux_tun_linux import offload
from conflux_tun_linux.device import LinuxTunDriver

HERE, THERE = ip_address("10.128.0.7"), ip_address("10.128.0.9")
PORT = 47_808  # conflux.testing.packets
UDP_SEGMENT = 103  # linux/udp.h
WITHOUT_UDP = frozenset(Gso) - {Gso.UDP_L4}


async def open_tun(*, mtu_bytes: int = 1500, **settings: object) -> TunDevice:
    config = TunConfig(name="veilnet", addresses=[ip_interface(f"{HERE}/16")], mtu_bytes=mtu_bytes)
    return await LinuxTunDriver(settings).open(config)


def link() -> dict[str, Any]:
    """What iproute2 says of the interface, which reads netlink with code that is not ours."""
    asked = ["ip", "-json", "-details", "link", "show", "dev", "veilnet"]
    run = subprocess.run(asked, check=True, capture_output=True, text=True)
    [found] = json.loads(run.stdout)
    return dict(found)


def receive(device: TunDevice) -> memoryview:
    buffer = memoryview(bytearray(4 * MAX_RECORD_BYTES))
    return buffer[: device.receive(buffer)]


def send_many(payload: bytes, size: int) -> None:
    """Have the kernel make one UDP packet that stands for many (udp(7), UDP_SEGMENT)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(HERE), PORT))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        sock.sendto(payload, (str(THERE), PORT))


Ioctl = Callable[[int, int, Any], Any]


def kernel_that(refuses: Callable[[int, Any], bool]) -> Ioctl:
    """An older kernel: this one, but for the requests that it does not know."""
    genuine: Ioctl = fcntl.ioctl

    def ioctl(descriptor: int, request: int, argument: Any) -> Any:
        if refuses(request, argument):
            raise OSError(errno.EINVAL, "Invalid argument")
        return genuine(descriptor, request, argument)

    return ioctl


@pytest.mark.lab
def test_interface_gives_records_that_fit_a_frame() -> None:
    async def main() -> None:
        device = await open_tun()
        assert (device.layout, device.gso) == (Layout.VIRTIO, frozenset(Gso))
        assert device.record_bytes == MAX_GSO_BYTES + 12 <= MAX_RECORD_BYTES
        found = link()
        assert found["linkinfo"]["info_data"]["vnet_hdr"] is True
        assert found["gso_max_size"] == MAX_GSO_BYTES
        device.close()

    asyncio.run(main())


@pytest.mark.lab
@pytest.mark.parametrize(
    ("mtu_bytes", "settings"),
    [(1500, {"offload": False}), (65_483, {})],
    ids=["by setting", "packets that no record with a header has room for"],
)
def test_interface_without_offload_gives_bare_packets(
    mtu_bytes: int, settings: dict[str, object]
) -> None:
    async def main() -> None:
        device = await open_tun(mtu_bytes=mtu_bytes, **settings)
        assert (device.layout, device.gso) == (Layout.BARE, frozenset())
        assert device.record_bytes == 2 + mtu_bytes
        assert link()["linkinfo"]["info_data"]["vnet_hdr"] is False
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_many_packets_of_one_flow_come_in_one_record() -> None:
    async def main() -> None:
        device = await open_tun()
        payload = bytes(range(250)) * 100
        send_many(payload, 1_000)
        burst = receive(device)
        assert int.from_bytes(burst[:2], "big") == len(burst) - 2  # one record
        packets = cut_up(burst, device.layout)
        assert len(packets) == 25
        assert b"".join(packet[28:] for packet in packets) == payload
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_several_records_come_in_one_burst() -> None:
    async def main() -> None:
        device = await open_tun()
        for number in range(3):
            send_many(bytes([number]) * 30_000, 1_000)
        packets = cut_up(receive(device), device.layout)
        assert [packet[28] for packet in packets] == [0] * 30 + [1] * 30 + [2] * 30
        assert not receive(device)
        device.close()

    asyncio.run(main())


@pytest.mark.lab
@pytest.mark.parametrize("layout", Layout)
def test_either_layout_reaches_a_socket(layout: Layout) -> None:
    async def main() -> None:
        device = await open_tun()
        packet = udp_packet(THERE, HERE, bytes(range(200)) * 3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.bind((str(HERE), PORT))
            body = virtio_body(packet, gso_size=200) if layout is Layout.VIRTIO else packet
            burst = len(body).to_bytes(2, "big") + body
            assert device.send(memoryview(burst * 2), layout) == 2 * len(burst)
            got = [sock.recv(1_000) for _ in range(6 if layout is Layout.VIRTIO else 2)]
            assert b"".join(got) == bytes(range(200)) * 6
            with pytest.raises(BlockingIOError):
                sock.recv(1)
        device.close()

    asyncio.run(main())


@pytest.mark.lab
@pytest.mark.parametrize(
    ("refuses", "gso"),
    [
        (lambda request, flags: request == offload.TUNSETOFFLOAD and flags & 0x60, WITHOUT_UDP),
        (lambda request, _: request == offload.TUNSETOFFLOAD, frozenset({Gso.NONE})),
        (lambda request, _: request == offload.TUNGETFEATURES, frozenset()),
    ],
    ids=["no UDP", "no segmentation", "no virtio headers"],
)
def test_kernel_that_can_do_less_does_less(
    refuses: Callable[[int, Any], bool], gso: frozenset[Gso], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload.fcntl, "ioctl", kernel_that(refuses))

    async def main() -> None:
        device = await open_tun()
        assert device.gso == gso
        assert device.layout is (Layout.VIRTIO if gso else Layout.BARE)
        send_many(bytes(range(250)) * 8, 1_000)
        packets = cut_up(receive(device), device.layout)
        assert [len(packet) for packet in packets] == [1_028, 1_028]
        device.close()

    asyncio.run(main())


@pytest.mark.lab
def test_kernel_that_keeps_no_limit_gives_single_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "MAX_GSO_BYTES", 0xFFFF_FFFF)  # is not kept: 65,536 is most

    async def main() -> None:
        device = await open_tun()
        assert device.gso == {Gso.NONE}
        send_many(bytes(2_000), 1_000)
        assert [len(packet) for packet in cut_up(receive(device), device.layout)] == [1_028] * 2
        device.close()

    asyncio.run(main())


@pytest.mark.parametrize("settings", [{"offload": "no"}, {"offload": 0}, {"offloads": False}])
def test_setting_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"\[plugin.tun.linux\].*offload") as caught:
        LinuxTunDriver(settings)
    assert "\n" not in str(caught.value)
