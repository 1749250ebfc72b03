"""Several nodes of one plane in one network namespace: by which interface packets leave and come,
and that nothing is left of any of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from conflux.api import Layout, TunConfig, TunDevice, Unavailable
from conflux.testing.packets import PORT, udp_packet
from conflux.testing.tun import cut_up
from conflux_tun_linux import companions
from conflux_tun_linux.device import LinuxTunDriver

pytestmark = pytest.mark.lab

FAR, FAR6 = "10.128.0.99", "fd00:77::99"
FARTHER = "192.0.2.9"


def config(number: int, *, plane: str = "home") -> TunConfig:
    return TunConfig(
        name=f"veil{number}",
        addresses=[ip_interface(f"10.128.0.{number}/16"), ip_interface(f"fd00:77::{number}/64")],
        routes=[ip_network("192.0.2.0/24")],
        plane=plane,
    )


async def open_tun(number: int, *, plane: str = "home") -> TunDevice:
    return await LinuxTunDriver({}).open(config(number, plane=plane))


def ip(arguments: str) -> str:
    argv = ["ip", *arguments.split()]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def routing() -> tuple[str, ...]:
    """All that decides where packets go, and all interfaces."""
    shown = ("-4 rule", "-6 rule", "-4 route show table all", "-6 route show", "-brief link")
    return tuple(ip(words) for words in shown)


def udp_socket(
    address: str = "", *, port: int = 0, device: str = "", version: int = 4
) -> socket.socket:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(0)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind((address, port))
    return made


def received(device: TunDevice) -> list[bytes]:
    """The payloads of all UDP packets that wait at *device*."""
    buffer = memoryview(bytearray(100 * device.record_bytes))
    packets = cut_up(buffer[: device.receive(buffer)], device.layout)
    return [packet[28 if packet[0] >> 4 == 4 else 48 :] for packet in packets]


def send(device: TunDevice, packet: bytes) -> None:
    record = len(packet).to_bytes(2, "big") + packet
    assert device.send(memoryview(record), Layout.BARE) == len(record)


def until(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.002)


def test_bound_packets_leave_by_their_own_interface_and_all_others_by_the_first() -> None:
    async def main() -> None:
        devices = {number: await open_tun(number) for number in (7, 8, 9)}
        for version, there, near in ((4, FAR, "10.128.0.{}"), (6, FAR6, "fd00:77::{}")):
            for target in (there, FARTHER) if version == 4 else (there,):
                for number in devices:
                    by_address = udp_socket(near.format(number), version=version)
                    by_device = udp_socket(device=f"veil{number}", version=version)
                    with by_address, by_device:
                        by_address.sendto(b"address %d" % number, (target, PORT))
                        by_device.sendto(b"device %d" % number, (target, PORT))
                with udp_socket(version=version) as unbound:
                    unbound.sendto(b"unbound", (target, PORT))
                assert received(devices[7]) == [b"address 7", b"device 7", b"unbound"]
                for number in (8, 9):
                    assert received(devices[number]) == [
                        b"address %d" % number, b"device %d" % number,
                    ]  # fmt: skip
        for device in devices.values():
            device.close()

    asyncio.run(main())


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_packets_come_in_by_both_also_where_sources_are_verified(rp_filter: int) -> None:
    # Strict verification (1, RFC 3704 §2.2) wants the way back to be the interface they came by.
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{which}/rp_filter").write_text(str(rp_filter))

    async def main() -> None:
        devices = {number: await open_tun(number) for number in (7, 8)}
        for version, there, near in ((4, FAR, "10.128.0.{}"), (6, FAR6, "fd00:77::{}")):
            for number, device in devices.items():
                here = near.format(number)
                with udp_socket(here, port=PORT, version=version) as sock:
                    send(device, udp_packet(ip_address(there), ip_address(here), b"hello"))
                    assert sock.recv(100) == b"hello"
        for device in devices.values():
            device.close()

    asyncio.run(main())


def test_second_one_leaves_nothing_and_the_first_is_as_before() -> None:
    async def main() -> None:
        first = await open_tun(7)
        alone = routing()
        second = await open_tun(8)
        assert routing() != alone
        second.close()
        assert routing() == alone
        first.close()

    before = routing()
    asyncio.run(main())
    assert routing() == before


def test_second_one_has_the_plane_to_itself_once_the_first_is_gone() -> None:
    async def main() -> None:
        first, second = await open_tun(7), await open_tun(8)
        first.close()
        with udp_socket() as unbound, udp_socket("10.128.0.8") as bound:
            unbound.sendto(b"unbound", (FAR, PORT))
            bound.sendto(b"bound", (FAR, PORT))
        assert received(second) == [b"unbound", b"bound"]
        # What comes back is the second one now.
        first = await open_tun(7)
        with udp_socket() as unbound, udp_socket("10.128.0.7") as bound:
            unbound.sendto(b"unbound", (FAR, PORT))
            bound.sendto(b"bound", (FAR, PORT))
        assert (received(first), received(second)) == ([b"bound"], [b"unbound"])
        first.close()
        second.close()

    before = routing()
    asyncio.run(main())
    assert routing() == before


def test_two_that_start_at_once_are_kept_apart() -> None:
    async def main() -> None:
        for _ in range(5):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(open_tun(number)) for number in (7, 8)]
            devices = [task.result() for task in tasks]
            for number, device in zip((7, 8), devices, strict=True):
                with udp_socket(f"10.128.0.{number}") as bound:
                    bound.sendto(b"bound", (FAR, PORT))
                assert received(device) == [b"bound"]
            for device in devices:
                device.close()

    before = routing()
    asyncio.run(main())
    assert routing() == before


def in_a_process(stack: ExitStack, number: int) -> subprocess.Popen[bytes]:
    """Open a device in a process of its own, in a session of its own."""
    script = (
        "import asyncio, sys\n"
        "from ipaddress import *\n"
        "from conflux.api import TunConfig\n"
        "from conflux_tun_linux.device import LinuxTunDriver\n"
        f"config = {config(number)!r}\n"
        "device = asyncio.run(LinuxTunDriver({}).open(config))\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


def keepers() -> list[int]:
    """Every rule keeper that runs in this network namespace."""
    here, found = os.stat("/proc/self/ns/net").st_ino, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"rule_keeper.py" in command and (process / "ns/net").stat().st_ino == here:
                found.append(int(process.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_killed_one(sig: signal.Signals) -> None:
    before = routing()
    with ExitStack() as stack:
        in_a_process(stack, 7)
        alone = routing()
        second = in_a_process(stack, 8)
        assert len(keepers()) == 1
        if sig == signal.SIGTERM:  # as a service manager does: to all of them
            os.kill(keepers()[0], sig)
        assert "lookup" in ip("rule show from 10.128.0.8")
        second.send_signal(sig)
        second.wait()
        until(lambda: routing() == alone)
        until(lambda: keepers() == [])
    until(lambda: routing() == before)


def test_rules_whose_keeper_was_killed_too_go_when_the_next_one_starts() -> None:
    before = routing()
    with ExitStack() as stack:
        in_a_process(stack, 7)
        second = in_a_process(stack, 8)
        os.kill(keepers()[0], signal.SIGKILL)
        second.kill()
        second.wait()
        until(lambda: keepers() == [])
    assert routing() != before

    async def main() -> None:
        (await open_tun(9)).close()

    asyncio.run(main())
    assert routing() == before


def refused(number: int, *, plane: str = "home") -> str:
    """Open in vain; return the one line that says why. Nothing may be left of the try."""
    before = routing()
    with pytest.raises(Unavailable) as caught:
        asyncio.run(open_tun(number, plane=plane))
    assert routing() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("first", "second"), [("home", "lab"), ("", ""), ("home", "")])
def test_other_planes_may_not_share_a_network(first: str, second: str) -> None:
    device = asyncio.run(open_tun(7, plane=first))
    line = refused(8, plane=second)
    assert "is routed to veil7 already: remove that route" in line
    device.close()


def test_route_of_something_else_beside_a_companion_is_refused() -> None:
    device = asyncio.run(open_tun(7))
    ip("link add name lan type veth peer name far")
    ip("link set dev lan addrgenmode none up")
    ip("route add 10.128.0.0/16 dev lan metric 4000")
    assert "network 10.128.0.0/16 is routed to lan already" in refused(8)
    device.close()


def test_address_of_a_companion_is_refused() -> None:
    device = asyncio.run(open_tun(7))
    wanted = TunConfig(name="veil8", addresses=[ip_interface("10.128.0.7/16")], plane="home")
    with pytest.raises(Unavailable, match=r"address 10\.128\.0\.7 is in use on veil7"):
        asyncio.run(LinuxTunDriver({}).open(wanted))
    device.close()


def test_system_that_takes_no_rules_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    device = asyncio.run(open_tun(7))
    monkeypatch.setattr(companions, "RULE_PRIORITY", -1)  # no number that a rule can have
    assert "the system takes no routing rules to keep both apart" in refused(8)
    device.close()


def test_secrets_of_the_environment_do_not_reach_the_keeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VEILNET_CONFLUX_TOKEN", "secret")
    first, second = asyncio.run(open_tun(7)), asyncio.run(open_tun(8))
    [keeper] = keepers()
    assert b"VEILNET" not in Path(f"/proc/{keeper}/environ").read_bytes()
    first.close()
    second.close()
