"""Neighbours, relays and the Master try what they can: it is dropped, counted, bounded."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from conflux.anchor import asking, handshake
from conflux.anchor.answering import MAX_ANSWERED, MAX_PER_SENDER
from conflux.anchor.grants import GUARDIAN_HANDLE
from conflux.anchor.identity import node_tag, relay_tag
from conflux.anchor.relay import MAX_ROUTES_PER_NEIGHBOUR, MAX_WAITING_PER_NEIGHBOUR
from conflux.anchor.route import RELAY_ASKS
from conflux.api import Layout, Router
from conflux.testing import EqualRouter
from conflux.testing.packets import udp_packet
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import AuthLevel, Kind, Purpose, Target, TargetKind, envelope
from conflux.wire.frame import HEADER_BYTES, OUTER, SIZE
from conflux.wire.inband import LabelUnknown, Reason, Setup, SetupOk, Teardown

DATA_BYTE = 0x10


def talk(pair) -> None:
    ping = pair.left.ping(pair.right)
    pair.network.run(3)
    assert ping.answers == 1


def tether(source: SimNode, target: SimNode):
    return source.anchor.neighbours.get(target.node_id).tethers[-1]


def sent_frames(network: SimNetwork, source: SimNode) -> list[bytes]:
    """From now on, every frame with packets that *source* sends; probes and greetings left out."""
    frames: list[bytes] = []

    def note(sender: str, _: str, message: bytes) -> None:
        if sender == source.name and message[0] == DATA_BYTE and len(message) > 50:
            frames.append(message)

    network.on_datagram = note
    return frames


def smuggle(source: SimNode, target: SimNode, packet: bytes, *, spoil: int | None = None) -> None:
    """Seal and send *packet* without the checks at the sender's own end, byte *spoil* changed."""
    session = source.anchor.sessions[target.node_id]
    superframe = bytes((Layout.BARE,)) + SIZE.pack(len(packet)) + packet
    frame = session.out.seal(memoryview(superframe), now=source.now())
    if spoil is not None:
        frame[spoil] ^= 0x80
    route = source.anchor.routing.get(target.node_id).choose(0)
    route.send(frame, now=source.now())


# Frames


def test_replayed_frame_is_dropped_and_counted(pair):
    talk(pair)
    frames = sent_frames(pair.network, pair.left)
    pair.left.send_packet(pair.right, b"once")
    pair.network.run(1)
    replayed = frames * 3
    tether(pair.left, pair.right).send(replayed)
    pair.network.run(1)
    assert pair.right.payloads().count(b"once") == 1
    assert pair.right.anchor.counters["frame_replayed"] == len(replayed) > 0


@pytest.mark.parametrize("at", [OUTER.size, OUTER.size + 8, HEADER_BYTES, -1])
def test_frame_with_a_changed_bit_is_dropped_and_counted(pair, at):
    talk(pair)
    frames = sent_frames(pair.network, pair.left)
    pair.network.underlay.link("left", "right").duplicate = 1.0
    smuggle(pair.left, pair.right, pair.left.packet(pair.right, b"true"), spoil=at)
    pair.network.run(1)
    assert frames
    assert b"true" not in pair.right.payloads()
    counters = pair.right.anchor.counters
    assert counters["frame_forged"] + counters["frame_of_unknown_stream"] == 2


def test_a_forged_counter_does_not_move_the_replay_window(pair):
    talk(pair)
    frames = sent_frames(pair.network, pair.left)
    pair.left.send_packet(pair.right, b"true")
    pair.network.run(1)
    forged = bytearray(frames[0])
    struct.pack_into(">Q", forged, OUTER.size + 8, 2**63)
    tether(pair.left, pair.right).send([forged])
    pair.network.run(1)
    pair.left.send_packet(pair.right, b"next")
    pair.network.run(1)
    assert pair.right.payloads()[-2:] == [b"true", b"next"]


