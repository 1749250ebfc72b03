"""Two hosts that reach each other: the direct path, what crosses it, and what must not be there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PLANE = ip_network("10.99.0.0/24")
MEGABYTE = 1 << 20

UDP_ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 9001))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(65535)
    server.sendto(data, peer)
"""

UDP_ASK = """
import os, socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 9001))
client.settimeout(5)
for size in (0, 1, 100, 1472):
    data = os.urandom(size)
    client.send(data)
    assert client.recv(65535) == data, size
print("whole")
"""


def locked_kb(process):
    """How much memory of a program in the lab is locked, its mappings as a whole."""
    status = Path(f"/proc/{process.program}/status").read_text()
    return int(re.search(r"VmLck:\s+(\d+) kB", status)[1])


@pytest.fixture(scope="module")
def pair(overlay):
    """London and Tokyo, running, with nothing between them but a router."""
    overlay.start_guardian()
    london, tokyo = overlay.conflux("london"), overlay.conflux("tokyo")
    return london.ready(), tokyo.ready()


class TestTraffic:
    def test_first_packet_is_answered_over_the_direct_path(self, pair):
        london, tokyo = pair
        [first_ms] = london.ping(tokyo)
        assert first_ms < 5000, f"the first answer took {first_ms:.0f} ms"
        [back_ms] = tokyo.ping(london)
        assert back_ms < 5000, f"the first answer the other way took {back_ms:.0f} ms"
        assert london.paths_to(tokyo)[0] == ["london", "tokyo"]
        assert tokyo.paths_to(london)[0] == ["tokyo", "london"]

    def test_ping_verb_names_the_path_of_each_answer(self, pair):
        london, tokyo = pair
        found = json.loads(
            london.cli("ping", tokyo.address, "-c", "2", "-i", "0.1", "--json").stdout
        )
        assert (found["sent"], found["answered"]) == (2, 2)
        for answer in found["answers"]:
            assert 0 < answer["rtt_ms"] < 5000
            assert answer["path"] == [london.node_id, tokyo.node_id]
            assert answer["tether"] == london.status()["peers"][0]["tether"]
        by_node = london.cli("ping", tokyo.node_id[:8], "-c", "1").stdout
        assert re.search(rf"{tokyo.address}: [\d.]+ ms, direct, \w+\n1 asked, 1 answered", by_node)

    def test_ping_verb_says_who_does_not_answer_and_what_is_no_host(self, pair):
        london, _ = pair
        done = london.cli("ping", "10.99.0.250", "-c", "1", "-W", "0.5", check=False)
        assert done.returncode == 1
        assert "10.99.0.250: no answer within 0.5 s, no streams to it" in done.stdout
        assert "1 asked, 0 answered: offline, or without a team in common" in done.stdout
        done = london.cli("ping", "192.0.2.1", check=False)
        assert done.returncode == 2
        assert "192.0.2.1 is not in the plane of this node (10.99.0.0/24)" in done.stderr

    def test_large_transfers_arrive_whole_in_both_directions(self, overlay, pair):
        for source, target in (pair, pair[::-1]):
            end = overlay.serve_stream(source, 24 * MEGABYTE)
            got = overlay.fetch_stream(source, target).wait()
            assert got["bytes"] == 24 * MEGABYTE
            assert got["sha256"] in overlay.sent_digests()
            end()

    def test_udp_of_every_size_arrives(self, overlay, pair, python):
        london, tokyo = pair
        server = tokyo.host.popen([*python, UDP_ECHO, tokyo.address], stdout=subprocess.PIPE)
        assert server.stdout.readline() == "ready\n"
        assert london.host.run([*python, UDP_ASK, tokyo.address]).stdout == "whole\n"
        server.stop()

    def test_packets_of_the_whole_mtu_pass_unfragmented(self, pair):
        london, tokyo = pair
        assert len(london.ping(tokyo, "-M", "do", "-s", "1472", count=3)) == 3
        link = london.host.run(["ip", "link", "show", "veilnet"]).stdout
        assert "mtu 1500" in link

    def test_status_and_info_have_every_promised_field(self, pair):
        london, tokyo = pair
        info, status = london.info(), london.status()
        assert {"id", "tag", "node_id", "address", "plane", "guardian"} <= info.keys()
        assert (info["tag"], info["plane"]) == ("london", "home")
        assert ip_address(london.address) in PLANE
        assert status.keys() >= {"state", "peers", "packet_auth", "cipher_suite", "plugins"}
        assert status["packet_auth"] == "checkpoint"
        assert status["plugins"].keys() == {
            "tun", "tether", "crypto", "router", "auth", "control"
        }  # fmt: skip
        [peer] = status["peers"]
        assert {"node_id", "address", "path", "tether", "rtt_ms", "loss"} <= peer.keys()
        assert peer["node_id"] == tokyo.node_id
        assert peer["path"] == [london.node_id, tokyo.node_id]
        assert peer["tether"] == "udp"
        assert 0 < peer["rtt_ms"] < 1000

    def test_nodes_and_guardian_dump_no_core_and_lock_their_memory(self, overlay, pair):
        for node in pair:
            found = node.status()["hardening"]
            assert not found["core_dumps"]
            told = node.log.read_text()
            if found["memory_locked"]:
                assert found["missing"] == []
                assert "memory is not locked" not in told
                assert locked_kb(node.process) > 0
            else:
                assert told.count("memory is not locked") == 1
        if locked_kb(pair[0].process):
            assert locked_kb(overlay.guardian) > 0

    def test_commands_print_the_same_for_people(self, pair):
        london, tokyo = pair
        told = london.cli("status").stdout
        assert re.search(rf"{tokyo.address} +direct +rtt", told)
        assert re.search(r"hardening +no core dumps, memory (not )?locked", told)
        assert re.search(rf"address +{london.address}/24", london.cli("info").stdout)


