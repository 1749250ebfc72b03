"""Idleness, waiting, limits, and a day of virtual time."""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest

from conflux.anchor.egress import WAITING_BYTES, WAITING_S
from conflux.anchor.idle import IdleTimes
from conflux.testing.fakes import FakeCrypto
from conflux.testing.simnet import Link, Ping, SimNetwork, SimNode
from conflux.testing.simnet.footprint import footprint
from conflux.wire.credentials import Revoked


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


@pytest.mark.parametrize("stream_s", [1, 2.5, 10, 60, 110])
def test_idle_times_that_are_set_hold_and_lose_no_packet(stream_s):
    idle = IdleTimes(stream_s=stream_s, route_s=stream_s, tether_s=stream_s)
    network = SimNetwork(seed=5, idle=idle)
    left, right, relay = (network.add_node(name, teams=["ops"]) for name in ("l", "r", "relay"))
    for blocked in (False, True):
        network.link(left, right).blocked = blocked
        left.ping(right)
        network.run(0.5)
        network.run(0.9 * stream_s - 0.5)
        assert left.anchor.sessions
        assert left.anchor.routing.get(right.node_id).routes
        # The peer's stream to us outlasts ours, and a tether both.
        network.run(idle.inbound_s + idle.tether_s + 3 * idle.housekeeping_s)
        for node in (left, right, relay):
            kept = tables(node)
            dissolved = ("sessions", "reaches", "relayed", "labels", "neighbours")
            assert not any(kept[what] for what in dissolved), (node.name, kept)
        ping = left.ping(right)
        network.run(3)
        assert ping.answers == 1
    network.run(300)
    for node in (left, right, relay):
        assert not any(tables(node).values()), (node.name, tables(node))
        assert network.underlay.tethers(node.name) == []


@pytest.mark.parametrize("pause_s", [1.7, 2.0, 2.2, 2.5, 2.9, 3.3, 4.1, 4.5, 5.0])
def test_packet_after_a_pause_about_as_long_as_the_idle_time_is_not_lost(pause_s):
    """At each moment between the sender's forgetting and the receiver's."""
    network = SimNetwork(seed=6, idle=IdleTimes(stream_s=2, route_s=2, tether_s=2))
    left, right, _ = (network.add_node(name, teams=["ops"]) for name in ("l", "r", "relay"))
    pings = []
    for _ in range(20):
        pings.append(left.ping(right))
        network.run(pause_s + 0.13)
    network.run(3)
    assert [ping.answers for ping in pings] == [1] * 20


def test_stream_that_idles_for_longer_than_its_peer_keeps_it_is_opened_anew():
    network = SimNetwork(seed=7, idle=IdleTimes(stream_s=2))
    left = network.add_node("left", teams=["ops"])
    network.idle = IdleTimes(stream_s=60)
    right = network.add_node("right", teams=["ops"])
    left.ping(right)
    network.run(30)
    assert not left.anchor.sessions
    lost, ping = right.ping(left), None
    network.run(1)
    assert lost.answers == 0
    ping = right.ping(left)
    network.run(3)
    assert ping.answers == 1


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


def seen(node: SimNode, what: str) -> int:
    """How many events of *node* speak of *what*."""
    return sum(what in event for _, event in node.events)


