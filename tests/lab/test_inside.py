"""IP inside the tunnel, both families, on real devices of different MTU and an IPv6 underlay."""

from __future__ import annotations

import errno
import re
import time

import pytest

pytestmark = pytest.mark.lab

MEGABYTE = 1 << 20
NOBODY = ("10.98.0.77", "fd98::77")

MAXSEG = """
import socket, sys
with socket.create_connection((sys.argv[1], 9000), 10) as connection:
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 20)
except OSError as error:
    print(error.errno)
"""

CHATTER = """
import socket, sys
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
link = socket.if_nametoindex("veilnet")
for n in range(5):
    four.sendto(b"x", ("224.0.0.251", 5353))
    four.sendto(b"x", ("10.98.0.255", 5353))
    six.sendto(b"x", ("ff02::fb", 5353, 0, link))
"""


@pytest.fixture(scope="module")
def pair(overlay):
    """London with jumbo frames and Tokyo without, in a dual-stack plane.

    Their underlay is IPv6: a firewall keeps the two apart on IPv4.
    """
    overlay.start_guardian()
    overlay.admin("plane", "create", "both", "10.98.0.0/24,fd98::/64")
    token = token_for(overlay, "both")
    london, tokyo = overlay.host("london"), overlay.host("tokyo")
    overlay.internet.give_ipv6(london.host, tokyo.host)
    overlay.internet.block(london.host, tokyo.host)
    london.folder.mkdir()
    (london.folder / "conflux.toml").write_text("mtu_bytes = 9000\n")
    london.register(token)
    tokyo.register(token, VEILNET_CONFLUX_CIDR="fd98::f,10.98.0.15")
    return london.ready(), tokyo.ready()


def token_for(overlay, plane: str) -> str:
    return overlay.admin("token", "create", "--user", "alice@example.org", "--plane", plane)


class TestDualStack:
    def test_each_conflux_has_the_addresses_that_it_asked_for_or_the_next_free_ones(self, pair):
        london, tokyo = pair
        assert london.addresses == ["10.98.0.1", "fd98::1"]
        assert tokyo.addresses == ["10.98.0.15", "fd98::f"]
        shown = tokyo.host.run(["ip", "-brief", "address", "show", "veilnet"]).stdout
        assert {"10.98.0.15/24", "fd98::f/64"} <= set(shown.split())
        assert "fe80" not in shown
        assert re.search(r"addresses +10.98.0.15/24, fd98::f/64", tokyo.cli("info").stdout)
        assert "registered tokyo as 10.98.0.15/24, fd98::f/64" in tokyo.log.read_text()

    @pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
    def test_pings_are_answered_both_ways(self, overlay, pair, family):
        london, tokyo = pair
        assert overlay.until(lambda: london.ping(tokyo.addresses[family]), "an answer")
        assert overlay.until(lambda: tokyo.ping(london.addresses[family]), "an answer")
        assert london.paths_to(tokyo)[0] == ["london", "tokyo"]

    def test_the_tether_runs_over_the_ipv6_underlay(self, overlay, pair):
        london, tokyo = pair
        overlay.until(lambda: london.reaches(tokyo), "the path")
        [neighbour] = london.status()["neighbours"]
        assert str(london.host.address6) in neighbour["underlay"]
        assert str(tokyo.host.address6) in neighbour["underlay"]

    @pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
    def test_large_transfers_arrive_whole_both_ways(self, overlay, pair, family):
        for source, target in (pair, pair[::-1]):
            address = source.addresses[family]
            end = overlay.serve_stream(source, 12 * MEGABYTE, address=address)
            got = overlay.fetch_stream(source, target, address=address).wait()
            assert got["bytes"] == 12 * MEGABYTE
            assert got["sha256"] in overlay.sent_digests()
            end()

    def test_a_plane_of_ipv6_alone_works_the_same(self, overlay, pair):
        overlay.admin("plane", "create", "six", "fd99::/64")
        token = token_for(overlay, "six")
        oslo, rome = (overlay.host(name).register(token) for name in ("oslo", "rome"))
        oslo.ready()
        rome.ready()
        assert (oslo.addresses, rome.addresses) in (
            (["fd99::1"], ["fd99::2"]),
            (["fd99::2"], ["fd99::1"]),
        )
        assert overlay.until(lambda: oslo.ping(rome), "an answer")
        assert len(oslo.ping(rome, "-M", "do", "-s", "1452", count=3)) == 3
        end = overlay.serve_stream(rome, 4 * MEGABYTE)
        got = overlay.fetch_stream(rome, oslo).wait()
        assert got["sha256"] in overlay.sent_digests()
        end()


