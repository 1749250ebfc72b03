"""What opening an interface sets, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from conflux.api import API_VERSION, TunConfig, TunDevice, Unavailable
from conflux_tun_linux import plugin
from conflux_tun_linux.device import LinuxTunDriver

PLANE = "10.128.0.7/16"
PLANE6 = "fd00:77::7/64"


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
    return await LinuxTunDriver({}).open(wanted)


def ip(arguments: str) -> Any:
    """Ask iproute2, which reads netlink with code that is not ours."""
    run = subprocess.run(
        ["ip", "-json", *arguments.split()], check=True, capture_output=True, text=True
    )
    return json.loads(run.stdout or "[]")


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def configured() -> set[tuple[str, ...]]:
    """All interfaces, addresses and routes, without what the kernel changes in its own time:
    flags such as "linkdown", and the routes that it makes for an IPv6 address."""
    routes = ip("-4 route show table all") + ip("-6 route show")
    addresses = [(link["ifname"], a["local"]) for link in ip("address") for a in link["addr_info"]]
    return {
        *((name,) for name in links()),
        *addresses,
        *((route["dst"], route.get("dev", ""), route.get("table", "main")) for route in routes),
    }


def make_links(*names: str) -> None:
    """Make interfaces that are up and get no address by themselves: the ends of a cable."""
    ip(f"link add name {names[0]} type veth peer name {names[1]}")
    for name in names:
        ip(f"link set dev {name} addrgenmode none up")


def refuse(wanted: TunConfig) -> str:
    """Open in vain; return the one line that says why. Nothing may be left of the try."""
    before = configured()
    with pytest.raises(Unavailable) as caught:
        asyncio.run(open_tun(wanted))
    assert configured() == before
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.lab
class TestOpening:
    def test_interface_has_its_addresses_routes_and_mtu_and_is_up(self) -> None:
        async def main() -> None:
            device = await open_tun(
                config(PLANE, PLANE6, routes=["192.0.2.0/24", "2001:db8::/32"], mtu_bytes=1400)
            )
            assert (device.name, device.mtu_bytes) == ("veilnet", 1400)
            [link] = ip("-details address show dev veilnet")
            assert link["mtu"] == 1400
            assert link["txqlen"] == 1000
            assert {"UP", "LOWER_UP", "POINTOPOINT"} <= set(link["flags"])
            addresses = {f"{a['local']}/{a['prefixlen']}": a for a in link["addr_info"]}
            assert set(addresses) == {PLANE, PLANE6}
            assert addresses[PLANE6]["nodad"] is True
            assert "tentative" not in addresses[PLANE6]
            routes = ip("route show dev veilnet") + ip("-6 route show dev veilnet")
            assert {route["dst"] for route in routes} == {
                "10.128.0.0/16", "192.0.2.0/24", "fd00:77::/64", "2001:db8::/32",
            }  # fmt: skip
            device.close()

        asyncio.run(main())

    def test_interface_sends_no_ipv6_of_its_own(self) -> None:
        async def main() -> None:
            device = await open_tun(config(PLANE))
            [link] = ip("-details link show dev veilnet")
            # Router solicitations (RFC 4861 §6.3.7) need a link-local address as their source.
            assert link["inet6_addr_gen_mode"] == "none"
            [link] = ip("address show dev veilnet")
            assert [a["family"] for a in link["addr_info"]] == ["inet"]
            device.close()

        asyncio.run(main())

    def test_single_addresses_bring_no_network(self) -> None:
        async def main() -> None:
            device = await open_tun(config("10.128.0.7/32", "fd00:77::7/128"))
            assert ip("route show dev veilnet") == []
            device.close()

        asyncio.run(main())

    def test_route_that_an_address_brings_may_be_named_again(self) -> None:
        async def main() -> None:
            device = await open_tun(config(PLANE, routes=["10.128.0.0/16"]))
            assert [route["dst"] for route in ip("route show dev veilnet")] == ["10.128.0.0/16"]
            device.close()

        asyncio.run(main())

    def test_default_routes_are_routes_like_others(self) -> None:
        async def main() -> None:
            device = await open_tun(config(PLANE, PLANE6, routes=["0.0.0.0/0", "::/0"]))
            assert "default" in {route["dst"] for route in ip("route show dev veilnet")}
            assert "default" in {route["dst"] for route in ip("-6 route show dev veilnet")}
            device.close()

        asyncio.run(main())

    def test_kernel_numbers_the_name_on_request(self) -> None:
        async def main() -> None:
            first = await open_tun(config(name="veil%d"))
            second = await open_tun(config(name="veil%d"))
            assert (first.name, second.name) == ("veil0", "veil1")
            assert {"veil0", "veil1"} <= links()
            first.close()
            second.close()

        asyncio.run(main())

    def test_wider_or_narrower_network_elsewhere_is_no_collision(self) -> None:
        make_links("lan", "far")
        ip("address add 172.16.0.1/24 dev lan")
        ip("route add 10.0.0.0/8 dev lan")
        ip("route add 10.128.9.0/24 dev lan")

        async def main() -> None:
            (await open_tun(config(PLANE))).close()

        asyncio.run(main())

    def test_closed_interface_is_gone_with_its_routes(self) -> None:
        before = configured()

        async def main() -> None:
            device = await open_tun(config(PLANE, PLANE6, routes=["192.0.2.0/24"]))
            assert configured() != before
            device.close()
            device.close()

        asyncio.run(main())
        assert configured() == before

    def test_same_name_opens_again_after_close(self) -> None:
        async def main() -> None:
            for _ in range(3):
                (await open_tun(config(PLANE))).close()

        asyncio.run(main())

    def test_interface_dies_with_its_process(self) -> None:
        script = (
            "import asyncio, sys\n"
            "from ipaddress import ip_interface\n"
            "from conflux.api import TunConfig\n"
            "from conflux_tun_linux.device import LinuxTunDriver\n"
            f"config = TunConfig(name='veilnet', addresses=[ip_interface({PLANE!r})])\n"
            "device = asyncio.run(LinuxTunDriver({}).open(config))\n"
            "print('open', flush=True)\n"
            "sys.stdin.read()\n"
        )
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            assert "veilnet" in links()
            process.kill()
            process.wait()
            assert "veilnet" not in links()

    def test_cancelled_opening_leaves_nothing(self) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(open_tun(config(PLANE)))
                while "veilnet" not in links():
                    assert not task.done()
                    await asyncio.sleep(0)
                task.cancel()
            assert task.cancelled()

        asyncio.run(main())
        assert "veilnet" not in links()


@pytest.mark.lab
class TestRefusing:
    def test_name_of_a_running_device(self) -> None:
        async def main() -> None:
            device = await open_tun(config(PLANE))
            with pytest.raises(Unavailable) as caught:
                await open_tun(config("10.129.0.7/16"))
            assert str(caught.value) == (
                "interface veilnet is in use: choose another name with --tun-name, or stop what "
                "uses it (`ip -details link show veilnet`)"
            )
            assert "veilnet" in links()
            device.close()

        asyncio.run(main())

    @pytest.mark.parametrize(
        "taken",
        ["tuntap add dev veilnet mode tun", "link add name veilnet type veth peer name other"],
        ids=["idle persistent TUN", "interface of another kind"],
    )
    def test_name_of_somebody_elses_interface(self, taken: str) -> None:
        ip(taken)
        assert "choose another name with --tun-name" in refuse(config(PLANE))

    @pytest.mark.parametrize("address", [PLANE, PLANE6, "10.128.0.7/32"])
    def test_address_in_use_elsewhere(self, address: str) -> None:
        make_links("lan", "far")
        ip(f"address add {PLANE} dev lan")
        ip(f"address add {PLANE6} dev lan nodad")
        line = refuse(config(address))
        assert line.startswith(f"address {ip_interface(address).ip} is in use on lan: ")
        assert "--cidr" in line

    @pytest.mark.parametrize(
        "network", ["10.128.0.0/16", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0"]
    )
    @pytest.mark.parametrize(
        ("way", "where"),
        [
            ("dev lan", "lan"),
            ("dev lan metric 4000", "lan"),
            ("nexthop via {} nexthop via {}", "lan, far"),
        ],
        ids=["one way", "lower priority", "two ways"],
    )
    def test_network_routed_elsewhere(self, network: str, way: str, where: str) -> None:
        make_links("lan", "far")
        hops = []
        for number, device in enumerate(["lan", "far"]):
            ip(f"address add 172.16.{number}.1/24 dev {device}")
            ip(f"address add fd00:{number}::1/64 dev {device} nodad")
            hops.append(f"fd00:{number}::2" if ":" in network else f"172.16.{number}.2")
        way = way.format(*hops)
        ip(f"route add {network} {way}")
        line = refuse(config(PLANE, routes=["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0"]))
        assert line == (
            f"network {network} is routed to {where} already: remove that route "
            f"(`ip route del {network}`) or choose another plane"
        )

    @pytest.mark.parametrize("network", ["10.128.0.0/16", "2001:db8::/32"])
    def test_network_routed_nowhere(self, network: str) -> None:
        ip(f"route add blackhole {network}")
        assert "already" in refuse(config(PLANE, routes=["2001:db8::/32"]))

    def test_ipv6_where_it_is_disabled(self) -> None:
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        assert "disable_ipv6" in refuse(config(PLANE, PLANE6))

        async def main() -> None:
            (await open_tun(config(PLANE))).close()

        asyncio.run(main())

    def test_process_without_the_right(self) -> None:
        script = (
            "import asyncio\n"
            "from conflux.api import TunConfig, Unavailable\n"
            "from conflux_tun_linux import plugin\n"
            "from conflux_tun_linux.device import LinuxTunDriver\n"
            "config = TunConfig(name='veilnet', addresses=[])\n"
            "for act in plugin.probe, lambda: asyncio.run(LinuxTunDriver({}).open(config)):\n"
            "    try: act()\n"
            "    except Unavailable as error: print(error)\n"
        )
        lacking = ["setpriv", "--bounding-set", "-net_admin"]
        run = subprocess.run(
            [*lacking, sys.executable, "-c", script], check=True, capture_output=True, text=True
        )
        assert run.stdout.splitlines() == 2 * [
            "no right to make network interfaces: run as root or grant CAP_NET_ADMIN"
        ]
        assert "veilnet" not in links()

    def test_device_node_that_this_user_may_not_open(self, tmp_path: Path) -> None:
        node = tmp_path / "tun"
        node.touch(mode=0)
        script = (
            "import sys\n"
            "from pathlib import Path\n"
            "from conflux.api import Unavailable\n"
            "from conflux_tun_linux.plugin import open_tun\n"
            "try: open_tun(Path(sys.argv[1]))\n"
            "except Unavailable as error: print(error)\n"
        )
        lacking = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        run = subprocess.run(
            [*lacking, sys.executable, "-c", script, str(node)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "not writable: run as root" in run.stdout

    def test_probe_passes_where_interfaces_can_be_made(self) -> None:
        plugin.probe()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 16,
        "ü" * 8,
        "a b",
        "a\tb",
        "a/b",
        "a:b",
        ".",
        "..",
        "50%",
        "a%d%d",
        "a\0b",
        "\udc80",
    ],
)
def test_name_that_no_kernel_takes_is_refused(name: str) -> None:
    with pytest.raises(Unavailable, match=r"no interface name: choose 1 to 15 bytes .*--tun-name"):
        asyncio.run(open_tun(config(name=name)))


@pytest.mark.parametrize(
    ("mtu_bytes", "advice"),
    [(67, "choose 68 to 65535"), (65_536, "choose 68 to 65535"), (1279, "choose at least 1280")],
)
def test_mtu_out_of_range_is_refused(mtu_bytes: int, advice: str) -> None:
    with pytest.raises(Unavailable, match=advice):
        asyncio.run(open_tun(config(PLANE6, mtu_bytes=mtu_bytes)))


@pytest.mark.parametrize("node", ["absent", "."], ids=["missing", "no device"])
def test_device_node_that_does_not_work_is_reported_with_the_cure(
    tmp_path: Path, node: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable, match="modprobe tun"):
        plugin.open_tun(tmp_path / node)
    assert len(os.listdir("/proc/self/fd")) == before


def test_plugin_describes_the_driver() -> None:
    info = plugin.conflux_tun_driver()
    assert (info.name, info.api, info.platforms) == ("linux", API_VERSION, {"linux"})
    assert info.target == f"{LinuxTunDriver.__module__}:{LinuxTunDriver.__qualname__}"


def test_describing_the_driver_imports_nothing_heavy() -> None:
    script = "import sys, conflux_tun_linux.plugin; print('pyroute2' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "False\n"


def test_opening_devices_takes_no_more_of_pyroute2_than_its_smaller_distribution() -> None:
    script = """if True:
        import sys
        import conflux_tun_linux.link, conflux_tun_linux.offload, conflux_tun_linux.companions
        print("pyroute2" in sys.modules, "sqlite3" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "False"]
