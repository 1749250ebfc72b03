"""Idleness, waiting, limits, and two hours of virtual time."""

from __future__ import annotations

from conflux.anchor.egress import WAITING_BYTES, WAITING_S
from conflux.testing.simnet import SimNetwork, SimNode


def tables(node: SimNode) -> dict[str, int]:
    """The size of everything that a node keeps."""
    anchor = node.anchor
    exchange, routing, egress = anchor.exchange, anchor.routing, anchor.egress
    return {
        "sessions": len(anchor.sessions),
        "inbound": len(anchor.ingress._streams),
        "neighbours": len(anchor.neighbours.all()),
        "labels": sum(len(n.labels) for n in anchor.neighbours.all()),
        "relayed": len(anchor.relay._routes),
        "reaches": len(routing.all()),
        "pending": len(routing._pending),
        "egressers": len(egress._egressers),
        "bound": len(egress._sessions),
        "waiting": egress._waiting_bytes,
        "asked": len(exchange.asking._asked),
        "working": len(exchange.answering._working),
        "answered": len(exchange.answering._answered),
        "answers": len(exchange.answering._answers),
        "established": len(exchange.answering._established),
        "opened": len(exchange.asking._opened),
        "kept": anchor.resender.kept_bytes + anchor.resender.slots,
        "ledgers": len(anchor.resender._by_stream),
        "pumping": len(anchor.resender._pumping),
    }


def test_idle_streams_routes_and_tethers_dissolve_and_come_back_on_the_next_packet(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(300)
    for node in network.nodes.values():
        assert not any(tables(node).values()), node.name
        assert network.underlay.tethers(node.name) == []
        # Housekeeping is all that is left to do.
        assert len([t for _, _, t in node.anchor.timers._heap if t.callback]) == 1
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1


def test_one_way_traffic_keeps_its_stream_and_a_way_back_for_reports(pair):
    network, left, right = pair.network, pair.left, pair.right
    for n in range(300):
        left.send_packet(right, str(n).encode())
        network.run(1)
    assert right.payloads() == [str(n).encode() for n in range(300)]
    assert right.anchor.routing.get(left.node_id).routes
    assert left.anchor.resender.slots <= 1
    ping = right.ping(left)
    network.run(1)
    assert ping.answers == 1


def test_packets_without_a_way_wait_five_seconds_and_64_kb(pair):
    network, left, right = pair.network, pair.left, pair.right
    network.channel.is_down = True
    for n in range(1_000):
        left.send_packet(right, n.to_bytes(4, "big") * 25)
    assert left.anchor.egress._waiting_bytes <= WAITING_BYTES
    kept = left.anchor.egress._egressers[right.address.packed].waiting
    assert sum(len(superframe) for _, superframe in kept) == left.anchor.egress._waiting_bytes
    network.run(WAITING_S + 0.1)
    assert left.anchor.egress._waiting_bytes == 0
    assert left.received == right.received == []


def test_packets_that_waited_less_than_five_seconds_are_delivered_in_order(pair):
    network, left, right = pair.network, pair.left, pair.right
    network.channel.is_down = True
    sent = [str(n).encode() for n in range(20)]
    for payload in sent:
        left.send_packet(right, payload)
        network.run(0.1)
    network.channel.is_down = False
    network.run(2)
    assert right.payloads() == sent


def test_packets_to_addresses_that_cannot_exist_ask_for_nobody(pair):
    for address in ("10.77.255.255", "10.77.0.0", "224.0.0.1", "127.0.0.1", "192.0.2.1"):
        pair.left.send_packet(address, b"nobody")
    pair.left.send_packet("ff02::1", b"nobody")
    pair.left.send_packet(pair.left, b"myself")
    pair.network.run(10)
    assert pair.network.channel.messages == []
    assert pair.left.anchor.counters["packet_to_nowhere"] == 7


def test_a_scan_of_the_plane_stays_within_bounds(pair):
    network, left = pair.network, pair.left
    network.channel.records = False
    for n in range(6_000):
        left.send_packet(f"10.77.{100 + n // 250}.{1 + n % 250}", b"anybody there?")
    network.run(1)
    assert tables(left)["egressers"] <= 4_096
    assert tables(left)["asked"] <= 256
    network.run(200)
    assert tables(left)["egressers"] == tables(left)["asked"] == 0


def test_a_stopped_node_closes_its_tethers_and_asks_for_nothing(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    network.channel.is_down = True
    left.send_packet("10.77.200.1", b"still waiting")
    published = sum(network.channel.published.values())
    left.stop()
    assert sum(network.channel.published.values()) == published
    network.run(0.1)
    assert right.anchor.neighbours.all() == []


def run_a_busy_hour(seed: int) -> str:
    network = SimNetwork(seed)
    network.underlay.default.loss = 0.02
    network.underlay.default.jitter_s = 0.005
    nodes = [network.add_node(f"n{n}", teams=["ops"]) for n in range(5)]
    network.block(nodes[0], nodes[1], nodes[2])
    for second in range(60):
        nodes[second % 5].ping(nodes[(second * 3 + 1) % 5])
        if second % 20 == 13:
            nodes[3].restart()
        network.run(1)
    return network.fingerprint()


def test_the_same_seed_makes_the_same_run_to_the_last_byte():
    assert run_a_busy_hour(1) == run_a_busy_hour(1)
    assert run_a_busy_hour(1) != run_a_busy_hour(2)


def test_hours_of_churn_leave_nothing_behind():
    network = SimNetwork(seed=9)
    network.channel.records = False
    network.channel.loss = 0.05
    network.underlay.default.loss = 0.02
    chance = network.underlay.chance
    nodes = [network.add_node(f"n{n}", teams=["ops"]) for n in range(6)]
    for node in nodes:
        node.keeps_received = False
    for minute in range(120):
        one, other, third = chance.sample(nodes, 3)
        network.link(one, other).blocked = not network.link(one, other).blocked
        if minute % 10 == 5:
            third.restart()
        for _ in range(5):
            one.ping(other)
            network.run(12)
    for link in network.underlay._links.values():
        link.blocked = False
    network.run(400)
    for node in nodes:
        assert not any(tables(node).values()), (node.name, tables(node))
        assert len(node.anchor.timers._heap) < 20
        assert network.underlay.tethers(node.name) == []
    assert len(network.underlay._tethers) == 0
    pings = [nodes[n].ping(nodes[(n + 1) % 6]) for n in range(6)]
    network.channel.loss = network.underlay.default.loss = 0
    for link in network.underlay._links.values():
        link.loss = 0
    network.run(5)
    assert all(ping.answers == 1 for ping in pings)
