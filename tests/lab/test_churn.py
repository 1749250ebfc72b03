"""Streams, routes and tethers come and go on real devices and sockets, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

IDLE = "[idle]\nstream_s = 1\nroute_s = 1\ntether_s = 1\n"
REST_S = 12.0
"""The longest that anything outlasts its use: an attempt to connect two who are blocked from each
other, and what is known of handshakes, 10 s; a replaced stream, 10 s."""
LATER = ("conflux.anchor.timers.Timer", "asyncio.events.TimerHandle")
"""Empty once cancelled, they wait for their time to be taken out: two minutes at most."""
KNOWN = ("conflux_router_static.router.PathLoss",)
"""What a router remembers of paths that it may meet again, up to a limit of its own."""
SPARE_BLOCKS = 2_000
"""How many pieces of memory may be more than before: caches of the libraries and of the interpreter
that fill up late. One tether that is kept has ten times as many."""
SPARE_KB = 8_192
"""The same for the process as a whole."""


@pytest.fixture(scope="module")
def town(overlay):
    """Three who talk, two of them blocked from each other, and a relay: all soon tired."""
    overlay.start_guardian()
    plugins = overlay.plugin("census")
    nodes = [overlay.host(name) for name in ("london", "tokyo", "oslo", "relay")]
    for node in nodes:
        node.configure(IDLE)
        census = str(overlay.folder / f"{node.name}.census")
        node.register(overlay.tokens["alice"], PYTHONPATH=plugins, CENSUS=census)
    overlay.internet.block(nodes[0].host, nodes[1].host)
    return [node.ready() for node in nodes]


def is_at_rest(node):
    status = node.status()
    return not (status["peers"] or status["neighbours"] or status["relayed_routes"])


def cycle(overlay, town):
    """Wake all of them, by packets of which none may be lost; wait until all is over."""
    london, tokyo, oslo, _ = town
    for source, target in ((london, tokyo), (oslo, london), (tokyo, oslo)):
        answers = source.ping(target, count=3)
        assert len(answers) == 3, f"{source.name} to {target.name}: {answers}"
    overlay.until(lambda: all(map(is_at_rest, town)), "everything to dissolve", within_s=30)


def held(overlay, node):
    """What a node's process holds at rest."""
    proc = Path(f"/proc/{node.process.program}")
    census = overlay.folder / f"{node.name}.census"
    census.unlink(missing_ok=True)
    os.kill(node.process.program, signal.SIGUSR1)
    overlay.until(census.exists, f"{node.name}'s census")
    pages = int((proc / "statm").read_text().split()[1])
    found = json.loads(census.read_text())
    for name in (*LATER, *KNOWN):
        found["classes"].pop(name, None)
    return {
        "descriptors": len(os.listdir(proc / "fd")),
        "threads": len(os.listdir(proc / "task")),
        "tasks": node.status()["tasks"],
        "files": sorted(os.listdir(node.folder)),
        **found,
        "resident_kb": pages * os.sysconf("SC_PAGESIZE") >> 10,
    }


@pytest.mark.parametrize(
    ("before", "cycles"), [(3, 5), pytest.param(20, 30, marks=pytest.mark.thorough)]
)
def test_churn_loses_no_packet_and_leaves_nothing(overlay, town, before, cycles):
    for _ in range(before):
        cycle(overlay, town)
    time.sleep(REST_S)
    then = [held(overlay, node) for node in town]
    for _ in range(cycles):
        cycle(overlay, town)
    time.sleep(REST_S)
    for node, was in zip(town, then, strict=True):
        now = held(overlay, node)
        blocks, resident_kb = (now[what] - was[what] for what in ("blocks", "resident_kb"))
        print(f"\n{node.name} after {cycles} cycles: {blocks:+} blocks, {resident_kb:+} kB", end="")
        for exact in ("descriptors", "threads", "tasks", "files", "classes"):
            assert now[exact] == was[exact], (node.name, exact)
        assert blocks < SPARE_BLOCKS, node.name
        assert resident_kb < SPARE_KB, node.name
