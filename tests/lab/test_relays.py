"""Two hosts that are firewalled from each other: relays are found, used, lost and replaced."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.lab

MEGABYTE = 1 << 20
FLOWS = 12
"""Drawn for two relays, they all take one of them once in two thousand times."""
RELAYS = ("relay-east", "relay-west")


@pytest.fixture(scope="module")
def four(overlay):
    """London and Tokyo, blocked from each other, and two relays, all running."""
    overlay.start_guardian()
    nodes = [overlay.host(name) for name in ("london", "tokyo", *RELAYS)]
    for node in nodes:
        # On a busy machine two relays' round trips differ by more than the router's usual 5 ms.
        node.configure("[plugin.router.static]\ntolerance_ms = 1000\n")
        node.register(overlay.tokens["alice"])
    overlay.internet.block(nodes[0].host, nodes[1].host)
    return [node.ready() for node in nodes]


def relay_in_use(source, target, relays):
    """The relay that carries what *source* sends to *target*."""
    name = source.paths_to(target)[0][1]
    return next(relay for relay in relays if relay.name == name)


def use_both(overlay, source, target):
    """Wait until what *source* sends to *target* may take either relay.

    A spare one is asked for ever more rarely, and each time any of the four nodes is drawn; who
    says nothing is passed over, so that the first rounds find it.
    """
    overlay.until(
        lambda: source.reaches(target) and middle(source.paths_in_use(target)) == set(RELAYS),
        f"{source.name} to use both relays",
        within_s=40,
    )


def middle(paths):
    """The relays of some paths."""
    return {name for path in paths for name in path[1:-1]}


def test_first_ping_is_answered_through_a_relay(four):
    london, tokyo, *_ = four
    [first_ms] = london.ping(tokyo)
    assert first_ms < 10_000, f"the first answer took {first_ms:.0f} ms"
    for source, target in ((london, tokyo), (tokyo, london)):
        paths = source.paths_to(target)
        assert paths
        assert all(len(path) == 3 for path in paths)
        assert middle(paths) <= set(RELAYS)


def test_many_flows_use_both_relays(overlay, four):
    london, tokyo, *relays = four
    use_both(overlay, tokyo, london)
    names = {relay.node_id: relay.name for relay in relays}

    def carried():
        table = tokyo.status()["neighbours"]
        return {names[n["node_id"]]: n["sent_bytes"] for n in table if n["node_id"] in names}

    before = carried()
    end = overlay.serve_stream(tokyo, MEGABYTE)
    fetches = [overlay.fetch_stream(tokyo, london) for _ in range(FLOWS)]
    got = [fetch.wait() for fetch in fetches]
    assert {g["bytes"] for g in got} == {MEGABYTE}
    assert {g["sha256"] for g in got} <= overlay.sent_digests()
    end()
    sent = {name: total - before.get(name, 0) for name, total in carried().items()}
    assert all(sent[name] > MEGABYTE for name in RELAYS), f"sent by each relay: {sent}"


def test_download_survives_the_death_of_its_relay(overlay, four):
    london, tokyo, *relays = four
    use_both(overlay, tokyo, london)
    end = overlay.serve_stream(tokyo, 48 * MEGABYTE, port=9002)
    fetch = overlay.fetch_stream(tokyo, london, port=9002)
    overlay.until(lambda: fetch.reported()["bytes"] > 4 * MEGABYTE, "the download to begin")
    victim = relay_in_use(tokyo, london, relays)
    victim.kill()
    at = fetch.reported()["bytes"]
    assert at < 40 * MEGABYTE, "it was over before the relay died"
    got = fetch.wait()
    assert got["bytes"] == 48 * MEGABYTE
    assert got["sha256"] in overlay.sent_digests()
    end()
    assert victim.name not in middle(tokyo.paths_to(london))
    victim.run().ready()


def test_relay_whose_cable_is_pulled_is_replaced(overlay, four):
    london, tokyo, *relays = four
    use_both(overlay, london, tokyo)
    victim = relay_in_use(london, tokyo, relays)
    [other] = {relay.name for relay in relays} - {victim.name}
    overlay.internet.cut(victim.host)
    try:
        # An answer may come by the other way while the cut one is still thought to work.
        overlay.until(
            lambda: london.reaches(tokyo) and middle(london.paths_to(tokyo)) == {other},
            "the other relay alone",
            within_s=15,
        )
    finally:
        overlay.internet.mend(victim.host)


def test_direct_way_is_taken_once_the_firewall_is_open(overlay, four):
    london, tokyo, *_ = four
    overlay.until(lambda: london.reaches(tokyo), "the path before")
    overlay.internet.unblock(london.host, tokyo.host)
    try:
        tokyo.stop()
        tokyo.run().ready()
        overlay.until(
            lambda: london.reaches(tokyo) and ["london", "tokyo"] in london.paths_to(tokyo),
            "the direct way",
            within_s=20,
        )
    finally:
        overlay.internet.block(london.host, tokyo.host)
