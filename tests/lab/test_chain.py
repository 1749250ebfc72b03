"""A chain of four relays on real TUN devices, each stage of which dies once under a download.

Each host reaches only the stages beside its own, so London and Tokyo are four relays apart. A stage
has two relays, one of which may be killed. Guardian and Master die and come back meanwhile.
Nobody on the way, on a wire or in a relay's memory, gets to see what the traffic carries.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

MEGABYTE = 1 << 20
SIZE = 240 * MEGABYTE
RATE = 3 * MEGABYTE
"""Of the download, in bytes a second: slow enough for four relays to die under it."""
STAGES = [[f"relay-{stage}{number}" for number in (1, 2)] for stage in "abcd"]
MARKER = "MARKER-77aa01-MARKER"


@pytest.fixture(scope="module")
def chain(overlay):
    """London, the stages of relays, Tokyo: a row of rows, all running."""
    overlay.start_guardian()
    rows = [["london"], *STAGES, ["tokyo"]]
    nodes = [[overlay.host(name) for name in row] for row in rows]
    for (here, row), (there, other) in itertools.combinations(enumerate(nodes), 2):
        for one, another in itertools.product(row, other):
            if there - here > 1:
                overlay.internet.block(one.host, another.host)
    for pair in nodes[1:-1]:
        overlay.internet.block(pair[0].host, pair[1].host)
    for node in itertools.chain.from_iterable(nodes):
        node.register(overlay.tokens["alice"])
    return [[node.ready() for node in row] for row in nodes]


class Wiretap:
    """Sees all that crosses the lab's wires."""

    def __init__(self, overlay):
        self._overlay = overlay
        self._process, self._out = overlay.program(
            overlay.internet.world, "wiretap", MARKER, stdin=subprocess.PIPE
        )
        overlay.until(lambda: "ready" in self._out.read_text(), "the wiretap")

    def seen(self):
        before = self._out.read_text().count("\n")
        print(file=self._process.stdin, flush=True)
        self._overlay.until(lambda: self._out.read_text().count("\n") > before, "the wiretap")
        return json.loads(self._out.read_text().splitlines()[-1])


def holds_marker(conflux):
    """Whether any byte of the marker's traffic is in the memory of a node right now (proc(5))."""
    pid = conflux.process.program
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if "r" not in rights or "[v" in line:
                continue
            memory.seek(start)
            try:
                held = memory.read(end - start)
            except OSError:  # never touched, or a device's
                continue
            if MARKER.encode() in held:
                return True
    return False


def in_use(source, target):
    """The relays of the route that was used last, and those of them that not every route needs."""
    first, *others = source.paths_to(target)
    spared = [name for name in first[1:-1] if any(name not in other for other in others)]
    return first[1:-1], spared


def test_a_download_survives_one_relay_after_another_and_nobody_reads_it(overlay, chain, python):
    [[london], *stages, [tokyo]] = chain
    relays = {relay.name: relay for stage in stages for relay in stage}
    overlay.until(lambda: london.reaches(tokyo), "a way over four relays", within_s=60)
    tap = Wiretap(overlay)
    clear = "import socket; socket.socket(2, 2).sendto({!r}.encode(), ({!r}, 9))"
    # To a host behind the firewall: nobody answers by quoting it.
    london.host.run([*python, clear.format(MARKER, str(tokyo.host.address))])
    assert tap.seen()["found"] == 1, "the wiretap sees what is sent in the clear"

    end = overlay.serve_stream(tokyo, SIZE, marker=MARKER, bytes_per_s=RATE)
    fetch = overlay.fetch_stream(tokyo, london)
    killed = []

    def goes_on():
        there = fetch.reported()["bytes"]
        overlay.until(
            lambda: fetch.reported()["bytes"] > there + 8 * MEGABYTE, "8 MB more", within_s=60
        )

    def kill(victim):
        """Kill a relay in the middle of its work; it is the only one of its stage to die."""
        assert not holds_marker(victim)
        victim.kill()
        killed.append(victim)

    def next_in_use():
        dead = {relay.name[:-1] for relay in killed}
        return next(relays[n] for n in in_use(tokyo, london)[0] if n[:-1] not in dead)

    goes_on()
    assert len(tokyo.paths_to(london)[0]) == 6, tokyo.paths_to(london)
    kill(next_in_use())
    goes_on()

    # Without the Master two strangers on both sides of a dead relay cannot meet, so the next one to
    # die is one beside which another route leads.
    dead = {relay.name[:-1] for relay in killed}
    spared = overlay.until(
        lambda: [n for n in in_use(tokyo, london)[1] if n[:-1] not in dead], "a spare route"
    )
    overlay.kill_guardian()
    kill(relays[spared[0]])
    goes_on()

    overlay.start_guardian()
    while len(killed) < len(STAGES):
        goes_on()
        kill(next_in_use())
    assert fetch.reported()["bytes"] < SIZE, "it was over before the last relay died"
    got = fetch.wait(within_s=120)
    assert got["bytes"] == SIZE
    assert got["sha256"] in overlay.sent_digests()
    end()

    assert holds_marker(london), "where it is opened the marker is to be found"
    assert not any(holds_marker(relay) for relay in relays.values() if relay not in killed)
    seen = tap.seen()
    print(f"the wires: {seen}")
    assert seen["found"] == 1
    assert seen["lost"] == 0
    assert seen["bytes"] > 5 * SIZE, "it crossed five wires"
    for relay in killed:
        relay.run()
    for relay in killed:
        relay.ready()
