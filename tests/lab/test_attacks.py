"""A live system under attack: what is noise is counted and dropped, and nobody in between reads.

A tap stands between all nodes and the Master, as whoever runs the Master could place it.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import sqlite3
import subprocess
import uuid
from collections import Counter
from ipaddress import ip_address

import pytest

from conflux.runtime import localapi

pytestmark = pytest.mark.lab

TEAM = "xylophone-quartet"
MARKER = b"MARKER-0d6f2c-MARKER"
FLOOD = 3000
JWT = re.compile(rb"(eyJ[\w-]{16,})\.([\w-]{16,})\.[\w-]{16,}")
"""Header, claims and signature of RFC 7519: sealed bytes beside it never look like one."""

SEND_MARKER = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.sendto(sys.argv[2].encode(), (sys.argv[1], 9))
"""

FLOOD_UDP = """
import random, socket, sys
chance = random.Random(3)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
count, host, ports = int(sys.argv[1]), sys.argv[2], [int(port) for port in sys.argv[3:]]
# STUN, DTLS and SCTP have their first bytes (RFC 7983 section 7).
first = [b"", b"\\0\\1", b"\\x16\\xfe\\xfd", b"\\x17\\xfe\\xfd", b"\\x80"]
for number in range(count):
    noise = chance.choice(first) + chance.randbytes(chance.choice([0, 1, 20, 100, 1400]))
    client.sendto(noise, (host, ports[number % len(ports)]))
print(count)
"""


@pytest.fixture(scope="module")
def tap(overlay):
    """The tap on the Master: its process, and the file of all that nodes send."""
    record = overlay.folder / "tapped"
    address = str(overlay.internet.address)
    overlay.start_guardian("--public-master-url", f"nats://{address}:4333")
    process, out = overlay.program(
        overlay.internet.world,
        "nats_tap",
        *(address, 4333, address, 4222, record),
        stdin=subprocess.PIPE,
    )
    overlay.until(lambda: "ready" in out.read_text(), "the tap")
    return process, out, record


@pytest.fixture(scope="module")
def reader(overlay, tap):
    """The files of all that the Master carries, and of what it tells its owner."""
    records = overlay.folder / "read", overlay.folder / "read of the system"
    url = f"nats://{overlay.internet.address}:4222"
    _, out = overlay.program(
        overlay.internet.world, "nats_reader", overlay.data, url, *records, stdin=subprocess.DEVNULL
    )
    overlay.until(lambda: "ready" in out.read_text(), "the reader")
    return records


@pytest.fixture(scope="module")
def pair(overlay, tap, reader, python):
    """London and Tokyo of two users with a team in common, who have talked."""
    london, tokyo = overlay.conflux("london", "alice"), overlay.conflux("tokyo", "bob")
    london.ready()
    tokyo.ready()
    overlay.admin("team", "create", TEAM, "--owner", "alice@example.org")
    for conflux in (london, tokyo):
        overlay.admin("team", "attach", TEAM, conflux.name)
    for source, target in ((london, tokyo), (tokyo, london)):
        source.host.run([*python, SEND_MARKER, target.address, MARKER.decode()])
        overlay.until(lambda s=source, t=target: s.reaches(t), "the team to take effect")
    return london, tokyo


class Watch:
    """What a node counted and logged since the watch began."""

    def __init__(self, conflux):
        self.conflux = conflux
        self.counters = conflux.status()["counters"]
        self.lines = self.log_lines()

    def log_lines(self):
        return self.conflux.log.read_text().count("\n")

    def fresh(self):
        """What was counted since."""
        return Counter(self.conflux.status()["counters"]) - Counter(self.counters)

    def counted(self):
        return self.fresh().total()

    def logged(self):
        return self.log_lines() - self.lines


def secrets_of(overlay, pair):
    """What the two must not show, by name: as text and as it stands in messages."""
    secrets = {"team": TEAM.encode(), "marker": MARKER, "plane": b'"home"'}
    secrets |= {word: word.encode() for word in ("candidate", "ufrag", "fingerprint", "sctp")}
    for conflux in pair:
        info = conflux.info()
        secrets |= {
            f"{conflux.name} tag": conflux.name.encode(),
            f"{conflux.name} overlay": conflux.address.encode(),
            f"{conflux.name} overlay packed": ip_address(conflux.address).packed,
            f"{conflux.name} node id": bytes.fromhex(info["node_id"]),
            f"{conflux.name} node id in hex": info["node_id"].encode(),
            f"{conflux.name} id": info["id"].encode(),
            f"{conflux.name} id packed": uuid.UUID(info["id"]).bytes,
        }
    with sqlite3.connect(f"file:{overlay.data / 'guardian.db'}?mode=ro", uri=True) as db:
        certificates = [row[0] for row in db.execute("select encoded from certificates")]
        keys = [row[0] for row in db.execute("select key from teams union select key from planes")]
        names = [row[0] for row in db.execute("select id from teams union select id from planes")]
    db.close()
    assert len(certificates) >= 2
    assert len(keys) > 3, "the team's, two users', the plane's own"
    for number, certificate in enumerate(certificates):
        for at in range(0, len(certificate) - 32, 32):
            secrets[f"certificate {number} at {at}"] = certificate[at : at + 32]
    for number, key in enumerate(keys):
        secrets |= {f"key {number}": key, f"key {number} in hex": key.hex().encode()}
    for name in names:
        secrets |= {f"id {name}": str(name).encode(), f"id {name} packed": uuid.UUID(name).bytes}
    return secrets