class Day:
    """Six nodes that join, leave, crash, talk and rest; rough links while they talk."""

    def __init__(self, seed: int) -> None:
        self.network = network = SimNetwork(seed)
        network.channel.records = False
        self.chance = random.Random(seed)
        self.nodes = [network.add_node(f"n{n}", teams=["ops"]) for n in range(6)]
        for node in self.nodes:
            node.keeps_received = False
        self.rekeyed = 0
        self.rest(REST_S)
        self.at_start = self.kept()

    def kept(self) -> dict[str, object]:
        """All that there is at rest, of each node and of all together."""
        gc.collect()
        # What the counters count is bounded by the code that names it, and meant to stay.
        sizes = [footprint(n.anchor, beyond=(SimNode, FakeCrypto)) for n in self.nodes]
        for found in sizes:
            found.pop(".counters", None)
            # Of each start a serial stays, for as long as its certificate would have lived.
            for way in [way for way in found if "revoked" in way]:
                del found[way]
        mine = ("conflux.anchor.", "conflux.wire.", "conflux.testing.simnet.underlay")
        alive = Counter(
            type(thing).__qualname__
            for thing in gc.get_objects()
            # Some classes of others define __module__ for their instances: then it is no text here.
            if str(type(thing).__module__).startswith(mine) and type(thing) is not Link
        )
        alive.pop(Revoked.__name__, None)
        network = self.network
        return {
            **{f"node {n.name}": dict(found) for n, found in zip(self.nodes, sizes, strict=True)},
            "objects": dict(alive),
            "tethers": len(network.underlay._tethers),
            "calls due": len(network.clock._queue),
            "listeners": sum(map(len, network.channel._shared.values())),
        }

    def make_links(self, *, rough: bool) -> None:
        network = self.network
        network.channel.loss = 0.05 if rough else 0.0
        for link in (network.underlay.default, *network.underlay._links.values()):
            link.loss = 0.02 if rough else 0.0
            link.jitter_s = 0.005 if rough else 0.0
            if not rough:
                link.blocked = False

    def wake(self) -> list[Ping]:
        """One packet for each node, after hours without any, some over relays."""
        one, other, third, *_ = self.chance.sample(self.nodes, 6)
        self.network.block(one, other, third)
        pings = [
            a.ping(b) for a, b in zip(self.nodes, self.nodes[1:] + self.nodes[:1], strict=True)
        ]
        self.network.run(10)
        return pings

    def talk(self, minutes: int) -> None:
        """Two talk without a pause, while things happen to all of them."""
        one, other = self.chance.sample(self.nodes, 2)
        session = None
        for ten_seconds in range(6 * minutes):
            if ten_seconds % 6 == 5:
                self.disturb()
            if one.is_alive and other.is_alive:
                one.ping(other)
            before, closed = session, seen(one, "closed")
            self.network.run(10)
            session = one.anchor.sessions.get(other.node_id)
            self.rekeyed += bool(before and session is not before and seen(one, "closed") == closed)

    def disturb(self) -> None:
        """Whatever happens to a network, once."""
        network = self.network
        one, other = self.chance.sample(self.nodes, 2)
        what = self.chance.randrange(6)
        if what == 0:
            one.restart()
        elif what == 1 and one.is_alive:
            self.chance.choice([one.stop, one.crash])()
        elif what == 2:
            network.channel.is_down = not network.channel.is_down
        elif what == 3:
            network.guardian.detach(one.name, "ops")
            network.guardian.attach(one.name, "ops")
        else:
            link = network.link(one, other)
            link.blocked = not link.blocked

    def rest(self, until_s: float) -> None:
        self.make_links(rough=False)
        self.network.channel.is_down = False
        for node in self.nodes:
            if not node.is_alive:
                node.start()
            self.network.guardian.push(node.name)
        self.network.run(until_s - self.network.now())


SEEN = ("opened", "closed", "idle", "no route", "revoked", "team changed", "granted", ">")
"""Of what happens to streams and routes, how often is looked for; the last: a relayed route."""
REST_S = 600.0
HOUR_S = 3_600.0


def test_a_day_of_churn_leaves_nothing_behind():
    day = Day(seed=9)
    for hour in range(24):
        pings = day.wake()
        assert [ping.answers for ping in pings] == [1] * 6, f"hour {hour}: lost at the wake-up"
        day.make_links(rough=True)
        day.talk(minutes=3)
        day.rest(until_s=(hour + 1) * HOUR_S + REST_S)
        assert day.kept() == day.at_start, f"hour {hour}"
    assert day.network.now() == 24 * HOUR_S + REST_S
    saw = {what: sum(seen(node, what) for node in day.nodes) for what in SEEN}
    assert all(saw.values()), saw
    assert day.rekeyed >= 12