def test_noise_on_a_tether_is_counted_and_harms_nothing(pair):
    talk(pair)
    noise = pair.network.underlay.chance
    pipe = tether(pair.left, pair.right)
    for size in range(120):
        pipe.send([noise.randbytes(size)])
        pipe.send([b"\x10\x01\x00\x00\x00\x00\x00\x00" + noise.randbytes(size)])
        pipe.send_reliable(noise.randbytes(size))
        pair.network.run(0.01)
    talk(pair)
    counters = pair.right.anchor.counters
    assert counters["tether_malformed"] > 90
    assert counters["inband_malformed"] > 100


def test_packets_from_foreign_sources_do_not_leave_the_node(pair):
    talk(pair)
    foreign = pair.network.add_node("third", teams=["ops"])
    pair.left.send_burst([udp_packet(foreign.address, pair.right.address, b"not mine")])
    pair.network.run(1)
    assert b"not mine" not in pair.right.payloads()
    assert pair.left.anchor.counters["packet_source_not_ours"] == 1


def test_spoofed_inner_source_is_dropped_at_the_receiver(pair):
    talk(pair)
    third = pair.network.add_node("third", teams=["ops"])
    smuggle(pair.left, pair.right, udp_packet(third.address, pair.right.address, b"spoofed"))
    pair.network.run(1)
    assert b"spoofed" not in pair.right.payloads()
    assert pair.right.anchor.counters["packet_source_not_in_certificate"] == 1


def test_inner_destination_that_is_not_the_receiver_is_dropped(pair):
    talk(pair)
    third = pair.network.add_node("third", teams=["ops"])
    smuggle(pair.left, pair.right, udp_packet(pair.left.address, third.address, b"pass it on"))
    pair.network.run(1)
    assert b"pass it on" not in pair.right.payloads() + third.payloads()
    assert pair.right.anchor.counters["packet_destination_not_ours"] == 1


def test_one_bad_record_does_not_cost_the_good_ones_beside_it(pair):
    talk(pair)
    left, right = pair.left, pair.right
    good = [left.packet(right, text) for text in (b"good 1", b"good 2")]
    bad = udp_packet(right.address, right.address, b"bad")
    superframe = bytes((Layout.BARE,)) + b"".join(
        SIZE.pack(len(packet)) + packet for packet in (good[0], bad, good[1])
    )
    frame = left.anchor.sessions[right.node_id].out.seal(memoryview(superframe), now=left.now())
    left.anchor.routing.get(right.node_id).choose(0).send(frame, now=left.now())
    pair.network.run(1)
    assert right.payloads()[-2:] == [b"good 1", b"good 2"]


# Labels and routes


def test_frame_under_a_label_of_another_tether_is_dropped(relayed):
    talk(relayed)
    route = next(r for r in relayed.left.anchor.routing.get(relayed.right.node_id).routes)
    relay = next(r for r in relayed.relays if r.node_id == route.path[1])
    mallory = relayed.network.add_node("mallory", teams=["ops"])
    relayed.network.guardian.attach(relay.name, "ops")
    relayed.network.run(1)
    mallory.ping(relay)
    relayed.network.run(1)
    frames = sent_frames(relayed.network, relayed.left)
    relayed.left.send_packet(relayed.right, b"labelled", port=7)
    relayed.network.run(1)
    before = relay.anchor.counters["label_unknown"]
    stolen = OUTER.pack(DATA_BYTE, 5, 0, route.label) + frames[0][OUTER.size :]
    tether(mallory, relay).send([stolen])
    relayed.network.run(1)
    assert relay.anchor.counters["label_unknown"] == before + 1
    assert relayed.right.anchor.counters["frame_replayed"] == 0


