"""A machine wakes up from its sleep: its keys are dropped, and it is back at once, both ways."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

DROWSY = Path(__file__).with_name("programs") / "drowsy.py"
SLEPT_S = 30
BACK_S = 5.0
"""In all: noticing, a login, a connection to the Master, handshakes, on a loaded machine."""


@pytest.fixture(scope="module")
def pair(overlay):
    overlay.start_guardian()
    laptop = overlay.host("laptop")
    asleep = overlay.folder / "slept"
    asleep.write_text("0")
    laptop.program = [sys.executable, str(DROWSY), str(asleep)]
    laptop.register(overlay.tokens["alice"])
    server = overlay.conflux("server", "alice")
    laptop.ready()
    server.ready()
    return laptop, server, asleep


def test_a_machine_that_slept_drops_its_keys_and_is_back_at_once(overlay, pair):
    laptop, server, asleep = pair
    process = laptop.process.pid
    beats = overlay.beats((laptop, server), (server, laptop))
    overlay.until(beats.all_arrive, "the two to talk")
    time.sleep(1.0)
    asleep.write_text(str(SLEPT_S))
    woke = time.monotonic()
    overlay.until(lambda: laptop.status()["counters"].get("keys_dropped"), "the sleep to be seen")
    time.sleep(BACK_S)
    ends = time.monotonic()
    beats.stop()
    for source, target in beats.ways:
        arrivals = beats.arrivals(source, target)
        times = [at for _, at in arrivals if at > woke - 1.0]
        gap_s = max(later - earlier for earlier, later in pairwise(times))
        print(f"{source.name} > {target.name}: gap {gap_s:.3f} s")
        assert gap_s < BACK_S
        assert times[-1] > ends - 1.0, "it came back, and fell silent"
        numbers = [number for number, _ in arrivals]
        assert len(numbers) == len(set(numbers)), "a packet came twice"
    told = f"this machine slept for {SLEPT_S}.0 s: all keys of streams and tethers are dropped"
    assert told in laptop.log.read_text()
    assert laptop.status()["counters"]["keys_dropped"] == 1
    assert laptop.process.pid == process