def underlay_of(pair):
    return {f"{conflux.name} underlay": str(conflux.host.address).encode() for conflux in pair}


def decoded(record):
    """All of it, and what its JWTs say: they are base64."""
    for part in itertools.chain.from_iterable(JWT.findall(record)):
        record += base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    return record


def test_nobody_who_runs_the_master_learns_who_talks_or_what(overlay, tap, pair):
    _, _, record = tap
    tapped = record.read_bytes()
    assert tapped.count(b"PUB v1.") >= 3, "Ask, Answer and Open went this way"
    assert max(map(len, tapped.split(b"PUB v1."))) > 8000, "and whole"
    tapped = decoded(tapped)
    assert b'"pub"' in tapped, "permissions are in there"
    secrets = secrets_of(overlay, pair) | underlay_of(pair)
    assert [name for name, value in secrets.items() if value in tapped] == []


def test_reading_all_of_nats_with_the_masters_own_privileges_finds_nothing(overlay, reader, pair):
    """Grants that Guardian pushes included; beside it what the server tells of its connections."""
    carried, system = (decoded(record.read_bytes()) for record in reader)
    zeros = b"0" * 32
    subjects = [line for line in carried.split(b"\n") if line.startswith(b"v1.")]
    assert len(subjects) >= 5
    assert any(subject.endswith(b"." + zeros) for subject in subjects), "Guardian's grants, too"
    secrets = secrets_of(overlay, pair)
    found = {name for name, value in (secrets | underlay_of(pair)).items() if value in carried}
    assert found == set()
    # Where its clients connect from is what every server knows.
    assert b"$SYS." in system
    assert [name for name, value in secrets.items() if value in system] == []


def test_noise_of_a_rightful_member_is_counted_and_not_logged(overlay, pair):
    london, tokyo = pair
    token = overlay.admin("conflux", "create", "--user", "bob@example.org", "--plane", "home")
    mallory = overlay.internet.host("mallory")
    watch = Watch(london)
    server = f"http://{overlay.internet.address}:8000"
    environment = {"TOKEN": token, "HOME": str(overlay.folder)}
    process, out = overlay.program(mallory, "member", server, london.address, env=environment)
    overlay.until(lambda: process.poll() is not None, "the member to be done")
    assert process.returncode == 0, out.read_text()
    sent = int(out.read_text().split()[-1])
    # Half of it went to any relay, which may be another node.
    overlay.until(lambda: watch.counted() > sent / 3, "the noise to be counted", within_s=15)
    assert watch.logged() == 0
    assert london.reaches(tokyo)
    assert len(london.status()["peers"]) == 1


def test_noise_at_the_udp_ports_changes_nothing(overlay, pair, python):
    london, tokyo = pair
    ports = udp_ports(london)
    assert ports
    watch = Watch(london)
    flood = [*python, FLOOD_UDP, str(FLOOD), str(london.host.address), *map(str, ports)]
    assert overlay.internet.world.run(flood).stdout == f"{FLOOD}\n"
    assert london.reaches(tokyo)
    assert tokyo.reaches(london)
    assert udp_ports(london) == ports, "no tether was lost"
    assert watch.logged() == 0


def udp_ports(conflux):
    table = conflux.host.run(["cat", "/proc/net/udp", "/proc/net/udp6"]).stdout.splitlines()
    local = [line.split()[1] for line in table if not line.lstrip().startswith("sl")]
    return sorted({int(address.rpartition(":")[2], 16) for address in local})


def test_noise_at_the_api_socket_changes_nothing(pair):
    london, tokyo = pair
    watch = Watch(london)
    for noise in (b"", b"\n", b"[" * 50_000 + b"\n", os.urandom(10_000), b'{"verb": []}\n'):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(london.folder / "api.sock"))
                try:
                    client.sendall(noise)
                except ConnectionError:
                    continue
    assert localapi.call(london.folder / "api.sock", "status")["state"] == "running"
    assert watch.logged() == 0, london.log.read_text()
    assert london.reaches(tokyo)


def test_replayed_control_messages_are_counted_and_change_nothing(overlay, tap, pair):
    process, out, _ = tap
    london, tokyo = pair
    watches = [Watch(conflux) for conflux in pair]
    peers = [conflux.status()["peers"][0]["node_id"] for conflux in pair]

    def replayed():
        print("replay", file=process.stdin, flush=True)
        assert london.reaches(tokyo)
        counted = sum((watch.fresh() for watch in watches), Counter())
        return {
            "control: Ask seen before",
            "answer_unexpected",
            "open_unexpected",
        } <= counted.keys()

    # A replay within some seconds gets the very answer of the first time, as a repeat does.
    overlay.until(replayed, "the replays to be counted", within_s=20)
    assert min(int(number) for number in out.read_text().split()[1:]) >= 3
    assert [watch.logged() for watch in watches] == [0, 0]
    assert [conflux.status()["peers"][0]["node_id"] for conflux in pair] == peers
    assert tokyo.reaches(london)