def test_label_guessing_from_another_tether_finds_nothing(relayed):
    """A neighbour of the relay sends genuine frames of others under every label that was given
    out on the other tethers, and thousands that were not."""
    talk(relayed)
    network, left, right = relayed.network, relayed.left, relayed.right
    route = left.anchor.routing.get(right.node_id).routes[0]
    relay = next(r for r in relayed.relays if r.node_id == route.path[1])
    mallory = network.add_node("mallory")
    mallory.anchor.asker.tether(relay.node_id, network.now())
    network.run(1)
    frames = sent_frames(network, left)
    for number in range(20):
        left.send_packet(right, b"%d" % number, port=7 + number)
    network.run(1)
    given = {label for n in relay.anchor.neighbours.all() for label in n.labels}
    assert given
    guesses = [*given, *range(1_000), *(n * 0x10001 & 0xFFFFFFFF for n in range(2_000))]
    carried, received = relay.anchor.relay.carried, len(right.received) + len(left.received)
    complaints: list[float] = []
    receive = mallory.anchor.neighbours.get(relay.node_id).tethers[-1]._on_reliable
    mallory.anchor.neighbours.get(relay.node_id).tethers[-1]._on_reliable = lambda message: (
        complaints.append(network.now()),
        receive(message),
    )
    before = relay.anchor.counters["label_unknown"]
    for guess in guesses:
        guessed = OUTER.pack(DATA_BYTE, 5, 0, guess) + frames[guess % len(frames)][OUTER.size :]
        tether(mallory, relay).send([guessed])
        network.run(0.001)
    network.run(1)
    assert relay.anchor.counters["label_unknown"] - before == len(guesses)
    assert len(complaints) < 8 + 4 * len(guesses) * 0.001 + 8, "few are answered"
    assert relay.anchor.relay.carried == carried
    assert len(right.received) + len(left.received) == received
    assert relay.anchor.neighbours.get(mallory.node_id).labels == {}
    talk(relayed)


def test_a_frame_out_of_hops_goes_no_further(relayed):
    talk(relayed)
    route = relayed.left.anchor.routing.get(relayed.right.node_id).routes[0]
    relay = next(r for r in relayed.relays if r.node_id == route.path[1])
    session = relayed.left.anchor.sessions[relayed.right.node_id]
    frame = session.out.seal(memoryview(b"\x00"), now=relayed.left.now())
    OUTER.pack_into(frame, 0, DATA_BYTE, 1, 0, route.label)
    tether(relayed.left, relay).send([frame])
    relayed.network.run(1)
    assert relay.anchor.counters["relay_hop_limit"] == 1


def test_an_unknown_label_ends_the_route_and_traffic_finds_another(relayed):
    talk(relayed)
    reach = relayed.left.anchor.routing.get(relayed.right.node_id)
    for relay in relayed.relays:  # as if both had forgotten
        relay.anchor.relay._routes.clear()
        for neighbour in relay.anchor.neighbours.all():
            neighbour.labels.clear()
    pings = []
    for n in range(20):
        pings.append(relayed.left.ping(relayed.right, port=n + 1))
        relayed.network.run(0.1)
    relayed.network.run(1)
    assert all(ping.answers for ping in pings[10:])
    assert reach.routes


@pytest.mark.parametrize("broken", ["loop", "not the neighbour", "not on it", "known id"])
def test_set_ups_that_make_no_sense_are_refused(relayed, broken):
    talk(relayed)
    left, right, relay = relayed.left, relayed.right, relayed.relays[0]
    if left.anchor.neighbours.get(relay.node_id) is None:
        relay = relayed.relays[1]
    path = {
        "loop": [left.node_id, relay.node_id, left.node_id],
        "not the neighbour": [right.node_id, relay.node_id, left.node_id],
        "not on it": [left.node_id, right.node_id],
        "known id": [left.node_id, relay.node_id, right.node_id],
    }[broken]
    route_id = b"r" * 16
    known = next(iter(relay.anchor.relay._routes))
    before = relay.anchor.relay.carried
    message = Setup(known if broken == "known id" else route_id, 90, path)
    tether(left, relay).send_reliable(message.encode())
    relayed.network.run(1)
    counters = relay.anchor.counters
    assert counters["setup_refused"] + counters["inband_malformed"] == 1
    assert relay.anchor.relay.carried == before


