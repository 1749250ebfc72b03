"""Address probing: a member of the plane without a common team cannot tell which addresses exist.

Two runs of one seed that differ in nothing but the address that is asked for: whatever comes back
to the prober, by the Master and over each of his tethers, has the same size at the same time.
"""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from conflux.anchor import handshake
from conflux.anchor.identity import address_tag, node_tag, relay_tag
from conflux.anchor.post import FLOOD_RELAYS
from conflux.testing.simnet import SimNetwork
from conflux.wire.control import Answer, Kind, Purpose, Target, TargetKind, envelope
from conflux.wire.inband import Flood

NOBODY = ip_address("10.77.0.99").packed
OBSERVED_S = 30.0

Trace = list[tuple[float, str, int, int]]


class Probed:
    """A team of three who talk, and a stranger with tethers to two of them."""

    def __init__(self) -> None:
        self.network = network = SimNetwork(seed=13)
        self.hub, self.one, self.two = (
            network.add_node(name, teams=["ops"]) for name in ("hub", "one", "two")
        )
        self.prober = network.add_node("prober", teams=["others"])
        self.insider = network.add_insider("insider", teams=["others"])
        self.insider.listen()
        for node in (self.hub, self.one):
            self.prober.anchor.asker.tether(node.node_id, network.now())
            network.run(1)
        self.one.ping(self.hub)
        self.two.ping(self.hub)
        network.run(3)
        self.trace: Trace = []
        self._began = network.now()

    def observe(self) -> Trace:
        """All that comes to the prober and to the insider from now on, for OBSERVED_S."""
        for neighbour in self.prober.anchor.neighbours.all():
            tether, name = neighbour.tethers[-1], self.network.name_of(neighbour.node_id)
            tether._on_datagram = self._noting(f"datagram of {name}", tether._on_datagram)
            tether._on_reliable = self._noting(f"reliable of {name}", tether._on_reliable)
        self.network.run(OBSERVED_S)
        self.trace += [
            (round(when - self._began, 6), "control", payload[1], len(payload))
            for when, payload in self.insider.heard
        ]
        return self.trace

    def _noting(self, lane, receive):
        def note(message: memoryview) -> None:
            when = round(self.network.now() - self._began, 6)
            self.trace.append((when, lane, message[0], len(message)))
            receive(message)

        return note


def by_the_master(probed: Probed, address: bytes) -> None:
    """Everything that a prober could publish about an address."""
    insider, plane_key = probed.insider, probed.network.guardian.plane_key
    tag = address_tag(plane_key, address)
    target = Target(TargetKind.ADDRESS, address)
    messages = [
        insider.ask(target).message,
        insider.ask(target, purpose=Purpose.TETHER).message,
        insider.ask(Target(TargetKind.ANY_RELAY), purpose=Purpose.TETHER).message,
        insider.ask(Target(TargetKind.NODE, bytes(32)), purpose=Purpose.TETHER).message,
        *(envelope(kind, bytes(200)) for kind in Kind),
        envelope(Kind.ASK, b""),
        envelope(Kind.ASK, bytes(60_000)),
    ]
    for message in messages:
        for _ in range(2):
            insider.publish(tag, message)


def over_tethers(probed: Probed, address: bytes) -> None:
    """Floods of every reach to the address, by both neighbours."""
    prober, insider = probed.prober, probed.insider
    tag = address_tag(probed.network.guardian.plane_key, address)
    numbers = itertools.count()
    target = Target(TargetKind.ADDRESS, address)
    for neighbour in prober.anchor.neighbours.all():
        for relays in range(FLOOD_RELAYS + 1):
            for message in (insider.ask(target).message, bytes((1, 1)) + bytes(100)):
                flood_id = next(numbers).to_bytes(16, "big")
                handle = prober.anchor.standing.grant.control.handle
                neighbour.send_inband(Flood(flood_id, relays, tag, handle, message))


def packets(probed: Probed, address: bytes) -> None:
    """What an ordinary node of the prober's does, the Master gone or not."""
    probed.prober.send_packet(str(ip_address(address)), b"anybody there?")


@pytest.mark.parametrize("probe", [by_the_master, over_tethers, packets])
@pytest.mark.parametrize("master", ["up", "down"])
@pytest.mark.parametrize("who", ["hub", "one", "two"])
def test_address_probing_shows_the_same_for_addresses_that_exist_and_that_do_not(
    probe, master, who
):
    traces = []
    for exists in (True, False):
        probed = Probed()
        probed.network.channel.is_down = master == "down"
        node = getattr(probed, who)
        probe(probed, node.address.packed if exists else NOBODY)
        traces.append(probed.observe())
    existing, missing = traces
    assert existing == missing
    assert existing, "probes of tethers at least are seen"


