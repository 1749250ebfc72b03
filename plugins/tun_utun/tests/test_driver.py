"""What opening an interface asks of macOS, byte by byte; what it refuses; what it leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from conflux.api import API_VERSION, Closed, Layout, TunConfig, TunDevice, Unavailable, UsageError
from conflux_tun_utun import plugin, system
from conflux_tun_utun.darwin import Address
from conflux_tun_utun.device import Utun, UtunDriver
from conflux_tun_utun.link import System, unit_of

PLANE = "10.128.0.7/16"
PLANE6 = "fd00:77::7/64"


class FakeMacos(System):
    """A kernel that reads requests as XNU does, with offsets of its own: none of our structures.

    It keeps what it was told, in words. Interface 4 is en0, interface 9 the one that is made.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.addresses: set[Address] = set()
        self.routes: dict[str, int] = {}
        self.flags = 0x8050  # IFF_MULTICAST | IFF_RUNNING | IFF_POINTOPOINT
        self.refusal = 0
        self.brings_routes = False

    def ioctl(self, version: int, request: int, argument: bytes) -> bytes:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        name = argument[:16].rstrip(b"\0").decode()
        match version, request:
            case 4, 0x80206934:
                assert len(argument) == 32
                self.said.append(f"{name} mtu {struct.unpack_from('=i', argument, 16)[0]}")
            case 4, 0xC0206911:
                return argument[:16] + struct.pack("=H", self.flags) + b"\xee" * 14
            case 4, 0x80206910:
                assert len(argument) == 32
                self.said.append(f"{name} flags {struct.unpack_from('=H', argument, 16)[0]:#x}")
            case 4, 0x8040691A:
                assert len(argument) == 64
                address, far, mask = (_ipv4(argument[at : at + 16]) for at in (16, 32, 48))
                self.said.append(f"{name} address {address} far {far} mask {mask}")
            case 6, 0x8080691A:
                assert len(argument) == 128
                assert argument[44:72] == bytes(28)  # no far end
                flags, expires, preferred, valid, prefer = struct.unpack_from(
                    "=iqqII", argument, 100
                )
                assert (expires, preferred) == (0, 0)
                assert valid == prefer == 0xFFFFFFFF
                address, mask = _ipv6(argument[16:44]), _ipv6(argument[72:100])
                self.said.append(f"{name} address {address} mask {mask} flags {flags:#x}")
                if self.brings_routes:
                    self.routes[str(ip_network(f"{address}/64", strict=False))] = 9
            case _:
                raise AssertionError(f"ioctl {request:#x} on a socket of IPv{version}")
        return argument

    def route(self, message: bytes) -> bytes:
        length, version, kind, _index, flags, addresses, pid, sequence = struct.unpack_from(
            "=HBBHxxiiii", message
        )
        assert (length, version, pid) == (len(message), 5, os.getpid())
        assert sequence
        assert flags == 0x801  # RTF_UP | RTF_STATIC
        at = 92
        parts = []
        for bit in (1, 2, 4):  # RTA_DST, RTA_GATEWAY, RTA_NETMASK
            if addresses & bit:
                size = message[at]
                parts.append(message[at : at + size])
                at += (size + 3) & ~3
        assert at == length
        address = _ipv4(parts[0]) if parts[0][1] == 2 else _ipv6(parts[0])
        mask = _ipv4(parts[-1]) if parts[-1][1] == 2 else _ipv6(parts[-1])
        bits = int(mask).bit_count()
        network = f"{address}/{bits}"
        if kind == 4:
            if network not in self.routes:
                raise ProcessLookupError(errno.ESRCH, "not in table")
            return message[:4] + struct.pack("=H", self.routes[network]) + message[6:]
        assert kind == 1
        size, family, index = struct.unpack_from("=BBH", parts[1])
        assert (size, family) == (20, 18)
        if network in self.routes:
            raise FileExistsError(errno.EEXIST, "File exists")
        self.routes[network] = index
        return message

    def is_ours(self, address: Address) -> bool:
        return address in self.addresses

    def index_of(self, name: str) -> int:
        assert name == "utun7"
        return 9

    def name_of(self, index: int) -> str:
        if index != 4:
            raise OSError(errno.ENXIO, "no such interface")
        return "en0"


def _ipv4(raw: bytes) -> Address:
    size, family, port = struct.unpack_from("=BBH", raw)
    assert (size, family, port, raw[8:]) == (16, 2, 0, bytes(8))
    return ip_address(raw[4:8])


def _ipv6(raw: bytes) -> Address:
    size, family, port, flow = struct.unpack_from("=BBHI", raw)
    assert (size, family, port, flow, raw[24:]) == (28, 30, 0, 0, bytes(4))
    return ip_address(raw[8:24])