def test_a_relay_carries_only_so_many_routes_for_one_neighbour(relayed):
    talk(relayed)
    left, right = relayed.left, relayed.right
    route = left.anchor.routing.get(right.node_id).routes[0]
    relay = next(r for r in relayed.relays if r.node_id == route.path[1])
    for n in range(2 * MAX_ROUTES_PER_NEIGHBOUR):
        setup = Setup(n.to_bytes(16, "big"), 90, [left.node_id, relay.node_id, right.node_id])
        tether(left, relay).send_reliable(setup.encode())
    relayed.network.run(2)
    assert relay.anchor.relay.carried <= 2 * MAX_ROUTES_PER_NEIGHBOUR
    from_left = [
        r for r in relay.anchor.relay._routes.values() if r.before.peer.node_id == left.node_id
    ]
    assert len(from_left) == MAX_ROUTES_PER_NEIGHBOUR
    talk(relayed)
    for ended in from_left:
        tether(left, relay).send_reliable(Teardown(ended.setup.route_id, Reason.IDLE).encode())
    relayed.network.run(2)
    again = Setup(b"a" * 16, 90, [left.node_id, relay.node_id, right.node_id])
    tether(left, relay).send_reliable(again.encode())
    relayed.network.run(2)
    assert again.route_id in relay.anchor.relay._routes, "what was torn down does not count"


def test_a_destination_refuses_routes_from_those_it_has_no_streams_with(relayed):
    network, relay = relayed.network, relayed.relays[0]
    talk(relayed)
    stranger = network.add_node("stranger")
    network.block(stranger, relayed.right)
    stranger.anchor.asker.tether(relay.node_id, network.now())
    network.run(1)
    path = [stranger.node_id, relay.node_id, relayed.right.node_id]
    tether(stranger, relay).send_reliable(Setup(b"s" * 16, 90, path).encode())
    network.run(3)
    assert relayed.right.anchor.counters["setup_refused"] == 1
    assert b"s" * 16 not in relay.anchor.relay._routes


def test_others_cannot_confirm_or_tear_down_a_route(relayed):
    talk(relayed)
    network, left, right = relayed.network, relayed.left, relayed.right
    route = left.anchor.routing.get(right.node_id).routes[0]
    relay = next(r for r in relayed.relays if r.node_id == route.path[1])
    mallory = network.add_node("mallory")
    for victim in (left, relay):
        mallory.anchor.asker.tether(victim.node_id, network.now())
        network.run(1)
        for message in (
            Teardown(route.route_id, 5), SetupOk(route.route_id, 77), LabelUnknown(route.label)
        ):  # fmt: skip
            tether(mallory, victim).send_reliable(message.encode())
        network.run(1)
    assert route in left.anchor.routing.get(right.node_id).routes
    talk(relayed)


# Handshakes


def test_a_flood_of_asks_stays_within_bounds_and_honest_peers_get_through(pair):
    network, right = pair.network, pair.right
    network.channel.records = False
    insiders = [network.add_insider(f"insider {n}", teams=["ops"]) for n in range(30)]
    peak = 0
    ping = None
    for tick in range(400):
        for insider in insiders:
            insider.ask_address(right.address.packed)
        network.run(0.01)
        answering = right.anchor.exchange.answering
        held = len(answering._answered) + len(answering._working)
        peak = max(peak, held)
        if tick == 200:
            ping = pair.left.ping(right)
    network.run(2)
    assert peak <= MAX_PER_SENDER * (len(insiders) + 1) <= MAX_ANSWERED
    assert ping is not None
    assert ping.answers == 1
    assert right.anchor.counters["control_over_rate"] > 1_000
    network.run(120)
    assert len(answering._answered) == len(answering._working) == 0
    assert network.underlay.tethers("right") == []  # none of the offers stayed behind


def test_noise_on_the_control_channel_is_counted_and_harms_nothing(pair):
    network, right = pair.network, pair.right
    tag = node_tag(network.guardian.plane_key, right.node_id)
    for size in range(2, 400):
        noise = network.underlay.chance.randbytes(size)
        network.channel.publish(noise[:16], tag, bytes((1, 1 + size % 4)) + noise)
    network.run(1)
    assert sum(right.anchor.counters.values()) >= 398
    talk(pair)


def test_an_ask_with_a_certificate_of_ones_own_making_is_dropped(pair):
    network, right = pair.network, pair.right
    liar = network.add_insider("liar", teams=["ops"])
    of_left = pair.left.anchor.standing.grant.certificate
    liar.shows(replace(liar.standing.grant.certificate, addresses=of_left.addresses))
    liar.ask_address(right.address.packed)
    network.run(1)
    assert right.anchor.counters["control: certificate was not signed by Guardian"] == 1
    assert network.channel.count(Kind.ANSWER) == 0


