"""A relay that drops, delays, doubles, corrupts or substitutes the frames that it should carry.

Two relays stand between the pair; one of them has the malice that is named. A flow as TCP is one,
each segment sent again until it is acknowledged, must come through; nothing is delivered twice or
changed; and a relay that harms the flow is left.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.frame import HEADER_BYTES, INNER, OUTER
from conflux.wire.inband import LabelUnknown, Setup, SetupOk
from conflux_router_static.router import StaticRouter

Send = Callable[[bytes], None]
Malice = Callable[["Malicious", bytes, Send], None]


class Malicious:
    """Wraps what *relay* forwards; *malice* gets each frame, and what sends one on."""

    def __init__(self, network: SimNetwork, relay: SimNode, malice: Malice) -> None:
        self.network = network
        self.chance = network.underlay.chance
        self.relay = relay
        self.passed = 0
        self.harmed = 0
        self.recorded: list[bytes] = []
        forward = relay.anchor.relay.forward

        def take(message, hop_limit, hop, *, now):
            def send(frame: bytes) -> None:
                forward(memoryview(bytearray(frame)), hop_limit, hop, now=network.now())

            self.passed += 1
            malice(self, bytes(message), send)

        relay.anchor.relay.forward = take


def drops_a_tenth(relay: Malicious, frame: bytes, send: Send) -> None:
    if relay.chance.random() < 0.1:
        relay.harmed += 1
        return
    send(frame)


def drops_all(relay: Malicious, frame: bytes, send: Send) -> None:
    relay.harmed += 1


def delays_by_two_seconds(relay: Malicious, frame: bytes, send: Send) -> None:
    relay.harmed += 1
    relay.network.clock.after(2.0, lambda: send(frame))


def doubles_tenfold(relay: Malicious, frame: bytes, send: Send) -> None:
    relay.harmed += 1
    for _ in range(10):
        send(frame)


def corrupts_a_bit(relay: Malicious, frame: bytes, send: Send) -> None:
    """Anywhere behind the outer header, which every relay may change."""
    relay.harmed += 1
    spoilt = bytearray(frame)
    spoilt[relay.chance.randrange(OUTER.size, len(frame))] ^= 1 << relay.chance.randrange(8)
    send(bytes(spoilt))


def cuts(relay: Malicious, frame: bytes, send: Send) -> None:
    relay.harmed += 1
    send(frame[: relay.chance.randrange(OUTER.size, len(frame))])


def substitutes_old_frames(relay: Malicious, frame: bytes, send: Send) -> None:
    relay.recorded.append(frame)
    if len(relay.recorded) > 20:
        relay.harmed += 1
        frame = relay.chance.choice(relay.recorded[:-1])
    send(frame)


def substitutes_frames_of_another_stream(relay: Malicious, frame: bytes, send: Send) -> None:
    """The sealed part of a frame of the other direction, under this one's header."""
    relay.recorded.append(frame)
    (stream_id, _) = INNER.unpack_from(frame, OUTER.size)
    others = [f for f in relay.recorded[-50:] if INNER.unpack_from(f, OUTER.size)[0] != stream_id]
    if others:
        relay.harmed += 1
        frame = frame[:HEADER_BYTES] + others[-1][HEADER_BYTES:]
    send(frame)


def sends_to_another_stream(relay: Malicious, frame: bytes, send: Send) -> None:
    """Whole frames of the other direction: they come back to who sealed them."""
    relay.recorded.append(frame)
    (stream_id, _) = INNER.unpack_from(frame, OUTER.size)
    others = [f for f in relay.recorded[-50:] if INNER.unpack_from(f, OUTER.size)[0] != stream_id]
    relay.harmed += bool(others)
    send(others[-1] if others else frame)


def raises_the_counter(relay: Malicious, frame: bytes, send: Send) -> None:
    """To move the receiver's window beyond what is still to come."""
    relay.harmed += 1
    changed = bytearray(frame)
    struct.pack_into(">Q", changed, OUTER.size + 8, 2**63 + relay.harmed)
    send(bytes(changed))


HARMFUL = (
    drops_all,
    delays_by_two_seconds,
    corrupts_a_bit,
    cuts,
    substitutes_old_frames,
    substitutes_frames_of_another_stream,
    sends_to_another_stream,
    raises_the_counter,
)
TOLERABLE = (drops_a_tenth, doubles_tenfold)


@dataclass
class Flow:
    """Segments of a TCP-like flow both ways: a window of WINDOW, each sent again until echoed."""

    network: SimNetwork
    source: SimNode
    target: SimNode
    size: int
    port: int
    sent: list[bytes] = field(default_factory=list)
    acked: set[int] = field(default_factory=set)
    pings: dict[int, list] = field(default_factory=dict)

    WINDOW = 16
    RTO_S = 0.4

    def run(self, deadline_s: float) -> bool:
        """Send all; False if that takes longer."""
        until = self.network.now() + deadline_s
        while len(self.acked) < self.size and self.network.now() < until:
            first = min(set(range(self.size)) - self.acked)
            for number in range(first, min(first + self.WINDOW, self.size)):
                self._send(number)
            self.network.run(0.01)
        return len(self.acked) == self.size

    def _send(self, number: int) -> None:
        tries = self.pings.setdefault(number, [])
        if any(ping.answers for ping in tries):
            self.acked.add(number)
        elif not tries or self.network.now() - tries[-1].sent_at > self.RTO_S * len(tries):
            tries.append(self.source.ping(self.target, port=self.port))

    @property
    def answered_twice(self) -> int:
        return sum(ping.answers > 1 for tries in self.pings.values() for ping in tries)


