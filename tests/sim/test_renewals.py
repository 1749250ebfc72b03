"""Certificates end and are renewed: what is in use goes on, over relays too."""

from __future__ import annotations

from collections import Counter

import pytest

from conflux.wire.control import Kind


def renew_all(network):
    for name in network.nodes:
        network.guardian.renew(name)


def talk_over_renewals(network, one, other, *, seconds, life_s, every_s=0.1):
    """Both send all the time while all certificates are renewed at half of their lives.

    Returns what did not arrive exactly once.
    """
    sent, renewed_at = [], -life_s
    for number in range(int(seconds / every_s)):
        sent.append(b"%d" % number)
        one.send_packet(other, sent[-1])
        other.send_packet(one, sent[-1])
        network.run(every_s)
        if network.now() - renewed_at >= life_s / 2:
            renewed_at = network.now()
            renew_all(network)
    network.run(1)
    return [
        (node.name, payload, times)
        for node in (one, other)
        for payload, times in count(node.payloads(), sent).items()
        if times != 1
    ]


def count(got, sent):
    """How often each of *sent* came; raises nothing for what nobody sent: it counts as well."""
    times = Counter(got)
    return {payload: times[payload] for payload in {*sent, *got}}


def fallen(network):
    """Streams and tethers that ended, of all nodes."""
    return [
        what
        for node in network.nodes.values()
        for what in (
            *(event for _, event in node.events if event.startswith("closed")),
            *(name for name in node.anchor.counters if name.startswith("neighbour_down")),
        )
    ]


@pytest.mark.parametrize("life_s", [20, 100, 300])
def test_streams_and_their_tether_outlive_the_certificates_they_began_with(pair, life_s):
    network, left, right = pair.network, pair.left, pair.right
    network.guardian.valid_s = life_s
    renew_all(network)
    network.run(1)
    assert talk_over_renewals(network, left, right, seconds=2.2 * life_s, life_s=life_s) == []
    assert fallen(network) == []
    # The first ones, which crossed: all others went inside the streams.
    assert network.channel.count(Kind.ASK) <= 2


@pytest.mark.parametrize("life_s", [20, 150])
def test_tethers_of_relays_outlive_their_certificates(relayed, life_s):
    network, left, right = relayed.network, relayed.left, relayed.right
    network.guardian.valid_s = life_s
    renew_all(network)
    network.run(1)
    left.ping(right)
    network.run(5)
    left.received.clear()
    right.received.clear()
    assert all(len(route.path) == 3 for route in left.anchor.routing.get(right.node_id).routes)
    assert talk_over_renewals(network, left, right, seconds=2.2 * life_s, life_s=life_s) == []
    assert [what for what in fallen(network) if "certificate" in what] == []
    assert left.anchor.routing.get(right.node_id).routes


def test_no_certificate_is_asked_for_while_those_that_are_known_are_young(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(10)
    before = network.channel.count(Kind.ASK)
    for _ in range(100):
        left.ping(right)
        network.run(1)
    asked = network.channel.count(Kind.ASK) - before
    # A direct tether is tried again after 30 and 60 s, and by both; each Ask is repeated.
    assert asked <= 4 * 4


def test_who_is_not_renewed_is_left_at_the_end_of_its_certificate_and_comes_back_with_a_new_one(
    pair,
):
    network, left, right = pair.network, pair.left, pair.right
    network.guardian.valid_s = 40
    renew_all(network)
    network.run(1)
    for _ in range(38):
        left.ping(right)
        network.run(1)
    assert fallen(network) == []
    network.run(10)
    ends = {event for _, event in left.events if event.startswith("closed")}
    assert ends == {"closed right: certificate ended"}
    assert left.anchor.neighbours.all() == []
    assert left.ping(right).answers == 0
    network.run(30)
    renew_all(network)
    network.run(1)
    ping = left.ping(right)
    network.run(5)
    assert ping.answers == 1


def test_peers_that_are_not_renewed_are_not_asked_all_the_time(pair):
    """The last fifth of a day's certificate: keys change as often as ever, no more."""
    network, left, right = pair.network, pair.left, pair.right
    network.run(0.8 * 86_400)
    left.ping(right)
    network.run(5)
    opened = []
    for _ in range(600):
        left.ping(right)
        network.run(1)
        session = left.anchor.sessions[right.node_id]
        if session not in opened:
            opened.append(session)
    assert len(opened) <= 1 + 600 / 120
    assert network.channel.count(Kind.ASK) <= 2