def test_an_ask_for_another_ones_address_is_dropped(pair):
    network, right = pair.network, pair.right
    insider = network.add_insider("insider", teams=["ops"])
    ask = insider.ask(Target(TargetKind.ADDRESS, pair.left.address.packed))
    insider.publish(insider.tag_of(right.address.packed), ask.message)
    network.run(1)
    assert not right.anchor.exchange.answering._working
    assert network.channel.count(Kind.ANSWER) == 0


def test_asks_forged_in_a_peers_name_do_not_keep_a_pair_apart(pair):
    """An Ask is not signed: a team mate can put another's certificate into his own."""
    network = pair.network
    liar = network.add_insider("liar", teams=["ops"])
    for forged, victim in ((pair.left, pair.right), (pair.right, pair.left)):
        liar.shows(forged.anchor.standing.grant.certificate)
        for _ in range(3):
            liar.ask_address(victim.address.packed)
    network.run(0.003)
    first, second = pair.left.ping(pair.right), pair.right.ping(pair.left)
    network.run(2)
    assert first.answers == second.answers == 1


@pytest.mark.parametrize("changes", [{"suite": 2}, {"auth_level": AuthLevel.HANDSHAKE}])
def test_an_answer_that_lowers_what_was_asked_for_is_refused(pair, monkeypatch, changes):
    """A node that answers with less than was asked for, properly signed."""
    pair.left.anchor.exchange._use.auth_level = AuthLevel.CHECKPOINT
    honest = handshake.Answer

    def lowered(**fields):
        return honest(**{**fields, **changes})

    with monkeypatch.context() as patched:
        patched.setattr(handshake, "Answer", lowered)
        lowered.decode = honest.decode
        ping = pair.left.ping(pair.right)
        pair.network.run(6)
    assert ping.answers == 0
    assert pair.left.anchor.counters["control: Answer that lowers what was asked for"] > 0
    assert not pair.left.anchor.sessions


def test_a_relay_ask_gives_one_tether_however_often_it_is_drawn(relayed):
    network = relayed.network
    relayed.relays[1].stop()
    relayed.left.ping(relayed.right)
    network.run(1)
    relay = relayed.relays[0]
    assert len(relayed.left.anchor.neighbours.get(relay.node_id).tethers) == 1
    assert relay.anchor.counters["ask_doubled"] > 0


def test_any_relay_is_never_asked_for_streams(pair):
    network = pair.network
    insider = network.add_insider("insider", teams=["ops"])
    message = insider.ask(Target(TargetKind.ANY_RELAY)).message
    for _ in range(4):
        insider.publish(relay_tag(network.guardian.plane_key), message)
    network.run(1)
    assert network.channel.count(Kind.ANSWER) == 0


# Plugins


class Broken(Router):
    """A router that gives what *weights* says, or raises."""

    def __init__(self, settings=None) -> None:
        self.weights = None

    def start(self, node, seed):
        raise RuntimeError("a plugin's bug")

    def link_measured(self, link, sample, *, now):
        raise RuntimeError("a plugin's bug")

    def link_lost(self, link, *, now):
        raise RuntimeError("a plugin's bug")

    def propose(self, destination, *, limit, avoid, now):
        return [(destination,), (destination, destination, destination), "nonsense", 7]

    def weigh(self, destination, paths, *, now):
        if self.weights is None:
            raise RuntimeError("a plugin's bug")
        return self.weights * len(paths)


@pytest.mark.parametrize(
    "weights",
    [None, [float("nan")], [float("inf")], [-1.0], [0.0], [1e308] * 3, ["a lot"], [None]],
)
def test_a_router_plugin_out_of_its_mind_does_not_stop_traffic(weights):
    network = SimNetwork(seed=6)
    broken = Broken()
    broken.weights = weights
    left = network.add_node("left", teams=["ops"], router=lambda: broken)
    right = network.add_node("right", teams=["ops"])
    network.block(left, right)
    for name in ("one", "two"):
        network.add_node(name)
    left.ping(right)
    network.run(5)
    pings = [left.ping(right, port=1_024 + n) for n in range(50)]
    network.run(2)
    assert all(ping.answers == 1 for ping in pings)
    assert left.anchor.counters["router_gave_unusable_weights"] > 0