@pytest.fixture
def macos() -> FakeMacos:
    return FakeMacos()


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's end of the control socket that opening makes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(system, "open_control", lambda unit: (ours, f"utun{(unit or 8) - 1}"))
    with ours, theirs:
        theirs.settimeout(5)
        yield theirs


def config(
    *addresses: str, name: str = "veilnet", routes: Sequence[str] = (), mtu_bytes: int = 1500
) -> TunConfig:
    return TunConfig(
        name=name,
        addresses=[ip_interface(address) for address in addresses],
        routes=[ip_network(route) for route in routes],
        mtu_bytes=mtu_bytes,
    )


def open_tun(macos: FakeMacos, wanted: TunConfig) -> TunDevice:
    driver = UtunDriver({})
    driver._system = macos
    return asyncio.run(driver.open(wanted))


def refuse(macos: FakeMacos, wanted: TunConfig) -> str:
    with pytest.raises(Unavailable) as caught:
        open_tun(macos, wanted)
    line = str(caught.value)
    assert "\n" not in line
    return line


def is_closed(theirs: socket.socket) -> bool:
    return theirs.recv(1) == b""


class TestOpening:
    def test_interface_gets_its_mtu_addresses_and_routes_and_is_up(
        self, macos: FakeMacos, control: socket.socket
    ) -> None:
        wanted = config(
            PLANE, PLANE6, routes=["192.0.2.0/24", "2001:db8::/32", "::/0"], mtu_bytes=1400
        )
        device = open_tun(macos, wanted)
        assert (device.name, device.mtu_bytes, device.layout) == ("utun7", 1400, Layout.BARE)
        assert macos.said == [
            "utun7 mtu 1400",
            "utun7 address 10.128.0.7 far 10.128.0.7 mask 255.255.0.0",
            "utun7 address fd00:77::7 mask ffff:ffff:ffff:ffff:: flags 0x20",
            "utun7 flags 0x8051",
        ]
        assert macos.routes == dict.fromkeys(
            ["10.128.0.0/16", "192.0.2.0/24", "fd00:77::/64", "2001:db8::/32", "::/0"], 9
        )
        device.close()
        device.close()
        assert is_closed(control)

    def test_single_addresses_bring_no_network(
        self, macos: FakeMacos, control: socket.socket
    ) -> None:
        open_tun(macos, config("10.128.0.7/32", "fd00:77::7/128")).close()
        assert macos.routes == {}

    def test_route_that_macos_made_by_itself_is_fine(
        self, macos: FakeMacos, control: socket.socket
    ) -> None:
        macos.brings_routes = True
        open_tun(macos, config(PLANE6)).close()
        assert macos.routes == {"fd00:77::/64": 9}

    @pytest.mark.parametrize(
        ("name", "unit"),
        [("utun0", 1), ("utun17", 18), ("veilnet", 0), ("utun", 0), ("utun007", 0), ("xutun1", 0)],
    )
    def test_only_utun_and_a_number_can_be_asked_for(self, name: str, unit: int) -> None:
        assert unit_of(name) == unit


