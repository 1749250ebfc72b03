"""Guardian and Master die: what runs goes on, what is new works once they are back."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.lab

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def pair(overlay):
    """London and Tokyo, registered before their Guardian was there, who have talked."""
    london, tokyo = overlay.conflux("london"), overlay.conflux("tokyo")
    overlay.start_guardian()
    london.ready()
    tokyo.ready()
    assert london.ping(tokyo)
    return london, tokyo


@pytest.fixture
def guardian(overlay, pair):
    """Runs, with its Master, whatever the test before has done to it."""
    if overlay.guardian.poll() is not None:
        overlay.start_guardian()
        for node in pair:
            overlay.until(lambda node=node: master_is_there(node), f"{node.name} at the Master")


def master_is_there(node) -> bool:
    log = node.log.read_text()
    return log.rfind("the Master is back") >= log.rfind("the Master is gone")


def test_streams_go_on_without_guardian_and_master(overlay, pair, guardian):
    london, tokyo = pair
    end = overlay.serve_stream(tokyo, 24 * MEGABYTE)
    fetch = overlay.fetch_stream(tokyo, london)
    overlay.until(lambda: fetch.reported()["bytes"] > MEGABYTE, "the download to begin")
    overlay.kill_guardian()
    got = fetch.wait()
    assert got["bytes"] == 24 * MEGABYTE
    assert got["sha256"] in overlay.sent_digests()
    assert tokyo.ping(london)
    end()


def test_status_counts_what_the_master_cannot_carry(overlay, pair, guardian):
    london, _ = pair
    overlay.kill_guardian()
    london.host.run(["ping", "-c", "1", "-W", "1", "10.99.0.200"], check=False)  # nobody is there
    overlay.until(lambda: london.status()["counters"].get("control_unsent"), "an unsent Ask")


def test_new_conflux_and_new_streams_work_once_guardian_is_back(overlay, pair, guardian):
    london, tokyo = pair
    overlay.kill_guardian()
    oslo = overlay.conflux("oslo")
    tokyo.stop()
    tokyo.run()
    overlay.until(
        lambda: tokyo.status()["state"] == "waiting for Guardian", "tokyo to wait for Guardian"
    )
    overlay.start_guardian()
    for conflux in (oslo.ready(), tokyo.ready()):
        overlay.until(
            lambda c=conflux: london.reaches(c), f"london to reach {conflux.name}", within_s=20
        )
        overlay.until(
            lambda c=conflux: c.reaches(london), f"{conflux.name} to reach london", within_s=20
        )
    assert london.process.poll() is None
    overlay.until(lambda: master_is_there(london), "london to be back at the Master")


def test_master_that_hangs_is_replaced_within_seconds_and_streams_go_on(overlay, pair, guardian):
    """The kernel goes on taking connections for a process that does not run."""
    london, tokyo = pair
    known = [node.log.read_text().count("the Master is back") for node in pair]
    flows = overlay.flows(london, tokyo)
    [master] = map(int, overlay.children(overlay.guardian))
    began = time.monotonic()
    os.kill(master, signal.SIGSTOP)
    for node, times in zip(pair, known, strict=True):
        overlay.until(
            lambda node=node, times=times: node.log.read_text().count("the Master is back") > times,
            f"{node.name} to be back at the Master",
        )
    print(f"\nMaster hung: back at it after {time.monotonic() - began:.1f} s")
    for kind, found in flows.stop().items():
        assert (found["missing"], found["doubled"]) == (0, 0), kind
    assert str(master) not in overlay.children(overlay.guardian)
    bergen = overlay.conflux("bergen").ready()
    overlay.until(lambda: bergen.reaches(london), "a newcomer to reach london", within_s=20)
