"""Certificates and NATS credentials of real nodes are renewed before they end: nobody notices."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.lab

LIFE_S = 24


@pytest.fixture(scope="module")
def pair(overlay):
    """London and Tokyo with certificates of 24 s, and control messages all the time."""
    overlay.start_guardian("--certificate-lifetime", str(LIFE_S))
    plugins = overlay.plugin("chatter")
    (overlay.folder / "said").mkdir()
    nodes = [overlay.host(name) for name in ("london", "tokyo")]
    for node in nodes:
        node.register(
            overlay.tokens["alice"],
            PYTHONPATH=plugins,
            VEILNET_PLUGIN_CONTROL="chatter",
            CHATTER=str(overlay.folder / "said" / node.name),
        )
    london, tokyo = (node.ready() for node in nodes)
    assert london.ping(tokyo, count=2)
    return london, tokyo


def lines(overlay, end):
    """What all nodes' chatter wrote of one kind, without a last line that is not whole."""
    found = [path.read_text() for path in (overlay.folder / "said").glob(f"*{end}")]
    return [line for text in found for line in text.rpartition("\n")[0].splitlines()]


def renewed(overlay, nodes, times):
    """Wait until each has been renewed *times* times; none may be without a valid one meanwhile."""
    seen = {node.name: {node.info()["certificate_serial"]} for node in nodes}

    def done():
        for node in nodes:
            info = node.info()
            assert info["certificate_not_after"] > time.time(), node.name
            seen[node.name].add(info["certificate_serial"])
        return min(map(len, seen.values())) > times

    overlay.until(done, f"{times} renewals", within_s=3 * LIFE_S * (times + 1))


def test_renewals_lose_no_control_message_and_disturb_no_stream(overlay, pair):
    ids = [node.node_id for node in pair]
    flows = overlay.flows(*pair)
    renewed(overlay, pair, 2)
    # The first streams, their tether and the first credentials would have ended by now.
    time.sleep(LIFE_S / 4)
    seen = flows.stop()
    for kind, found in seen.items():
        assert (found["missing"], found["doubled"]) == (0, 0), kind
        assert found["gaps"][0][1] < 1.0, kind
    said = set(lines(overlay, ".said"))
    assert len(said) > 1_000
    overlay.until(lambda: said <= set(lines(overlay, ".heard")), "every control message")
    assert lines(overlay, ".refused") == []
    for node, node_id in zip(pair, ids, strict=True):
        log = node.log.read_text()
        assert node.node_id == node_id
        assert log.count("running: ") == 1
        for word in ("are closed", "the Master is gone", "not renewed", "Traceback"):
            assert word not in log, log


@pytest.mark.thorough
def test_guardian_and_master_that_are_away_over_a_renewal_cost_nothing(overlay, pair):
    # Longer lives: half of one is for a busy machine to start Guardian, and for nodes to try again.
    overlay.kill_guardian()
    overlay.start_guardian("--certificate-lifetime", str(3 * LIFE_S))
    renewed(overlay, pair, 1)
    told = [node.log.read_text().count("not renewed yet") for node in pair]
    flows = overlay.flows(*pair)
    overlay.kill_guardian()
    for node, times in zip(pair, told, strict=True):
        overlay.until(
            lambda node=node, times=times: node.log.read_text().count("not renewed yet") > times,
            f"{node.name} to want a new certificate",
            within_s=2 * LIFE_S,
        )
    overlay.start_guardian("--certificate-lifetime", str(3 * LIFE_S))
    renewed(overlay, pair, 1)
    for kind, found in flows.stop().items():
        assert (found["missing"], found["doubled"]) == (0, 0), kind
        assert found["gaps"][0][1] < 1.0, kind
    for node in pair:
        assert "are closed" not in node.log.read_text()
        assert node.log.read_text().count("the Master is back") == 2


@pytest.mark.thorough
def test_guardian_that_is_away_for_longer_ends_streams_and_nobody_has_to_start_again(overlay, pair):
    london, tokyo = pair
    overlay.kill_guardian()
    for node in pair:
        overlay.until(
            lambda node=node: not node.status()["peers"], "the streams' end", within_s=4 * LIFE_S
        )
        assert "certificate ended" in node.log.read_text()
    assert not london.reaches(tokyo)
    overlay.start_guardian("--certificate-lifetime", str(LIFE_S))
    for one, other in (pair, pair[::-1]):
        overlay.until(lambda one=one, other=other: one.reaches(other), f"{one.name} to come back")
        assert one.log.read_text().count("running: ") == 1