class TestSizes:
    @pytest.mark.parametrize(
        ("family", "headers", "line"),
        [
            (0, 28, r"From 10\.98\.0\.15 icmp_seq=1 Frag needed and DF set \(mtu = 1500\)"),
            (1, 48, r"From fd98::f icmp_seq=1 Packet too big: mtu=1500"),
        ],
        ids=["IPv4", "IPv6"],
    )
    def test_pings_longer_than_the_far_mtu_hear_of_it(self, overlay, pair, family, headers, line):
        london, tokyo = pair
        address = tokyo.addresses[family]
        overlay.until(lambda: london.ping(address), "the path")
        assert "mtu 9000" in london.host.run(["ip", "link", "show", "veilnet"]).stdout
        forget_path_mtu(london)
        assert re.search(line, london.ping_text(address, "-M", "do", "-s", "8000", wait_s=1))
        # The system has learnt it, as from a router, and says so itself from now on.
        again = london.ping_text(address, "-M", "do", "-s", "8000", wait_s=1)
        assert re.search(r"message too long, mtu(=|: )1500", again)
        assert len(london.ping(address, "-M", "do", "-s", str(1500 - headers), count=3)) == 3

    def test_datagrams_without_df_arrive_in_fragments_and_whole(self, overlay, pair):
        london, tokyo = pair
        forget_path_mtu(london)
        before = reassembled(tokyo)
        sizes = (1_472, 1_473, 4_000, 8_972)
        assert asked(overlay, london, tokyo, 0, sizes) == [f"{size} 1" for size in sizes]
        assert reassembled(tokyo) == before + 3

    def test_datagrams_of_ipv6_arrive_once_the_sender_has_heard(self, overlay, pair):
        london, tokyo = pair
        forget_path_mtu(london)
        sizes = (1_452, 8_000, 8_952)
        first, second, third = asked(overlay, london, tokyo, 1, sizes)
        assert (first, third) == ("1452 1", "8952 1")
        assert second == "8000 2", "the first is lost: IPv6 is cut by its source alone"

    @pytest.mark.parametrize(("family", "most"), [(0, 1_460), (1, 1_440)], ids=["IPv4", "IPv6"])
    def test_a_peer_that_announces_too_much_gets_segments_that_fit(
        self, overlay, pair, python, family, most
    ):
        """As a host behind a portal would, whose own link carries more."""
        london, tokyo = pair
        address, back = tokyo.addresses[family], london.addresses[family]
        forget_path_mtu(london)
        route = [back, "dev", "veilnet", "mtu", "9000", "advmss", "8900"]
        tokyo.host.run(["ip", "route", "add", *route])
        end = overlay.serve_stream(tokyo, MEGABYTE, address=address)
        segment = int(london.host.run([*python, MAXSEG, address]).stdout)
        assert most - 20 <= segment <= most
        end()
        tokyo.host.run(["ip", "route", "del", *route])


class TestNobody:
    @pytest.mark.parametrize("address", NOBODY)
    def test_who_talks_to_nobody_hears_so_soon(self, pair, python, address):
        london, _ = pair
        began = time.monotonic()
        assert connecting(london, python, address) == errno.EHOSTUNREACH
        took_s = time.monotonic() - began
        assert took_s < 15, "an Ask takes 5 s; without an error the system tries for two minutes"
        answer = london.ping_text(address, wait_s=7)
        assert re.search("Destination Host Unreachable|Address unreachable", answer)


def connecting(at, python, address: str) -> int:
    return int(at.host.run([*python, CONNECT, address], timeout_s=60).stdout)


class TestChatter:
    def test_multicast_and_broadcast_are_dropped_and_counted(self, pair, python):
        london, tokyo = pair
        before = london.status()["counters"].get("packet_to_nowhere", 0)
        london.host.run([*python, CHATTER, london.address])
        counters = london.status()["counters"]
        assert counters["packet_to_nowhere"] >= before + 15
        assert "packet_destination_not_ours" not in tokyo.status()["counters"]
        assert len(london.status()["neighbours"]) == 1, "nobody was asked for it"


def forget_path_mtu(at) -> None:
    for family in ("-4", "-6"):
        at.host.run(["ip", family, "route", "flush", "cache"])


def reassembled(at) -> int:
    names, values = [
        line.split() for line in at.host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()[:2]
    ]
    return int(values[names.index("ReasmOKs")])


def asked(overlay, source, target, family: int, sizes) -> list[str]:
    address = target.addresses[family]
    server, ready = overlay.program(target.host, "datagrams", "echo", address, 9001)
    overlay.until(lambda: "ready" in ready.read_text(), "the server")
    client, out = overlay.program(source.host, "datagrams", "ask", address, 9001, *sizes)
    client.wait(60)
    server.kill()
    return out.read_text().splitlines()
