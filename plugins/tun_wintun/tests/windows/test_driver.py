"""What opening an interface sets, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import ctypes
import uuid
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from conflux.api import Closed, Layout, TunConfig, TunDevice, Unavailable, UsageError
from conflux_tun_wintun import device, library, link, netio
from conflux_tun_wintun.device import WintunDriver

PLANE = "10.128.0.7/16"
PLANE6 = "fd00:77::7/64"
REAL_FIND = library.find


def config(
    *addresses: str, name: str = "veilnet", routes: Sequence[str] = (), mtu_bytes: int = 1500
) -> TunConfig:
    return TunConfig(
        name=name,
        addresses=[ip_interface(address) for address in addresses],
        routes=[ip_network(route) for route in routes],
        mtu_bytes=mtu_bytes,
    )


async def open_tun(wanted: TunConfig) -> TunDevice:
    return await WintunDriver({}).open(wanted)


def told(dll: Any) -> list[str]:
    text = ctypes.create_string_buffer(16_384)
    dll.StandinTell(text)
    return text.value.decode().splitlines()


def refuse(wanted: TunConfig) -> str:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(open_tun(wanted))
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestOpening:
    def test_interface_has_its_addresses_routes_and_mtu(self, standin: Any) -> None:
        async def main() -> None:
            tun = await open_tun(
                config(
                    PLANE, PLANE6, routes=["192.0.2.0/24", "2001:db8::/32", "::/0"], mtu_bytes=1400
                )
            )
            assert (tun.name, tun.mtu_bytes, tun.layout) == ("veilnet", 1400, Layout.BARE)
            guid = uuid.uuid5(device.NAMESPACE, "veilnet").bytes_le.hex()
            lines = told(standin)
            assert lines[:6] == [
                "tables 0",
                f"adapter veilnet {guid}",
                "interface 2 mtu 1400 dad 0 discovery 0 managed 0 other 0",
                "interface 23 mtu 1400 dad 0 discovery 0 managed 0 other 0",
                "address 0a800007/16",
                f"address {ip_address('fd00:77::7').packed.hex()}/64",
            ]
            any6 = "00" * 16
            assert sorted(lines[6:]) == sorted([
                "route c0000200/24 by 00000000 metric 0",
                f"route {ip_address('2001:db8::').packed.hex()}/32 by {any6} metric 0",
                f"route {any6}/0 by {any6} metric 0",
            ])  # fmt: skip
            tun.close()

        asyncio.run(main())

    def test_route_that_an_address_brings_is_not_set_again(self, standin: Any) -> None:
        async def main() -> None:
            tun = await open_tun(config(PLANE, routes=["10.128.0.0/16"]))
            assert not [line for line in told(standin) if line.startswith("route")]
            tun.close()

        asyncio.run(main())

    def test_adapter_whose_ip_comes_a_moment_later_is_waited_for(self, standin: Any) -> None:
        async def main() -> None:
            standin.StandinBeLate(3)
            tun = await open_tun(config(PLANE))
            assert "interface 2 mtu 1500 dad 0 discovery 0 managed 0 other 0" in told(standin)
            tun.close()

        asyncio.run(main())

    def test_tentative_address_is_waited_for(self, standin: Any) -> None:
        async def main() -> None:
            standin.StandinBeTentative(3, netio.IP_DAD_STATE_PREFERRED)
            (await open_tun(config(PLANE6))).close()

        asyncio.run(main())

    def test_same_name_opens_again_after_close(self) -> None:
        async def main() -> None:
            for _ in range(3):
                tun = await open_tun(config(PLANE))
                tun.close()
                tun.close()

        asyncio.run(main())

    def test_cancelled_opening_leaves_nothing(self, standin: Any) -> None:
        async def main() -> None:
            standin.StandinBeLate(1_000_000)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(open_tun(config(PLANE)))
                while len(told(standin)) == 1:  # noqa: ASYNC110 - a DLL has no event of asyncio's
                    await asyncio.sleep(0.001)
                task.cancel()
            assert task.cancelled()
            standin.StandinBeLate(0)

        asyncio.run(main())


class TestRefusing:
    def test_name_of_a_running_adapter(self) -> None:
        async def main() -> None:
            tun = await open_tun(config(PLANE))
            with pytest.raises(Unavailable, match="interface VEILNET is in use: choose another"):
                await open_tun(config("10.129.0.7/16", name="VEILNET"))
            tun.close()

        asyncio.run(main())

    def test_address_in_use_elsewhere(self, standin: Any) -> None:
        standin.StandinTake(ip_address("10.128.0.7").packed, 24)
        line = refuse(config(PLANE))
        standin.StandinFree()
        assert line.startswith("address 10.128.0.7 is in use on Ethernet: ")
        assert "--cidr" in line

    @pytest.mark.parametrize("network", ["10.128.0.0/16", "192.0.2.0/24", "0.0.0.0/0"])
    def test_network_routed_elsewhere(self, standin: Any, network: str) -> None:
        wanted = ip_network(network)
        standin.StandinTake(wanted.network_address.packed, wanted.prefixlen)
        line = refuse(config(PLANE, routes=["192.0.2.0/24", "0.0.0.0/0"]))
        standin.StandinFree()
        assert line == (
            f"network {network} is routed to Ethernet already: remove that route "
            f"(`Remove-NetRoute {network}`) or choose another plane"
        )

    def test_wider_or_narrower_network_elsewhere_is_no_collision(self, standin: Any) -> None:
        standin.StandinTake(ip_address("10.0.0.0").packed, 8)
        standin.StandinTake(ip_address("10.128.9.0").packed, 24)

        async def main() -> None:
            (await open_tun(config(PLANE))).close()

        asyncio.run(main())
        standin.StandinFree()

    def test_process_without_the_right(self, standin: Any) -> None:
        standin.StandinRefuse(library.ERROR_ACCESS_DENIED)
        line = refuse(config(PLANE))
        standin.StandinRefuse(0)
        assert line == "no right to make network interfaces: run as administrator"

    def test_driver_that_cannot_be_installed(self, standin: Any) -> None:
        standin.StandinRefuse(1603)
        line = refuse(config(PLANE))
        standin.StandinRefuse(0)
        assert line.startswith("Windows refuses an interface named veilnet: ")
        assert "(1603)" in line

    def test_route_that_is_refused_leaves_no_adapter(self, standin: Any) -> None:
        standin.StandinRefuseRoutes(87)
        line = refuse(config(PLANE, routes=["192.0.2.0/24"]))
        standin.StandinRefuseRoutes(0)
        assert line.startswith("Windows refuses route 192.0.2.0/24: ")

    def test_address_that_somebody_on_the_wire_has(self, standin: Any) -> None:
        standin.StandinBeTentative(2, netio.IP_DAD_STATE_DUPLICATE)
        line = refuse(config(PLANE6))
        standin.StandinBeTentative(0, netio.IP_DAD_STATE_PREFERRED)
        assert line == "address fd00:77::7 is in use elsewhere: choose another with --cidr"

    def test_address_that_never_becomes_usable(
        self, standin: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "USABLE_WITHIN_S", 0.05)
        standin.StandinBeTentative(1_000_000, netio.IP_DAD_STATE_PREFERRED)
        line = refuse(config(PLANE))
        standin.StandinBeTentative(0, netio.IP_DAD_STATE_PREFERRED)
        assert "did not put the addresses of veilnet to use within 0.05 s" in line

    @pytest.mark.parametrize("name", ["", "x" * 128, "a\tb", "a/b", "a:b", "a?b", 'a"b'])
    def test_name_that_windows_does_not_take(self, name: str) -> None:
        assert "is no interface name: choose 1 to 127 characters" in refuse(config(name=name))

    @pytest.mark.parametrize(
        ("address", "mtu_bytes", "advice"),
        [(PLANE, 575, "choose 576 to"), (PLANE, 65_536, "to 65535"), (PLANE6, 1279, "choose 1280")],
    )
    def test_mtu_out_of_range(self, address: str, mtu_bytes: int, advice: str) -> None:
        assert advice in refuse(config(address, mtu_bytes=mtu_bytes))

    def test_setting_that_there_is_not(self) -> None:
        with pytest.raises(UsageError, match=r"\[plugin\.tun\.wintun\]: no setting 'offload'"):
            WintunDriver({"offload": True})


class TestCarrying:
    def test_packet_that_would_end_the_session_is_taken_and_dropped(self) -> None:
        """The driver stops for good over what is no IP packet: a peer must not be able to do it."""

        async def main() -> None:
            tun = await open_tun(config(PLANE))
            other = await open_tun(config("10.129.0.7/16", name="other"))
            bad = [b"", b"\x45", b"\x45" + bytes(18), b"\x60" + bytes(38), b"\xf0" + bytes(60)]
            good = [b"\x45" + bytes(19), b"\x60" + bytes(39)]
            data = b"".join(len(p).to_bytes(2, "big") + p for p in [*bad, *good])
            assert tun.send(memoryview(data), Layout.BARE) == len(data)
            assert tun.send(memoryview(data), Layout.BARE) == len(data)
            room = bytearray(4096)
            size = other.receive(memoryview(room))
            assert room[:size] == 2 * b"".join(len(p).to_bytes(2, "big") + p for p in good)
            tun.close()
            other.close()

        asyncio.run(main())

    def test_packet_longer_than_the_mtu_is_dropped(self) -> None:
        async def main() -> None:
            narrow = await open_tun(config(PLANE, mtu_bytes=576))
            wide = await open_tun(config("10.129.0.7/16", name="wide"))
            packets = [b"\x45" + bytes(size - 1) for size in (576, 577, 1500, 20)]
            data = b"".join(len(p).to_bytes(2, "big") + p for p in packets)
            assert wide.send(memoryview(data), Layout.BARE) == len(data)
            room = bytearray(4096)
            assert narrow.receive(memoryview(room)) == 2 + 576 + 2 + 20
            narrow.close()
            wide.close()

        asyncio.run(main())

    def test_burst_that_ends_within_a_record_is_refused(self) -> None:
        async def main() -> None:
            tun = await open_tun(config(PLANE))
            for data in (b"\0", b"\0\x14" + bytes(19)):
                with pytest.raises(ValueError, match="ends within a record"):
                    tun.send(memoryview(data), Layout.BARE)
            tun.close()

        asyncio.run(main())

    def test_adapter_that_is_taken_away_wakes_its_reader_and_says_so(self, standin: Any) -> None:
        async def main() -> None:
            tun = await open_tun(config(PLANE))
            gone = asyncio.get_running_loop().create_future()

            def readable() -> None:
                try:
                    tun.receive(memoryview(bytearray(2048)))
                except Closed as error:
                    gone.set_result(str(error))

            tun.attach(readable)
            await asyncio.sleep(0)
            standin.StandinTerminate()
            assert (await gone).startswith("interface veilnet is gone: ")
            with pytest.raises(Closed):
                tun.send(memoryview(b"\0\x14\x45" + bytes(19)), Layout.BARE)

        asyncio.run(main())


class TestRealLibraries:
    def test_every_function_of_the_real_dll_resolves_and_it_has_no_driver_here(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "find", REAL_FIND)
        wintun = library.load(library.find())
        assert set(vars(wintun)) == set(library.PROTOTYPES)
        assert ctypes.WinDLL(str(library.find())).WintunGetRunningDriverVersion() == 0
        assert "Windows refuses" in refuse(config(PLANE)) or "no right" in refuse(config(PLANE))

    def test_real_tables_are_read(self) -> None:
        """Wine's own iphlpapi.dll knows this machine's addresses; it lacks other functions."""
        reading = ("ConvertInterface", "GetUnicastIpAddressTable", "GetIpForwardTable2", "Free")
        some = {name: types for name, types in netio.PROTOTYPES.items() if name.startswith(reading)}
        iphlpapi = library.bind(ctypes.WinDLL("iphlpapi.dll"), some)
        with pytest.raises(Unavailable, match=r"address 127\.0\.0\.1 is in use on "):
            link.check_free(iphlpapi, config("127.0.0.1/32"))
        link.check_free(iphlpapi, config("10.250.7.1/29"))
