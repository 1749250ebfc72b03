"""Streams, routes and tethers come and go on real devices and sockets, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

# It rests for minutes, to see what is left: for `make test-all`.
pytestmark = [pytest.mark.lab, pytest.mark.thorough]

IDLE = "[idle]\nstream_s = 1\nroute_s = 1\ntether_s = 1\n"
REST_S = 12.0
"""The longest that the protocol remembers what is over: handshakes and replaced streams, 10 s."""
LATER = ("conflux.anchor.timers.Timer", "asyncio.events.TimerHandle")
"""Empty once cancelled, they wait for their time to be taken out: two minutes at most."""
KNOWN = ("conflux_router_static.router.PathLoss", "conflux_router_static.router.LinkEstimate")
"""What a router remembers of paths and links that it may meet again, up to a limit of its own."""
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


def is_at_rest(status):
    return not (status["peers"] or status["neighbours"] or status["relayed_routes"])


def cycle(overlay, town):
    """Wake all of them, by packets of which none may be lost; wait until all is over."""
    london, tokyo, oslo, _ = town
    for source, target in ((london, tokyo), (oslo, london), (tokyo, oslo)):
        answers = source.ping(target, count=3)
        assert len(answers) == 3, f"{source.name} to {target.name}: {answers}"
    overlay.until(
        lambda: all(is_at_rest(node.status()) for node in town),
        "everything to dissolve",
        within_s=30,
    )


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


def changes(was, now):
    """What is not as it was, to the last object: {what: (was, now)}."""
    was, now = ({**found, **found["classes"]} for found in (was, now))
    rough = ("classes", "blocks", "resident_kb")
    return {
        what: (was.get(what), now.get(what))
        for what in was.keys() | now.keys()
        if what not in rough and was.get(what) != now.get(what)
    }


def steady(overlay, node):
    """What *node* holds once two looks in a row agree: who asks is seen himself now and then."""
    looks = [held(overlay, node)]

    def agree():
        looks.append(held(overlay, node))
        return not changes(*looks[-2:])

    overlay.until(agree, f"{node.name} to hold still")
    return looks[-1]


def at_rest(overlay, town, fresh):
    """Wait until nobody has had anything to do for REST_S, such as connecting two who are blocked
    from each other; then look."""
    since = time.monotonic()

    def rested():
        nonlocal since
        for node, tasks in zip(town, fresh, strict=True):
            status = node.status()
            if not is_at_rest(status) or status["tasks"] > tasks:
                since = time.monotonic()
        # Who asks again at once still sees the task that answered before.
        time.sleep(0.2)
        return time.monotonic() - since > REST_S

    overlay.until(rested, "everybody to have rested", within_s=90)
    return [steady(overlay, node) for node in town]


@pytest.mark.parametrize(("before", "cycles"), [(2, 3), (10, 20)])
def test_churn_loses_no_packet_and_leaves_nothing(overlay, town, before, cycles):
    fresh = [steady(overlay, node)["tasks"] for node in town]
    for _ in range(before):
        cycle(overlay, town)
    then = at_rest(overlay, town, fresh)
    for _ in range(cycles):
        cycle(overlay, town)
    for node, was, now in zip(town, then, at_rest(overlay, town, fresh), strict=True):
        blocks, resident_kb = (now[what] - was[what] for what in ("blocks", "resident_kb"))
        print(f"\n{node.name} after {cycles} cycles: {blocks:+} blocks, {resident_kb:+} kB", end="")
        assert changes(was, now) == {}, node.name
        assert blocks < SPARE_BLOCKS, node.name
        assert resident_kb < SPARE_KB, node.name
