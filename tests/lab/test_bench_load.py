"""The load generator of `make bench` counts what is right, and notices what is not."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conflux import lab

SOURCE = Path(__file__).resolve().parents[2] / "benches/compare/load.c"
PERIOD = 131_071
STRIDE = 13
SIZE = 64
MASK = 2**64 - 1

SEND = """
import socket, sys
kind, port, *messages = sys.stdin.read().split()
where = ("127.0.0.1", int(port))
with socket.socket(socket.AF_INET, getattr(socket, kind)) as sock:
    sock.connect(where)
    for message in messages:
        sock.send(bytes.fromhex(message))
    if kind == "SOCK_STREAM":
        sock.shutdown(socket.SHUT_WR)
        sys.stdout.write(sock.recv(16, socket.MSG_WAITALL).hex())
"""

pytestmark = pytest.mark.lab


def make_pattern() -> bytes:
    """What both ends know, by load.c's own words: the upper half of xorshift64, byte by byte."""
    x, known = 0x9E3779B97F4A7C15, bytearray()
    for _ in range(PERIOD):
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
        known.append(x >> 32 & 0xFF)
    return bytes(known)


PATTERN = make_pattern()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> str:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler: apt install gcc libc6-dev")
    made = tmp_path_factory.mktemp("load") / "load"
    strict = ["-Wall", "-Wextra", "-Werror", "-std=gnu11", "-O2", "-pthread"]
    subprocess.run([compiler, *strict, "-o", str(made), str(SOURCE)], check=True)
    return str(made)


@pytest.fixture
def take(world: lab.World, load: str, tmp_path: Path) -> Callable[..., Callable[[], Any]]:
    """Start a receiver; return what waits for its end and for what it counted."""

    def start(*words: object) -> Callable[[], Any]:
        out = tmp_path / "out"
        with out.open("w") as file:
            process = world.popen([load, *map(str, words)], stdout=file, stderr=file)
        lab.until(lambda: "ready" in out.read_text(), what="the receiver")

        def wait() -> Any:
            assert process.wait(20) == 0, out.read_text()
            return json.loads(out.read_text().splitlines()[-1])

        return wait

    return start


def send(world: lab.World, kind: str, port: int, *messages: bytes) -> bytes:
    words = [kind, str(port), *(message.hex() for message in messages)]
    done = world.run([sys.executable, "-c", SEND], input="\n".join(words))
    return bytes.fromhex(done.stdout)


def datagram(number: int) -> bytes:
    start = number * STRIDE % PERIOD
    return struct.pack("=Q", number) + (PATTERN * 2)[start : start + SIZE - 8]


def test_streams_are_counted_to_the_byte_by_both_ends(world, load, take):
    counted = take("tcp-take", "127.0.0.1", 9001, 3, 0.05, 0.1)
    sent = json.loads(world.run([load, "tcp-give", "127.0.0.1", "9001", "3", "0.3"]).stdout)
    received = counted()
    assert sent["bytes"] == received["bytes"] > 3 * PERIOD
    assert sent["wrong"] == received["wrong"] == 0
    assert 0 < received["window_bytes"] < received["bytes"]


@pytest.mark.parametrize("fault", ["none", "changed", "lost", "doubled"])
def test_a_stream_that_is_not_what_was_sent_is_wrong(world, take, fault):
    stream = PATTERN[:3000]
    broken = {
        "none": stream,
        "changed": stream[:1000] + bytes([stream[1000] ^ 1]) + stream[1001:],
        "lost": stream[:1000] + stream[1001:],
        "doubled": stream[:1000] + stream[999:],
    }[fault]
    counted = take("tcp-take", "127.0.0.1", 9001, 1, 0, 0)
    told = send(world, "SOCK_STREAM", 9001, broken)
    received = counted()
    assert received["bytes"] == len(broken)
    assert bool(received["wrong"]) is (fault != "none")
    assert struct.unpack("=QQ", told) == (received["bytes"], received["wrong"])


def test_each_datagram_counts_once_and_only_if_all_of_it_is_right(world, take):
    changed = bytearray(datagram(9))
    changed[-1] ^= 1
    counted = take("udp-take", "127.0.0.1", 9001, SIZE)
    sent = [datagram(0), datagram(70_000), datagram(2), datagram(2), bytes(changed)]
    send(world, "SOCK_DGRAM", 9001, *sent, datagram(5)[:-1], datagram(3) + b"x")
    received = counted()
    assert received["delivered"] == 3
    assert received["doubled"] == 1
    assert received["wrong"] == 3
    assert received["late"] == 1


def test_datagrams_are_delivered_as_they_were_sent(world, load, take):
    counted = take("udp-take", "127.0.0.1", 9001, 1_200)
    world.run([load, "udp-give", "127.0.0.1", "9001", "1200", "0.05"])
    received = counted()
    assert received["delivered"] > 0
    assert received["wrong"] == received["doubled"] == 0


def test_echoes_are_answered_and_timed(world, load):
    heard = json.loads(world.run([load, "echo", "127.0.0.1", "50", "0", "5"]).stdout)
    assert (heard["sent"], heard["lost"]) == (50, 0)
    assert 0 < heard["p50_us"] <= heard["p99_us"]


def test_the_first_answer_is_timed_from_the_first_packet_which_may_be_lost(world, load):
    wall = "table ip wall { chain in { type filter hook input priority 0; counter drop; }; }"
    world.run(["nft", "-f", "-"], input=wall)
    process = world.popen([load, "cold", "127.0.0.1", "10", "10"], stdout=subprocess.PIPE)

    def dropped() -> int:
        rules = world.run(["nft", "list", "table", "ip", "wall"]).stdout
        return int(rules.partition("packets ")[2].split()[0])

    lab.until(lambda: dropped() >= 3, what="three packets")
    world.run(["nft", "flush", "table", "ip", "wall"])
    out, _ = process.communicate(timeout=20)
    heard = json.loads(out)
    assert heard["sent"] > heard["lost"] >= 3
    assert heard["first_ms"] >= (heard["sent"] - 1) * 10


def test_no_answer_at_all_is_a_failure(world, load):
    done = world.run([load, "cold", "127.0.0.1", "10", "0"], check=False)
    assert done.returncode == 1
    assert "no answer" in done.stderr
