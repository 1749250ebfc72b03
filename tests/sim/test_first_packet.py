"""What a user sees first: a packet goes out, its answer comes back, nothing is lost."""

from __future__ import annotations

import pytest

from conflux.testing.simnet import SimNetwork
from conflux.wire.control import Kind
from conflux_crypto_openssl.driver import OpenSslCrypto


def test_first_packet_reaches_a_reachable_peer_and_is_answered(pair):
    ping = pair.left.ping(pair.right)
    pair.network.run(1)
    assert ping.answers == 1
    assert ping.rtt_s < 0.1
    assert [e for _, e in pair.left.events if e.startswith("routes")] == [
        "routes right: left>right"
    ]


def test_one_handshake_is_three_messages_and_no_relay_is_asked(pair):
    pair.left.ping(pair.right)
    pair.network.run(30)
    kinds = [message.kind for message in pair.network.channel.messages]
    assert kinds == [Kind.ASK, Kind.ANSWER, Kind.OPEN]


def test_every_packet_of_the_first_second_arrives_once_and_in_order(pair):
    sent = [f"packet {n}".encode() for n in range(200)]
    for payload in sent:
        pair.left.send_packet(pair.right, payload)
        pair.network.run(0.005)
    pair.network.run(1)
    assert pair.right.payloads() == sent


def test_ipv6_packets_take_the_streams_that_ipv4_opened(pair):
    pair.left.ping(pair.right)
    pair.network.run(1)
    ping = pair.left.ping(str(pair.right.addresses[1]))
    pair.network.run(1)
    assert ping.answers == 1
    assert pair.network.channel.count(Kind.ASK) == 1


def test_a_burst_to_two_peers_is_sorted_by_destination():
    network = SimNetwork(seed=3)
    a, b, c = (network.add_node(name, teams=["ops"]) for name in "abc")
    a.send_burst([a.packet(to, text) for to, text in ((b, b"1"), (c, b"2"), (b, b"3"))])
    network.run(1)
    assert b.payloads() == [b"1", b"3"]
    assert c.payloads() == [b"2"]


def test_a_node_that_is_a_neighbour_already_loses_no_first_packet(relayed):
    """The tether stands before the streams: a frame could overtake the Open that keys it."""
    network, relay = relayed.network, relayed.relays[0]
    network.guardian.attach(relay.name, "ops")
    relayed.left.ping(relayed.right)
    network.run(3)
    assert relayed.left.anchor.neighbours.get(relay.node_id) is not None
    network.channel.delay_s = 0.2
    before = len(relay.received)
    relayed.left.send_packet(relay, b"first")
    network.run(2)
    assert relay.payloads()[before:] == [b"first"]
    assert "frame_of_unknown_stream" not in relay.anchor.counters


def test_a_peer_that_cannot_make_tethers_answers_without_one(pair):
    pair.right.makes_tethers = False
    ping = pair.left.ping(pair.right)
    pair.network.run(3)
    assert ping.answers == 0
    assert next(e for _, e in pair.left.events).startswith("opened right")


def test_the_protocol_runs_the_same_with_real_cryptography():
    network = SimNetwork(seed=4, crypto=OpenSslCrypto({}))
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    network.add_node("relay")
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1


@pytest.mark.parametrize("payload_bytes", [0, 1, 1_400, 40_000])
def test_packets_of_every_size_go_through_whole(pair, payload_bytes):
    payload = bytes(n % 251 for n in range(payload_bytes))
    pair.left.send_packet(pair.right, payload)
    pair.network.run(1)
    assert pair.right.payloads() == [payload]


@pytest.mark.parametrize("lead_ms", range(0, 200, 5))
def test_packet_does_not_overtake_the_open_over_a_tether_that_another_handshake_made(lead_ms):
    """A tether is made for relaying while the streams of the same two are still being keyed."""
    network = SimNetwork(seed=4)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.underlay.default.delay_s = 0.002
    right.deferred_s = 0.03
    left.anchor.asker.tether(right.node_id, network.now())
    network.run(lead_ms / 1000)
    ping = left.ping(right)
    network.run(5)
    assert ping.answers == 1
    assert right.anchor.counters["frame_of_unknown_stream"] == 0