def test_a_router_that_weighs_sends_flows_where_it_says(relayed):
    class First(EqualRouter):
        def weigh(self, destination, paths, *, now):
            best = min(paths)
            return [1.0 if path == best else 0.0 for path in paths]

    network = SimNetwork(seed=8)
    left = network.add_node("left", teams=["ops"], router=First)
    right = network.add_node("right", teams=["ops"])
    network.block(left, right)
    for name in ("one", "two"):
        network.add_node(name)
    left.ping(right)
    network.run(5)
    used = set()
    network.on_datagram = lambda source, to, message: (
        used.add(to) if source == "left" and len(message) > 60 else None
    )
    for n in range(50):
        left.send_packet(right, b"flow", port=1_024 + n)
    network.run(1)
    assert len(used) == 1


def test_the_constants_of_the_exchange_are_those_of_the_page():
    assert (asking.MAX_ASKED, MAX_ANSWERED, MAX_PER_SENDER) == (256, 1_024, 4)


def test_an_address_is_told_to_nobody_who_asks_for_a_tether(pair):
    network, right = pair.network, pair.right
    stranger = network.add_insider("stranger", teams=["others"])
    target = Target(TargetKind.ADDRESS, right.address.packed)
    message = stranger.ask(target, purpose=Purpose.TETHER).message
    stranger.publish(stranger.tag_of(right.address.packed), message)
    network.run(5)
    assert network.channel.count(Kind.ANSWER) == 0
    assert right.anchor.counters["control: addresses are asked for streams only"] == 1


def test_an_ask_under_another_nodes_handle_is_dropped(pair):
    network, left, right = pair.network, pair.left, pair.right
    liar = network.add_insider("liar")
    liar.shows(left.anchor.standing.grant.certificate)
    message = liar.ask(Target(TargetKind.ANY_RELAY), purpose=Purpose.TETHER).message
    liar.publish(relay_tag(network.guardian.plane_key), message)
    network.run(5)
    assert network.channel.count(Kind.ANSWER) == 0
    dropped = left.anchor.counters + right.anchor.counters
    assert dropped.total() >= 1


def test_set_ups_to_made_up_nodes_do_not_use_up_a_relays_own_asks(relayed):
    network, left, (relay, _) = relayed.network, relayed.left, relayed.relays
    talk(relayed)
    path_head = (left.node_id, relay.node_id)
    for number in range(1_000):
        nowhere = number.to_bytes(32, "big")
        tether(left, relay).send_reliable(
            Setup(number.to_bytes(16, "big"), 90, (*path_head, nowhere)).encode()
        )
    network.run(0.5)
    assert len(relay.anchor.exchange.asking._asked) <= MAX_WAITING_PER_NEIGHBOUR + RELAY_ASKS
    friend = network.add_node("friend", teams=["ops"])
    network.guardian.attach(relay.name, "ops")
    network.run(1)
    ping = relay.ping(friend)
    assert network.run_until(lambda: ping.answers == 1, 3)


def test_grants_from_anybody_but_guardian_cost_nothing(pair):
    network, right = pair.network, pair.right
    noise = envelope(Kind.GRANT, bytes(20_000))
    for _ in range(500):
        right.anchor.take_control(bytes(16), b"m" * 16, noise, now=network.now())
    assert right.anchor.counters["control_malformed"] == 500


def test_of_many_false_grants_at_once_two_are_opened(pair):
    network, right = pair.network, pair.right
    noise = envelope(Kind.GRANT, bytes(20_000))
    for _ in range(500):
        right.anchor.take_control(bytes(16), GUARDIAN_HANDLE, noise, now=network.now())
    network.run(5)
    opened = sum(n for reason, n in right.anchor.counters.items() if reason.startswith("grant:"))
    assert opened == 2


def test_a_login_older_than_a_pushed_grant_is_not_taken_on(pair):
    standing = pair.right.anchor.standing
    older = replace(standing, grant=replace(standing.grant, revision=standing.grant.revision - 1))
    assert not pair.right.anchor.renew(older, now=pair.network.now())
    assert pair.right.anchor.standing is standing
