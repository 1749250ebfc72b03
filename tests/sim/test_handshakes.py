"""Ask, Answer and Open under every fault of the channel: they converge, once each way."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind, envelope

EACH_WAY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)


def agree(one: SimNode, other: SimNode) -> bool:
    """Tell whether both have one session, and each opens what the other seals."""
    here, there = one.anchor.sessions.get(other.node_id), other.anchor.sessions.get(one.node_id)
    if here is None or there is None:
        return False
    return (
        here.out.stream_id == there.inbound.stream_id
        and there.out.stream_id == here.inbound.stream_id
    )


def steady(network: SimNetwork, left: SimNode, right: SimNode, seconds: int) -> list:
    pings = []
    for _ in range(seconds * 2):
        pings += [left.ping(right), right.ping(left)]
        network.run(0.5)
    return pings


def test_crossing_asks_end_in_one_session_each_way(pair):
    first, second = pair.left.ping(pair.right), pair.right.ping(pair.left)
    pair.network.run(2)
    assert first.answers == second.answers == 1
    assert agree(pair.left, pair.right)
    assert pair.network.channel.count(Kind.ANSWER) == 1
    assert len(pair.network.underlay.tethers("left")) == 1


@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.2, 0.5]),
    duplicate=st.sampled_from([0.0, 0.5, 1.0]),
    jitter_s=st.sampled_from([0.0, 0.1, 1.0]),
    apart_s=st.floats(0, 2),
)
@EACH_WAY
def test_lost_doubled_late_and_reordered_messages_converge(
    seed, loss, duplicate, jitter_s, apart_s
):
    network = SimNetwork(seed)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    channel = network.channel
    channel.loss, channel.duplicate, channel.jitter_s = loss, duplicate, jitter_s
    left.ping(right)
    network.run(apart_s)
    right.ping(left)
    steady(network, left, right, 60)
    channel.loss = 0
    steady(network, left, right, 30)
    pings = steady(network, left, right, 5)
    network.run(1)
    assert agree(left, right)
    assert all(ping.answers == 1 for ping in pings)


@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.05, 0.2]))
@EACH_WAY
def test_tethers_that_lose_and_reorder_deliver_nothing_twice(seed, loss):
    network = SimNetwork(seed)
    network.underlay.default.loss = loss
    network.underlay.default.duplicate = 0.2
    network.underlay.default.reorder = 0.3
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    pings = steady(network, left, right, 20)
    network.run(2)
    assert max(ping.answers for ping in pings) == 1
    answered = sum(ping.answers for ping in pings)
    assert answered > len(pings) * (1 - loss) ** 2 * 0.6


@given(drops=st.lists(st.booleans(), max_size=12))
@EACH_WAY
def test_any_pattern_of_lost_messages_is_survived(drops):
    network = SimNetwork(7)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    pattern = iter(drops)
    network.channel.tap = lambda message: () if next(pattern, False) else (message,)
    pings = steady(network, left, right, 40)
    network.run(1)
    assert agree(left, right)
    assert all(ping.answers == 1 for ping in pings[-4:])


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.OPEN])
def test_a_lost_message_costs_half_a_second_not_the_handshake(pair, kind):
    lost = []

    def lose_the_first(message):
        if message.kind is kind and not lost:
            lost.append(message)
            return ()
        return (message,)

    pair.network.channel.tap = lose_the_first
    ping = pair.left.ping(pair.right)
    pair.network.run(2)
    assert lost
    assert ping.rtt_s < 1
    assert agree(pair.left, pair.right)


def test_repeats_are_the_same_bytes(pair):
    network = pair.network
    lost_until = {Kind.ASK: 0.0, Kind.ANSWER: 1.2, Kind.OPEN: 4.0}
    network.channel.tap = lambda m: (m,) if m.time >= lost_until[m.kind] else ()
    pair.left.ping(pair.right)
    network.run(5)
    for kind in lost_until:
        sent = [m.payload for m in network.channel.messages if m.kind is kind]
        streams = sent[:2]
        assert len(streams) == 2
        assert len(set(streams)) == 1
    assert agree(pair.left, pair.right)


def test_old_messages_played_again_open_nothing(pair):
    network = pair.network
    pair.left.ping(pair.right)
    network.run(2)
    recorded = list(network.channel.messages)
    for wait_s in (1, 20, 300):
        network.run(wait_s)
        sessions = [dict(node.anchor.sessions) for node in (pair.left, pair.right)]
        for message in recorded:
            network.replay(message)
        network.run(5)
        assert [dict(node.anchor.sessions) for node in (pair.left, pair.right)] in (
            sessions,
            [{}, {}],
        )
    assert network.channel.count(Kind.OPEN) <= 3


def test_an_ask_from_another_time_is_not_answered(pair):
    network = pair.network
    network.channel.tap = lambda message: ()
    pair.left.ping(pair.right)
    network.run(0)
    ask = network.channel.messages[0]
    network.run(61)
    network.channel.tap = None
    network.replay(ask)
    network.run(1)
    assert pair.right.anchor.counters["control: Ask from another time"] == 1
    assert network.channel.count(Kind.ANSWER) == 0


def test_one_changed_byte_of_any_message_opens_nothing(pair):
    """The transcript binds: what one end did not send, the other does not accept."""
    network = pair.network

    def spoil(message):
        spoilt = bytearray(message.payload)
        spoilt[network.underlay.chance.randrange(2, len(spoilt))] ^= 1 << len(spoilt) % 8
        return (type(message)(message.time, message.sender, message.tag, bytes(spoilt)),)

    network.channel.tap = spoil
    for _ in range(20):
        pair.left.ping(pair.right)
        pair.right.ping(pair.left)
        network.run(3)
    assert not pair.left.anchor.sessions
    assert not pair.right.anchor.sessions
    assert network.channel.count(Kind.ANSWER) == 0


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.OPEN])
def test_a_spoilt_message_beside_the_true_one_does_no_harm(pair, kind):
    def both(message):
        if message.kind is not kind:
            return (message,)
        spoilt = message.payload[:-1] + bytes([message.payload[-1] ^ 1])
        return (type(message)(message.time, message.sender, message.tag, spoilt), message)

    pair.network.channel.tap = both
    ping = pair.left.ping(pair.right)
    pair.network.run(8)
    assert ping.answers == 1


def test_slow_threads_and_deadlines_may_race(pair):
    """Keys are erased when their handshake ends, but never under a thread that uses them."""
    for slow_s in (0.9, 2.4, 4.9, 5.1, 9.9, 11.0):
        pair.left.deferred_s = pair.right.deferred_s = slow_s
        pair.left.ping(pair.right)
        pair.network.run(60)
    pair.left.deferred_s = pair.right.deferred_s = 0.001
    pair.network.run(120)
    ping = pair.left.ping(pair.right)
    pair.network.run(10)
    assert ping.answers == 1


def test_a_session_whose_open_never_arrived_is_given_up_and_asked_for_anew(pair):
    network = pair.network
    network.channel.tap = lambda message: () if message.kind is Kind.OPEN else (message,)
    pair.left.ping(pair.right)
    network.run(8)
    assert pair.left.anchor.sessions
    network.channel.tap = None
    pings = []
    for _ in range(30):
        pings.append(pair.left.ping(pair.right))
        network.run(1)
    assert pings[-1].answers == 1
    assert agree(pair.left, pair.right)


def test_the_master_goes_down_and_live_streams_do_not_notice(pair):
    network = pair.network
    pair.left.ping(pair.right)
    network.run(2)
    network.channel.is_down = True
    pings = steady(network, pair.left, pair.right, 300)
    network.run(1)
    assert all(ping.answers == 1 for ping in pings)


def test_the_master_comes_back_and_handshakes_go_on(pair):
    network = pair.network
    network.channel.is_down = True
    steady(network, pair.left, pair.right, 60)
    assert pair.right.received == []
    network.channel.is_down = False
    pings = steady(network, pair.left, pair.right, 60)
    network.run(1)
    assert all(ping.answers == 1 for ping in pings[-40:])


def withhold_revocations(network) -> None:
    """The Master does, or Guardian is dead: then the higher serial alone tells."""
    network.channel.tap = lambda m: () if m.kind is Kind.REVOCATIONS else (m,)


@pytest.mark.parametrize("withheld", [False, True])
def test_a_peer_that_started_anew_is_found_again(pair, withheld):
    network = pair.network
    if withheld:
        withhold_revocations(network)
    steady(network, pair.left, pair.right, 5)
    former = pair.right.node_id
    pair.right.restart()
    assert pair.right.node_id != former
    pings = []
    for _ in range(60):
        pings.append(pair.left.ping(pair.right))
        network.run(0.5)
    assert all(ping.answers == 1 for ping in pings[40:])
    assert list(pair.left.anchor.sessions) == [pair.right.node_id]


@pytest.mark.parametrize("withheld", [False, True])
def test_a_peer_that_started_anew_and_speaks_first_ends_the_old_session_at_once(pair, withheld):
    network = pair.network
    if withheld:
        withhold_revocations(network)
    steady(network, pair.left, pair.right, 5)
    pair.right.restart()
    ping = pair.right.ping(pair.left)
    network.run(1)
    assert ping.answers == 1
    assert list(pair.left.anchor.sessions) == [pair.right.node_id]


def test_streams_survive_an_hour_and_the_end_of_their_keys(pair):
    pair.network.channel.records = False
    pings = []
    for _ in range(4_000):
        pings.append(pair.left.ping(pair.right))
        pair.network.run(1)
    assert sum(1 for ping in pings if ping.answers != 1) == 0
    # Only the first handshake went by the Master: all others inside the stream that they replace.
    assert pair.network.channel.count(Kind.OPEN) == 1


def test_a_peer_that_stops_says_so_and_its_keys_are_forgotten_at_once(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    right.stop()
    network.run(0.2)
    assert left.anchor.sessions == {}


def test_a_goodbye_from_outside_a_stream_ends_nothing(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    left.anchor.take_control(bytes(16), bytes(16), envelope(Kind.GOODBYE, b""), now=network.now())
    network.run(1)
    assert left.anchor.sessions
    assert left.anchor.counters["control_malformed"] == 1


def test_a_peer_that_was_killed_and_came_back_is_reached_within_three_seconds(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    right.crash()
    right.restart()

    def answered():
        ping = left.ping(right)
        return network.run_until(lambda: ping.answers == 1, 0.2)

    started = network.now()
    while not answered():
        assert network.now() - started < 3


def test_a_living_peer_that_cannot_be_reached_is_asked_with_back_off_and_comes_back(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    network.block(right, *relayed.relays)
    before = network.channel.count(Kind.ASK)
    for _ in range(60):
        left.ping(right)
        network.run(1)
    assert network.channel.count(Kind.ASK) - before < 450
    network.unblock(right, *relayed.relays)
    network.run(35)
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 5)
