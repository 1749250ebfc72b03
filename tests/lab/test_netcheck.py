"""netcheck behind real NATs, routers and links, and beside a running node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conflux import lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("needs_nft")]

PROGRAMS = Path(__file__).parent / "programs"
PORTS = (3_478, 3_479)
FULL_CONE = """
chain into {
  type nat hook prerouting priority dstnat;
  iifname eth0 udp dport >= 1024 dnat to 192.168.7.2
}
"""


class Home:
    """A host behind a router of its own, and a STUN server with two addresses, far away."""

    def __init__(self, internet: lab.Internet) -> None:
        self.internet = internet
        self.router = internet.host("box")
        self.server = internet.host("stun")
        self.inside = internet.world.namespace("home")
        self.other = str(self.server.address + 1)
        for command in (
            "link add lan netns box type veth peer name eth0 netns home",
            "-netns box link set lan addrgenmode none up",
            "-netns box address add 192.168.7.1/24 dev lan",
            "-netns home link set lo up",
            "-netns home link set eth0 addrgenmode none up",
            "-netns home address add 192.168.7.2/24 dev eth0",
            "-netns home route add default via 192.168.7.1",
            f"-netns stun address add {self.other}/24 dev eth0",
        ):
            internet.world.run(["ip", *command.split()])
        self.router.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])

    def translate(self, *, how: str = "", into: str = "", forward: str = "") -> None:
        """Switch the router's NAT on; what is not asked for is dropped, unless *forward* says."""
        self.nft(
            self.router,
            f"""
            table ip nat {{
              {into}
              chain out {{
                type nat hook postrouting priority srcnat;
                oifname eth0 masquerade {how}
              }}
            }}
            table ip filter {{
              chain forward {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname lan accept
                {forward}
              }}
            }}
            """,
        )

    def drops(self, what: str) -> None:
        """Have the router drop what it should forward."""
        chain = f"type filter hook forward priority -1\n{what} drop"
        self.nft(self.router, f"table ip wall {{\nchain forward {{\n{chain}\n}}\n}}")

    @staticmethod
    def nft(place: lab.Place, rules: str) -> None:
        place.run(["nft", "-f", "-"], input=rules)

    def serve(self, *, alternate: bool) -> str:
        """Start the STUN server; return its name for --stun."""
        first, second = PORTS
        extra = [self.other, str(second)] if alternate else []
        self._start(self.server, "stun_server", str(self.server.address), str(first), *extra)
        return f"{self.server.address}:{first}"

    def maps(self, *ways: str) -> None:
        """Have the router speak these ways."""
        self._start(self.router, "mapping_router", "192.168.7.1", *ways)

    def _start(self, place: lab.Place, name: str, *words: str) -> None:
        program = place.popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *words], stdout=subprocess.PIPE
        )
        assert program.stdout.readline() == "ready\n"

    def netcheck(self, *stun: str) -> dict[str, tuple[str, str]]:
        """Run it inside; return verdict and text by check."""
        words = [word for name in stun for word in ("--stun", name)]
        done = self.inside.run(
            [sys.executable, "-m", "conflux", "netcheck", "--json", *words,
             "--config-dir", "/nonexistent/veilnet"],
            env={"VEILNET_GUARDIAN": f"http://{self.internet.address}:1"}, check=False,
            timeout_s=60,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr  # no Guardian here
        found = json.loads(done.stdout)
        return {each["check"]: (each["verdict"], each["what"]) for each in found}


@pytest.fixture
def home(internet):
    return Home(internet)


def test_nat_that_keeps_the_mapping_is_told_by_one_server_with_an_alternate_address(home):
    home.translate()
    found = home.netcheck(home.serve(alternate=True))
    server = f"{home.server.address}:{PORTS[0]}"
    assert found["udp"][0] == "ok"
    assert found["udp"][1].startswith(f"{server} sees us as {home.router.address}:")
    assert found["nat"] == (
        "ok", "endpoint-independent mapping: direct tethers work with most peers",
    )  # fmt: skip
    assert found["filtering"] == (
        "ok", "by address and port: only who we sent to may answer",
    )  # fmt: skip
    assert found["guardian"][0] == "fail"


def test_symmetric_nat_is_told_from_others(home):
    home.translate(how="fully-random")
    found = home.netcheck(home.serve(alternate=True))
    assert found["nat"] == ("warn", "the mapping depends on the destination (a symmetric NAT)")


def test_full_cone_lets_anybody_in(home):
    home.translate(into=FULL_CONE, forward="iifname eth0 udp dport >= 1024 accept")
    found = home.netcheck(home.serve(alternate=True))
    assert found["filtering"] == ("ok", "none: anybody can send to the mapped address")


def test_one_plain_server_cannot_tell_of_what_kind_the_nat_is(home):
    home.translate()
    found = home.netcheck(home.serve(alternate=False))
    assert found["nat"] == ("?", "there is one; one server alone cannot tell of what kind")
    assert "filtering" not in found


def test_two_plain_servers_tell_the_mapping(home):
    home.translate(how="fully-random")
    first = home.serve(alternate=False)
    home._start(home.server, "stun_server", home.other, str(PORTS[0]))
    found = home.netcheck(first, f"stun:{home.other}:{PORTS[0]}")
    assert found["nat"] == ("warn", "the mapping depends on the destination (a symmetric NAT)")


def test_no_nat_is_told_and_a_firewall_that_eats_udp_too(home):
    home.internet.world.run(
        ["ip", "route", "add", "192.168.7.0/24", "via", str(home.router.address)]
    )
    name = home.serve(alternate=True)
    assert home.netcheck(name)["nat"] == ("ok", "none: our own address is what others see")
    home.drops("meta l4proto udp")
    assert home.netcheck(name)["udp"] == ("fail", f"no answer from {name}")


def test_router_that_maps_ports_is_found_by_each_of_its_ways(home):
    home.maps("pcp", "pmp", "upnp")
    text = "the router 192.168.7.1 speaks PCP, NAT-PMP, UPnP"
    assert home.netcheck()["port mapping"] == ("ok", text)


def test_router_that_maps_nothing_is_a_warning(home):
    text = "the router 192.168.7.1 speaks neither PCP nor NAT-PMP nor UPnP"
    assert home.netcheck()["port mapping"] == ("warn", text)


def test_small_link_is_measured_and_a_black_hole_is_found(home):
    home.translate()
    name = home.serve(alternate=False)
    assert home.netcheck(name)["mtu"] == ("ok", "1500 bytes get through")
    home.internet.world.run(["ip", "link", "set", "dev", "stun", "mtu", "1400"])
    assert home.netcheck(name)["mtu"] == ("ok", "1400 bytes get through")
    home.drops("ip protocol icmp")
    home.inside.run(["ip", "route", "flush", "cache"])
    assert home.netcheck(name)["mtu"] == (
        "warn", "1400 bytes get through, larger ones vanish without a word: a black hole",
    )  # fmt: skip


@pytest.fixture(scope="module")
def london(overlay):
    overlay.start_guardian()
    return overlay.conflux("london").ready()


class TestBesideANode:
    def test_guardian_and_master_are_found_by_what_the_node_was_told(self, overlay, london):
        done = london.cli("netcheck", "--json", check=False)
        found = {each["check"]: each for each in json.loads(done.stdout)}
        assert found["guardian"]["verdict"] == "ok"
        assert "HTTP/1.1, without TLS" in found["guardian"]["what"]
        assert found["clock"]["verdict"] == "ok"
        assert found["master"]["verdict"] == "ok"
        assert "is there: NATS 2." in found["master"]["what"]
        assert done.returncode == 0

    def test_doctor_finds_nothing_wrong_with_a_machine_that_runs_a_node(self, london):
        done = london.cli("doctor", "--json", check=False)
        found = json.loads(done.stdout)
        assert [each for each in found if each["verdict"] == "fail"] == []
        assert done.returncode == 0
        nodes = [each["what"] for each in found if each["check"] == "other nodes"]
        assert nodes == [f"a node runs at {london.folder}/api.sock"]

    def test_master_that_is_gone_is_said_to_be(self, overlay, london):
        overlay.kill_guardian()
        overlay.until(lambda: not london.status()["master"]["connected"], "the loss to be noticed")
        done = london.cli("netcheck", "--json", check=False)
        found = [e for e in json.loads(done.stdout) if e["check"] in ("guardian", "master")]
        assert {each["verdict"] for each in found} == {"fail"}
        assert done.returncode == 1
        text = london.cli("status").stdout
        assert "the Master is gone" in text
