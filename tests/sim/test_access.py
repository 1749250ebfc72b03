"""Who may talk to whom: teams given, taken, changed while handshakes are under way."""

from __future__ import annotations

import pytest

from conflux.anchor.affinity import STRANGER_S
from conflux.testing.simnet import SimNetwork
from conflux.wire.control import Kind


def strangers(**teams: str) -> SimNetwork:
    network = SimNetwork(seed=11)
    for name in ("left", "right"):
        network.add_node(name, teams=teams.get(name, "").split())
    return network


def test_without_a_common_team_nothing_is_delivered_or_answered():
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    for _ in range(100):
        left.ping(right)
        right.ping(left)
        network.run(0.1)
    network.run(120)
    assert left.received == right.received == []
    assert network.channel.count(Kind.ANSWER) == network.channel.count(Kind.OPEN) == 0
    assert network.underlay.tethers("left") == network.underlay.tethers("right") == []
    assert right.anchor.counters["control: Ask without a common team"] > 0


def test_unanswered_asks_are_repeated_less_and_less():
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    for _ in range(6_000):
        left.ping(right)
        network.run(0.1)
    asks = [message.time for message in network.channel.messages if message.kind is Kind.ASK]
    assert len(asks) == network.channel.count(Kind.ASK)
    # One Ask is four messages over 5 s, then 1, 2, 4, 8, 16, 30, 30 ... seconds of silence.
    assert len([time for time in asks if time > 300]) <= 4 * (300 / 35 + 1)


def test_teams_pushed_to_both_work_at_once_without_a_restart():
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    for _ in range(40):
        left.ping(right)
        network.run(1)
    assert right.received == []
    network.guardian.attach("left", "green")
    network.guardian.attach("right", "green")
    network.run(0.1)
    ping = left.ping(right)
    network.run(1)
    assert ping.answers == 1


WORKS_S = 0.5
"""From the grant to the first packet. Guardian has 0.25 s to notice: together below 1 s."""


def until_first_arrival(network: SimNetwork, source, target, deadline_s: float) -> float:
    """How long it takes, while *source* sends all the time."""
    began, before = network.now(), len(target.received)
    while len(target.received) == before and network.now() < began + deadline_s:
        source.send_packet(target, b"are you there")
        network.run(0.02)
    return network.now() - began


@pytest.mark.parametrize("late", ["left", "right"])
@pytest.mark.parametrize("waited_s", [0.1, 1.3, 4.9, 5.5, 7.0, 20.0, 50.0, 100.0])
def test_a_team_added_works_in_a_second_however_long_it_was_tried_in_vain(waited_s, late):
    """Nobody waits out a pause between Asks, whichever end gets the team last."""
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    network.guardian.attach("right" if late == "left" else "left", "green")
    until_first_arrival(network, left, right, waited_s)
    assert right.received == []
    network.guardian.attach(late, "green")
    assert until_first_arrival(network, left, right, 40.0) < WORKS_S


@pytest.mark.parametrize("waited_s", [0.1, 1.3, 4.9, 50.0])
def test_a_team_added_to_both_at_once_works_in_a_second(waited_s):
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    until_first_arrival(network, left, right, waited_s)
    network.guardian.attach("left", "green")
    network.run(0.01)
    network.guardian.attach("right", "green")
    assert until_first_arrival(network, left, right, 40.0) < WORKS_S


def test_who_asked_in_vain_is_asked_back_only_with_a_team_in_common_and_not_after_a_minute():
    network = strangers(left="red", right="blue")
    left, right = network.nodes["left"], network.nodes["right"]
    left.ping(right)
    network.run(1)
    network.guardian.attach("right", "green")
    network.run(6)
    assert asks_of(network, right) == 0
    network.run(STRANGER_S)
    network.guardian.attach("right", "red")
    network.run(6)
    assert asks_of(network, right) == 0
    left.ping(right)
    network.run(1)
    assert right.anchor.sessions


def asks_of(network: SimNetwork, node) -> int:
    handle = node.anchor.standing.grant.control.handle
    return network.channel.published[handle, Kind.ASK]


def test_a_team_taken_away_ends_its_streams_and_nothing_more_is_delivered():
    network = strangers(left="ops", right="ops")
    left, right = network.nodes["left"], network.nodes["right"]
    left.ping(right)
    network.run(2)
    assert left.anchor.sessions
    network.guardian.detach("right", "ops")
    network.run(1)
    assert not left.anchor.sessions
    assert not right.anchor.sessions
    before = len(right.received), len(left.received)
    for _ in range(50):
        left.ping(right)
        right.ping(left)
        network.run(0.2)
    assert (len(right.received), len(left.received)) == before


def test_those_who_remain_in_a_team_go_on_under_its_new_key():
    network = strangers(left="ops", right="ops")
    left, right = network.nodes["left"], network.nodes["right"]
    network.add_node("leaver", teams=["ops"])
    left.ping(right)
    network.run(2)
    network.guardian.detach("leaver", "ops")
    pings = []
    for _ in range(50):
        pings.append(left.ping(right))
        network.run(0.1)
    network.run(2)
    assert all(ping.answers == 1 for ping in pings[30:])


def test_a_second_common_team_survives_the_loss_of_the_first():
    network = strangers(left="ops dev", right="ops dev")
    left, right = network.nodes["left"], network.nodes["right"]
    left.ping(right)
    network.run(2)
    network.guardian.detach("right", "ops")
    network.run(2)
    ping = left.ping(right)
    network.run(2)
    assert ping.answers == 1
    teams = [team.name for team in left.anchor.sessions[right.node_id].teams]
    assert teams == ["dev"]


def test_a_team_taken_away_during_the_handshake_opens_no_stream():
    network = strangers(left="ops", right="ops")
    left, right = network.nodes["left"], network.nodes["right"]
    left.deferred_s = 0.5  # verifying the Answer takes longer than the news
    left.ping(right)
    network.run(0.1)
    network.guardian.detach("left", "ops")
    left.deferred_s = 0.001
    network.run(10)
    assert not left.anchor.sessions
    assert not right.anchor.sessions
    assert right.received == []


def test_relays_need_no_team_and_get_no_packets():
    network = strangers(left="ops", right="ops")
    left, right = network.nodes["left"], network.nodes["right"]
    network.block(left, right)
    relay = network.add_node("relay")
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1
    assert relay.received == []
    assert not relay.anchor.sessions


def test_a_forged_or_stale_grant_changes_nothing():
    network = strangers(left="ops", right="ops")
    left = network.nodes["left"]
    network.guardian.attach("left", "green")
    network.run(0.1)
    old = next(m for m in network.channel.messages if m.kind is Kind.GRANT)
    network.guardian.detach("left", "green")
    network.run(0.1)
    held = left.anchor.standing.grant
    network.replay(old)
    flipped = bytearray(old.payload)
    flipped[-1] ^= 1
    network.channel.publish(old.sender, old.tag, bytes(flipped))
    network.run(1)
    assert left.anchor.standing.grant is held
    assert left.anchor.counters["grant: sealed message does not open"] == 1


def test_a_grant_that_the_master_held_back_does_not_turn_the_clock_back():
    network = strangers(left="ops", right="ops")
    left = network.nodes["left"]
    network.channel.tap = lambda message: ()
    network.guardian.attach("left", "green")
    held_back = network.channel.messages[-1]
    network.channel.tap = None
    network.run(3_600)
    network.replay(held_back)
    network.run(1)
    assert "green" in [team.name for team in left.anchor.standing.grant.teams]
    assert abs(left.anchor.wall(left.now()) - (1_800_000_000 + network.now())) < 1