def test_the_trace_would_show_an_answer():
    """The test above can fail: a team mate's Ask is answered."""
    probed = Probed()
    probed.network.guardian.attach("insider", "ops")
    grant = probed.network.guardian.grant("insider")
    probed.insider.takes(grant)
    probed.insider.ask_address(probed.hub.address.packed)
    assert Kind.ANSWER in {kind for _, lane, kind, _ in probed.observe() if lane == "control"}


# What else would tell


def heard(probed: Probed) -> list[Kind]:
    return [Kind(payload[1]) for _, payload in probed.insider.heard]


def any_relay(probed: Probed) -> bytes:
    return probed.insider.ask(Target(TargetKind.ANY_RELAY), purpose=Purpose.TETHER).message


def test_an_ask_for_any_relay_under_the_tag_of_an_address_is_not_answered():
    probed = Probed()
    insider, address = probed.insider, probed.hub.address.packed
    insider.publish(insider.tag_of(address), any_relay(probed))
    probed.network.run(5)
    assert heard(probed) == []
    assert probed.hub.anchor.counters["control: Ask under another tag than that of its target"] == 1


def test_an_ask_that_was_answered_is_not_answered_again_under_the_tag_of_an_address():
    probed = Probed()
    insider, ask = probed.insider, any_relay(probed)
    while not heard(probed):
        insider.publish(relay_tag(probed.network.guardian.plane_key), ask)
        probed.network.run(0.1)
    before = len(heard(probed))
    for node in (probed.hub, probed.one, probed.two):
        insider.publish(insider.tag_of(node.address.packed), ask)
    probed.network.run(5)
    assert len(heard(probed)) == before


def test_an_answer_sent_again_under_the_tag_of_an_address_brings_no_open():
    """A node that asked any relay, and so a stranger, for a tether still sends its Open again for
    each such Answer: who knows the Answer must not find out that way what addresses it has."""
    network = SimNetwork(seed=14)
    asker, relay = network.add_node("asker", teams=["ops"]), network.add_node("relay")
    asker.anchor.asker.tether(relay.node_id, network.now())
    network.run(1)
    (answer,) = [m for m in network.channel.messages if m.kind is Kind.ANSWER]
    opens = network.channel.count(Kind.OPEN)
    plane_key = network.guardian.plane_key
    handle = node_tag(plane_key, asker.node_id)
    for tag, more in ((address_tag(plane_key, asker.address.packed), 0), (handle, 1)):
        network.channel.publish(answer.sender, tag, answer.payload)
        network.run(1)
        assert network.channel.count(Kind.OPEN) - opens == more


def test_strangers_who_make_tethers_see_each_others_keys_and_no_addresses():
    """All that asks for tethers, answers for them, and neighbours' certificates hold."""
    probed = Probed()
    insider, network = probed.insider, probed.network
    ask = insider.ask(Target(TargetKind.ANY_RELAY), purpose=Purpose.TETHER)
    insider.publish(relay_tag(network.guardian.plane_key), ask.message)
    network.run(1)
    (answer,) = [payload for _, payload in insider.heard if payload[1] == Kind.ANSWER]
    ref, sealed = answer[2:18], answer[18:]
    opened = Answer.decode(ask.key.open(sealed, info=b"VeilNet/1 answer seal", aad=ref))
    shown = [opened.certificate]
    for message in network.channel.messages:
        if message.kind is Kind.ASK:
            asked = insider.read_ask(message.payload)
            shown += [asked.certificate] if asked.purpose is Purpose.TETHER else []
    neighbours = probed.prober.anchor.neighbours.all()
    shown += [neighbour.peer.certificate for neighbour in neighbours]
    assert len(shown) >= 5
    assert all(not certificate.addresses and certificate.hidden for certificate in shown)


def test_an_ask_for_streams_that_hides_its_addresses_is_refused():
    network = SimNetwork(seed=15)
    node = network.add_node("node", teams=["ops"])
    shy = network.add_insider("shy", teams=["ops"])
    shy.shows(shy.standing.grant.certificate.bare())
    shy.ask_address(node.address.packed)
    network.run(5)
    why = "Ask for streams without the addresses that they are for"
    assert node.anchor.counters[f"control: {why}"] == 1
    assert network.channel.count(Kind.ANSWER) == 0


def test_an_answer_for_streams_that_hides_its_addresses_is_refused(monkeypatch):
    network = SimNetwork(seed=15)
    left, shy = (network.add_node(name, teams=["ops"]) for name in ("left", "shy"))
    shown = handshake._shown

    def hides(me, purpose):
        certificate = shown(me, purpose)
        return certificate.bare() if me.node_id == shy.node_id else certificate

    monkeypatch.setattr(handshake, "_shown", hides)
    left.send_packet(shy, b"hello")
    network.run(8)
    why = "Answer for streams without the addresses that they are for"
    assert left.anchor.counters[f"control: {why}"] >= 1
    assert not left.anchor.sessions
    assert shy.received == []