@dataclass
class Between:
    network: SimNetwork
    left: SimNode
    right: SimNode
    bad: SimNode
    good: SimNode

    def paths(self) -> list[tuple]:
        ends = ((self.left, self.right), (self.right, self.left))
        reaches = [one.anchor.routing.get(other.node_id) for one, other in ends]
        return [route.path for reach in reaches for route in reach.routes]


@pytest.fixture
def between(packet_auth) -> Between:
    """Two relays, both in use, and the router that nodes have by default."""
    network = SimNetwork(seed=5, packet_auth=packet_auth)
    make = lambda: StaticRouter({})  # noqa: E731
    left, right = (network.add_node(name, teams=["ops"], router=make) for name in ("left", "right"))
    network.block(left, right)
    bad, good = (network.add_node(name, router=make) for name in ("bad", "good"))
    left.ping(right)
    network.run(5)
    found = Between(network, left, right, bad, good)
    used = {node for path in found.paths() for node in path[1:-1]}
    assert used == {bad.node_id, good.node_id}
    return found


@pytest.mark.parametrize("malice", HARMFUL + TOLERABLE, ids=lambda malice: malice.__name__)
def test_a_flow_survives_a_relay_that(between, malice):
    network, left, right = between.network, between.left, between.right
    relay = Malicious(network, between.bad, malice)
    already = len(right.received)
    flows = [Flow(network, left, right, 150, port) for port in (2_001, 2_002, 2_003)]
    assert all(flow.run(30) for flow in flows)
    network.run(5)
    assert relay.harmed > 0
    received = right.payloads()[already:]
    assert len(received) == len(set(received)), "nothing is delivered twice"
    genuine = {b"ping %d" % number for number in range(10_000)}
    assert set(received) <= genuine, "or changed"
    assert max(flow.answered_twice for flow in flows) == 0
    assert right.anchor.counters["security_frame_forged"] == 0
    assert left.anchor.counters["security_frame_forged"] == 0
    assert left.node_id in right.anchor.sessions, "the session is not the relay's to end"


@pytest.mark.parametrize("malice", HARMFUL, ids=lambda malice: malice.__name__)
def test_next_to_nothing_goes_any_more_over_a_relay_that(between, malice):
    network, left, right = between.network, between.left, between.right
    relay = Malicious(network, between.bad, malice)
    assert Flow(network, left, right, 300, 2_001).run(60)
    assert Flow(network, right, left, 300, 2_002).run(60)
    before = relay.passed
    flow = Flow(network, left, right, 600, 2_003)
    assert flow.run(10)
    assert relay.passed - before < 0.05 * 2 * flow.size


def test_a_relay_that_breaks_each_route_as_soon_as_it_stands_is_tried_less_and_less(between):
    network, left, bad = between.network, between.left, between.bad
    set_ups: list[float] = []
    receive = bad.anchor.relay.received

    def break_at_once(neighbour, message, now):
        if isinstance(message, Setup) and neighbour.node_id == left.node_id:
            set_ups.append(now)
            neighbour.send_inband(SetupOk(message.route_id, 7))
            neighbour.send_inband(LabelUnknown(7))
        else:
            receive(neighbour, message, now)

    bad.anchor.relay.received = break_at_once
    (route,) = [
        route
        for route in left.anchor.routing.get(between.right.node_id).routes
        if route.path[1] == bad.node_id
    ]
    bad.anchor.neighbours.get(left.node_id).send_inband(LabelUnknown(route.label))
    pings = []
    for _ in range(300):
        pings.append(left.ping(between.right))
        network.run(0.1)
    assert 3 < len(set_ups) < 12
    assert sum(ping.answers == 1 for ping in pings) > 290


def claims_round_trips(relay: SimNode, rtt_us: int) -> None:
    """What *relay* says of the hops behind it in each SETUP_OK is *rtt_us*."""
    label = relay.anchor.relay._label

    def lie(relayed, answer, after, now):
        return label(relayed, replace(answer, rtts_us=[rtt_us]), after, now)

    relay.anchor.relay._label = lie


@pytest.mark.parametrize("claim_s", [0, 4, 4_000])
def test_relays_that_work_together_one_swallows_one_lies_about_delays(packet_auth, claim_s):
    """A copy that comes by the one must not be credited to the other, whatever it claims."""
    network = SimNetwork(seed=8, packet_auth=packet_auth)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    swallower, liar = (network.add_node(name) for name in ("swallower", "liar"))
    claims_round_trips(liar, int(claim_s * 1e6))
    left.ping(right)
    network.run(5)
    relay = Malicious(network, swallower, drops_all)
    flows = [Flow(network, left, right, 300, port) for port in range(2_000, 2_006)]
    assert all(flow.run(20) for flow in flows)
    assert relay.harmed > 0
    before = relay.passed
    more = Flow(network, left, right, 600, 2_003)
    assert more.run(10)
    assert relay.passed - before < 0.05 * 2 * more.size
    assert left.anchor.counters["route_back"] <= 1