class TestRefusing:
    def test_number_of_a_running_interface(
        self, macos: FakeMacos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(unit: int) -> tuple[socket.socket, str]:
            raise OSError(errno.EBUSY, "Resource busy")

        monkeypatch.setattr(system, "open_control", busy)
        assert refuse(macos, config(PLANE, name="utun7")) == (
            "interface utun7 is in use: choose another name with --tun-name, or leave it out"
        )

    def test_process_without_the_right(
        self, macos: FakeMacos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(unit: int) -> tuple[socket.socket, str]:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(system, "open_control", forbidden)
        assert refuse(macos, config(PLANE)) == ("no right to make network interfaces: run as root")

    def test_address_in_use(self, macos: FakeMacos) -> None:
        macos.addresses.add(ip_address("10.128.0.7"))
        line = refuse(macos, config(PLANE))
        assert line.startswith("address 10.128.0.7 is in use on this machine: ")
        assert "--cidr" in line

    @pytest.mark.parametrize(
        ("network", "family"),
        [
            ("10.128.0.0/16", "-inet"),
            ("192.0.2.0/24", "-inet"),
            ("0.0.0.0/0", "-inet"),
            ("2001:db8::/32", "-inet6"),
        ],
    )
    def test_network_routed_elsewhere(self, macos: FakeMacos, network: str, family: str) -> None:
        macos.routes[network] = 4
        line = refuse(macos, config(PLANE, routes=["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32"]))
        assert line == (
            f"network {network} is routed to en0 already: remove that route "
            f"(`route delete {family} {network}`) or choose another plane"
        )

    def test_wider_or_narrower_network_elsewhere_is_no_collision(
        self, macos: FakeMacos, control: socket.socket
    ) -> None:
        macos.routes |= {"10.0.0.0/8": 4, "10.128.9.0/24": 4}
        open_tun(macos, config(PLANE)).close()

    def test_refusal_half_way_leaves_no_interface(
        self, macos: FakeMacos, control: socket.socket
    ) -> None:
        macos.refusal = errno.EINVAL
        assert refuse(macos, config(PLANE)).startswith("macOS refuses to set up utun7: ")
        assert is_closed(control)

    @pytest.mark.parametrize(
        ("address", "mtu_bytes", "advice"),
        [(PLANE, 575, "choose 576 to"), (PLANE, 65_536, "to 65535"), (PLANE6, 1279, "choose 1280")],
    )
    def test_mtu_out_of_range(
        self, macos: FakeMacos, address: str, mtu_bytes: int, advice: str
    ) -> None:
        assert advice in refuse(macos, config(address, mtu_bytes=mtu_bytes))

    def test_setting_that_there_is_not(self) -> None:
        with pytest.raises(UsageError, match=r"\[plugin\.tun\.utun\]: no setting 'offload'"):
            UtunDriver({"offload": True})

    @pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no right to lose")
    def test_probe_wants_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plugin.probe()
        monkeypatch.setattr(os, "geteuid", lambda: 501)
        with pytest.raises(Unavailable, match="run as root"):
            plugin.probe()


class TestCarrying:
    def test_family_stands_before_each_packet_and_nothing_else_is_sent(
        self, control: socket.socket
    ) -> None:
        device = Utun(system.open_control(0)[0], "utun7", 1500)
        four, six = b"\x45" + bytes(range(19)), b"\x60" + bytes(range(39))
        packets = [four, six, b"\xf0" + bytes(60), b"", four[:19], six[:39], four]
        data = b"".join(len(p).to_bytes(2, "big") + p for p in packets)
        assert device.send(memoryview(data), Layout.BARE) == len(data)
        got = [control.recv(100) for _ in range(3)]
        assert got == [b"\0\0\0\x02" + four, b"\0\0\0\x1e" + six, b"\0\0\0\x02" + four]
        device.close()

    def test_received_packet_has_lost_its_family(self, control: socket.socket) -> None:
        device = Utun(_unblocked(), "utun7", 1500)
        control.send(b"\0\0\0\x1e\x60six")
        control.send(b"\0\0\0\x02\x45four")
        room = bytearray(4096)
        size = device.receive(memoryview(room))
        assert bytes(room[:size]) == b"\0\x04\x60six\0\x05\x45four"
        device.close()

    def test_burst_that_ends_within_a_record_is_refused(self, control: socket.socket) -> None:
        device = Utun(_unblocked(), "utun7", 1500)
        for data in (b"\0", b"\0\x05\x45"):
            with pytest.raises(ValueError, match="ends within a record"):
                device.send(memoryview(data), Layout.BARE)
        device.close()

    def test_full_queue_takes_no_more(self, control: socket.socket) -> None:
        device = Utun(_unblocked(), "utun7", 1500)
        record = b"\x05\xdc\x45" + bytes(1499)
        data = memoryview(record * 10_000)
        taken = device.send(data, Layout.BARE)
        assert 0 < taken < len(data)
        assert taken % len(record) == 0
        device.close()

    def test_interface_that_is_taken_away_says_so_once_all_is_read(
        self, control: socket.socket
    ) -> None:
        device = Utun(_unblocked(), "utun7", 1500)
        control.send(b"\0\0\0\x02\x45last")
        control.close()
        room = memoryview(bytearray(4096))
        assert device.receive(room) == 7
        with pytest.raises(Closed, match="interface utun7 is gone"):
            device.receive(room)
        with pytest.raises(Closed, match="interface utun7 is closed"):
            device.receive(room)


def _unblocked() -> socket.socket:
    control, _ = system.open_control(0)
    control.settimeout(0)
    return control


def test_plugin_describes_the_driver() -> None:
    info = plugin.conflux_tun_driver()
    assert (info.name, info.api, info.platforms) == ("utun", API_VERSION, {"darwin"})
    assert info.target == f"{UtunDriver.__module__}:{UtunDriver.__qualname__}"


def test_describing_the_driver_imports_nothing_heavy() -> None:
    script = "import sys, conflux_tun_utun.plugin; print({'ctypes', 'socket'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"