class TestUnderlay:
    def test_overlay_addresses_are_no_candidates(self, pair):
        for node in pair:
            neighbours = node.status()["neighbours"]
            assert neighbours
            for neighbour in neighbours:
                found = re.findall(r"\d+\.\d+\.\d+\.\d+", neighbour["underlay"])
                assert found, neighbour
                assert not [a for a in found if ip_address(a) in PLANE], neighbour

    def test_no_socket_of_a_node_is_bound_to_an_overlay_address(self, pair):
        for node in pair:
            table = node.host.run(["cat", "/proc/net/udp"]).stdout.splitlines()[1:]
            bound = {bytes.fromhex(line.split()[1].partition(":")[0])[::-1] for line in table}
            assert bound, "the node has a UDP socket"
            assert not [a for a in bound if ip_address(a) in PLANE]


class TestRestarts:
    def test_killed_peer_is_reached_again_after_its_restart(self, overlay, pair):
        london, tokyo = pair
        overlay.until(lambda: london.reaches(tokyo), "the path before")
        tokyo.kill()
        tokyo.run().ready()
        overlay.until(lambda: london.reaches(tokyo), "london to find tokyo anew", within_s=20)
        overlay.until(lambda: tokyo.reaches(london), "tokyo to find london anew", within_s=20)

    def test_node_that_is_told_to_end_leaves_nothing(self, overlay, pair):
        london, tokyo = pair
        overlay.until(lambda: tokyo.reaches(london), "the path before")
        assert (london.folder / "api.sock").is_socket()
        before = (london.folder / "conflux.json").read_bytes()
        for sig in (signal.SIGTERM, signal.SIGINT):
            london.process.send_signal(sig)
            assert london.process.wait(15) == 0
            links = london.host.run(["ip", "-brief", "link"]).stdout
            assert "veilnet" not in links
            assert not (london.folder / "api.sock").exists()
            assert sorted(os.listdir(london.folder)) == ["conflux.json"]
            assert overlay.internet.world.run(["ip", "netns", "pids", "london"]).stdout == ""
            assert "Traceback" not in Path(london.log).read_text()
            london.run().ready()
        assert (london.folder / "conflux.json").read_bytes() == before
        overlay.until(lambda: london.reaches(tokyo), "london to come back", within_s=20)

    def test_down_takes_down_what_up_began(self, overlay, pair):
        london, _ = pair
        token = overlay.admin(
            "conflux", "create", "--user", "alice@example.org", "--plane", "home", "--tag", "oslo"
        )
        oslo = overlay.host("oslo")
        url = f"http://{overlay.internet.address}:8000"
        oslo.start("up", "-d", "-g", url, VEILNET_CONFLUX_TOKEN=token).ready()
        overlay.until(lambda: oslo.reaches(london), "oslo to reach london")
        assert (oslo.folder / "up.json").stat().st_mode & 0o777 == 0o600
        assert oslo.folder.stat().st_mode & 0o777 == 0o700
        assert oslo.cli("down").stdout == "down\n"
        assert oslo.process.wait(5) == 0
        assert not (oslo.folder / "up.json").exists()
