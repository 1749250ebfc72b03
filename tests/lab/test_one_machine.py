"""Two nodes of one plane on one machine, and a third one elsewhere."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def nodes(overlay):
    """London and Camden on one machine, in this order, and Tokyo."""
    overlay.start_guardian()
    london, tokyo = overlay.conflux("london"), overlay.conflux("tokyo")
    london.ready()
    camden = overlay.host("camden", beside=london)
    camden.register(overlay.tokens["alice"], "--tun-name", "camden")
    return london, camden.ready(), tokyo.ready()


def rules(conflux):
    """Priority and text of every routing rule on its machine."""
    return conflux.host.run(["ip", "rule"]).stdout


SYSTEMS_OWN = {"0:", "32766:", "32767:"}


def test_both_talk_to_the_third_from_their_address_and_by_their_device(overlay, nodes):
    london, camden, tokyo = nodes
    for here, device in ((london, "veilnet"), (camden, "camden")):
        for by in (here.address, device):
            assert here.ping(tokyo, "-I", by), f"{here.name} by {by}"
        direct = [here.name, "tokyo"]
        overlay.until(lambda h=here, d=direct: h.paths_to(tokyo)[0] == d, "the direct way")
    assert {peer["node_id"] for peer in tokyo.status()["peers"]} == {
        london.node_id, camden.node_id,
    }  # fmt: skip


def test_the_third_reaches_both(nodes):
    london, camden, tokyo = nodes
    assert tokyo.ping(london)
    assert tokyo.ping(camden)


def test_unbound_packets_go_by_the_first(nodes):
    london, _, tokyo = nodes
    said = london.host.run(["ip", "route", "get", tokyo.address]).stdout
    assert f"dev veilnet src {london.address}" in said


def test_they_reach_each_other_within_the_machine(nodes):
    london, camden, _ = nodes
    for here, there in ((london, camden), (camden, london)):
        assert here.ping(there, "-I", here.address)
        said = here.host.run(["ip", "route", "get", there.address, "from", here.address]).stdout
        assert said.startswith(f"local {there.address}")


def test_killed_second_one_leaves_nothing_and_comes_back(overlay, nodes):
    london, camden, tokyo = nodes
    camden_address = camden.address
    assert camden_address in rules(london)
    camden.kill()
    overlay.until(lambda: camden_address not in rules(london), "the rule to go", within_s=5)
    assert london.ping(tokyo)
    camden.run(VEILNET_TUN="camden").ready()
    overlay.until(
        lambda: camden.ping(tokyo, "-I", camden_address, wait_s=1), "camden's way", within_s=20
    )


def test_second_one_goes_on_when_the_first_ends(overlay, nodes):
    london, camden, tokyo = nodes
    assert london.stop() == 0
    overlay.until(lambda: camden.reaches(tokyo), "camden's way", within_s=20)
    london.run().ready()
    for here in (london, camden):
        overlay.until(
            lambda here=here: here.ping(tokyo, "-I", here.address, wait_s=1),
            f"{here.name}'s way",
            within_s=20,
        )
    assert camden.stop() == 0
    overlay.until(lambda: london.reaches(tokyo), "london's way", within_s=20)
    assert london.stop() == 0
    assert {line.split()[0] for line in rules(london).splitlines()} == SYSTEMS_OWN
