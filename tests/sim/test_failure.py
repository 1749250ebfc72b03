"""Reports, silence, and sending again: what a flow sees when a relay or a tether dies."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from conflux.anchor.node import SILENCE_FLOOR_S
from conflux.anchor.resend import FORGIVE_S, KEEP_BYTES, KEEP_S, MAX_SLOTS
from conflux.testing import EqualRouter
from conflux.testing.simnet import EVERY_S, Bulk, SimNetwork, SimNode
from conflux.wire.control import AuthLevel, Kind, envelope
from conflux.wire.frame import IN_STREAM, MessageType, read_outer
from conflux.wire.report import Report


def network_of(seed: int = 3, delay_s: float = 0.02) -> SimNetwork:
    network = SimNetwork(seed=seed)
    network.underlay.default.delay_s = delay_s
    return network


def over_two_relays(seed: int = 3, *, relays: int = 2) -> tuple[SimNetwork, SimNode, SimNode, list]:
    network = network_of(seed)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    nodes = [network.add_node(f"relay {n}") for n in range(relays)]
    left.ping(right)
    network.run(5)
    return network, left, right, nodes


def in_use(source: SimNode, target: SimNode, relays: list[SimNode]) -> SimNode:
    """The relay that the latest frame of *source* to *target* took."""
    routes = source.anchor.routing.get(target.node_id).routes
    latest = max(routes, key=lambda route: route.last_used)
    return next(relay for relay in relays if relay.node_id == latest.path[1])


def count(node: SimNode, name: str) -> int:
    return node.anchor.counters[name]


# Probes


def test_tether_is_probed_four_times_a_second_in_use_and_every_two_seconds_idle():
    network = network_of()
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    probes: Counter[str] = Counter()

    def note(source: str, _: str, message: bytes) -> None:
        probes[source] += read_outer(memoryview(message))[0] is MessageType.PROBE

    left.ping(right)
    network.run(5)
    network.on_datagram = note
    network.run(20)
    assert set(probes.values()) == {10}
    probes.clear()
    Bulk(network, left, right).run(20)
    for sent in probes.values():
        assert sent == pytest.approx(80, abs=6)


# A relay dies


@pytest.mark.parametrize("seed", range(6))
def test_a_silently_killed_relay_costs_bulk_less_than_300_ms_and_not_one_packet(seed):
    network, left, right, relays = over_two_relays(seed)
    bulk = Bulk(network, left, right)
    bulk.run(1)
    in_use(left, right, relays).crash()
    bulk.run(2)
    network.run(1)
    assert bulk.gap_s() < 0.3
    assert bulk.missing() == []
    assert bulk.doubled() == 0
    assert count(left, "route_suspect") == 1


def test_both_directions_survive_the_same_death():
    network, left, right, relays = over_two_relays(4)
    there, back = Bulk(network, left, right), Bulk(network, right, left)
    for _ in range(200):
        there.run(EVERY_S, every_s=EVERY_S)
        back.run(EVERY_S, every_s=EVERY_S)
    in_use(left, right, relays).crash()
    for _ in range(400):
        there.run(EVERY_S, every_s=EVERY_S)
        back.run(EVERY_S, every_s=EVERY_S)
    network.run(1)
    for bulk in (there, back):
        assert bulk.gap_s() < 0.3
        assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_a_relay_that_swallows_frames_but_answers_probes_is_left_too():
    network, left, right, relays = over_two_relays()
    bulk = Bulk(network, left, right)
    bulk.run(1)
    swallower = in_use(left, right, relays)
    swallower.anchor.relay.forward = lambda *_args, **_kwargs: None
    bulk.run(6)
    network.run(1)
    assert bulk.gap_s() < 0.3
    assert (bulk.missing(), bulk.doubled()) == ([], 0)
    paths = [route.path for route in left.anchor.routing.get(right.node_id).routes]
    assert all(swallower.node_id not in path for path in paths)
    assert left.anchor.neighbours.get(swallower.node_id) is not None


def test_a_relay_that_leaves_in_order_costs_not_one_packet():
    network, left, right, relays = over_two_relays()
    bulk = Bulk(network, left, right)
    bulk.run(1)
    in_use(left, right, relays).stop()
    bulk.run(1)
    network.run(1)
    assert bulk.gap_s() < 0.15
    assert (bulk.missing(), bulk.doubled()) == ([], 0)
    assert count(left, "route_suspect") == 0


def test_of_three_relays_two_die_one_after_the_other():
    network, left, right, relays = over_two_relays(relays=3)
    bulk = Bulk(network, left, right)
    bulk.run(1)
    in_use(left, right, relays).crash()
    bulk.run(3)
    alive = [relay for relay in relays if relay.is_alive]
    in_use(left, right, alive).crash()
    bulk.run(3)
    network.run(1)
    assert bulk.gap_s() < 0.3
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_a_short_burst_that_a_dead_relay_swallowed_arrives_all_the_same():
    network, left, right, relays = over_two_relays()
    bulk = Bulk(network, left, right)
    bulk.run(1)
    in_use(left, right, relays).crash()
    bulk.run(2 * EVERY_S)
    sent = len(bulk.sent_at)
    network.run(0.4)
    assert bulk.missing() == []
    assert sent == len(bulk.sent_at)


def test_frames_sent_again_are_the_same_bytes_behind_the_outer_header():
    network, left, right, relays = over_two_relays()
    sent: dict[bytes, set[bytes]] = {}

    def note(source: str, destination: str, message: bytes) -> None:
        if source == "left" and len(message) > 1_000:
            sent.setdefault(message[8:24], set()).add(message[8:])

    network.on_datagram = note
    bulk = Bulk(network, left, right)
    bulk.run(1)
    victim = in_use(left, right, relays)
    network.link(victim, right).blocked = True
    bulk.run(1)
    assert count(left, "frame_sent_again") > 20
    assert sent
    assert all(len(copies) == 1 for copies in sent.values())


# A tether dies


def with_a_relay_standing_by(seed: int) -> tuple[SimNetwork, SimNode, SimNode]:
    """Two nodes whose only route is direct, and a third one to which both have a tether."""
    network = network_of(seed)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    pings = [left.ping(right)]
    network.run(1)
    relay = network.add_node("relay", teams=["ops"])
    pings += [left.ping(relay), right.ping(relay)]
    network.run(3)
    assert all(ping.answers for ping in pings)
    assert all(route.is_direct for route in left.anchor.routing.get(right.node_id).routes)
    return network, left, right


@pytest.mark.parametrize("seed", range(6))
def test_a_dead_direct_tether_costs_bulk_less_than_300_ms_with_a_relay_standing_by(seed):
    network, left, right = with_a_relay_standing_by(seed)
    bulk = Bulk(network, left, right)
    bulk.run(1)
    network.block(left, right)
    bulk.run(3)
    network.run(1)
    assert bulk.gap_s() < 0.3
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_suspicion_closes_no_tether_and_the_direct_way_is_used_again_when_it_is_back():
    network, left, right = with_a_relay_standing_by(1)
    bulk = Bulk(network, left, right)
    bulk.run(1)
    tether = left.anchor.neighbours.get(right.node_id).tethers[-1]
    network.block(left, right)
    bulk.run(0.5)
    reach = left.anchor.routing.get(right.node_id)
    direct = next(route for route in reach.routes if route.is_direct)
    assert direct.is_suspect
    assert direct not in reach.usable
    network.unblock(left, right)
    bulk.run(1)
    assert left.anchor.neighbours.get(right.node_id).tethers[-1] is tether
    assert not direct.is_suspect
    assert direct in reach.usable
    network.run(1)
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_an_idle_tether_is_suspect_after_three_probes_100_ms_apart_and_dead_much_later():
    network, left, right = with_a_relay_standing_by(2)
    network.run(5)
    neighbour = left.anchor.neighbours.get(right.node_id)
    assert network.run_until(lambda: neighbour.unanswered == 1, 2)
    asked_at = network.now()
    network.block(left, right)
    assert network.run_until(lambda: neighbour.is_suspect, 2)
    assert 0.3 <= round(network.now() - asked_at, 6) < 0.45
    assert neighbour.up
    assert network.run_until(lambda: not neighbour.up, 3)
    assert network.now() - neighbour.last_heard >= 1.5
    assert network.now() - asked_at >= 1.0


def test_a_suspect_tether_is_forgiven_when_it_is_heard():
    network, left, right = with_a_relay_standing_by(2)
    neighbour = left.anchor.neighbours.get(right.node_id)
    network.block(left, right)
    assert network.run_until(lambda: neighbour.is_suspect, 2)
    network.unblock(left, right)
    assert network.run_until(lambda: not neighbour.is_suspect, 0.3)
    assert neighbour.up
    ping = left.ping(right)
    network.run(0.1)
    assert ping.answers == 1


# What must not count as death


@pytest.mark.parametrize("seed", range(4))
def test_a_way_that_loses_one_in_a_hundred_never_becomes_suspect(seed):
    network, left, right, relays = over_two_relays(seed)
    for relay in relays:
        network.link(left, relay).loss = network.link(relay, right).loss = 0.01
    bulk = Bulk(network, left, right)
    bulk.run(20, every_s=0.01)
    network.run(1)
    assert count(left, "route_suspect") == count(left, "neighbour_suspect") == 0
    assert bulk.doubled() == 0
    assert 0 < len(bulk.missing()) < 0.05 * len(bulk.sent_at)


@pytest.mark.parametrize("seed", range(4))
def test_sparse_packets_on_a_lossy_way_make_nobody_suspect(seed):
    network, left, right, relays = over_two_relays(seed)
    for relay in relays:
        network.link(left, relay).loss = network.link(relay, right).loss = 0.01
    pings = []
    for _ in range(300):
        pings.append(left.ping(right))
        network.run(0.4)
    assert count(left, "route_suspect") == count(right, "route_suspect") == 0
    # A lone packet that got lost comes again over the other route, soon: without that, one ping in
    # 25 would have no answer.
    assert count(left, "frame_sent_again") > 0
    assert sum(not ping.answers for ping in pings) <= 3


def test_jitter_and_reordering_make_nobody_suspect(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(1)
    link = network.link(left, right)
    link.delay_s, link.jitter_s, link.reorder, link.duplicate = 0.03, 0.02, 0.1, 0.05
    bulk = Bulk(network, left, right)
    bulk.run(10)
    network.run(1)
    assert count(left, "route_suspect") == 0
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def asleep(network: SimNetwork, node: SimNode, seconds: float) -> None:
    """Let *node* do nothing, as on a machine that is too busy; then its late timers come first."""
    unread = []
    tethers = network.underlay.tethers(node.name)
    for tether in tethers:
        lane = tether._on_datagram
        tether._on_datagram = lambda m, lane=lane: unread.append((lane, bytes(m)))
    lanes = {tether: tether._on_datagram for tether in tethers}
    timers, arm = node.anchor.timers, node.anchor.timers.on_earliest
    timers.on_earliest = None
    node._armed += 1
    network.run(seconds)
    for tether in lanes:
        tether._on_datagram = tether._on_datagram.__defaults__[0]
    timers.on_earliest = arm
    timers.run(network.now())
    for lane, message in unread:
        lane(memoryview(message))
    arm(timers.next_deadline())


def test_a_node_that_was_asleep_suspects_nobody_for_what_it_did_not_read():
    network, left, right = with_a_relay_standing_by(3)
    bulk = Bulk(network, left, right)
    for _ in range(5):
        bulk.run(0.5)
        asleep(network, left, 0.4)
    bulk.run(1)
    network.run(1)
    assert count(left, "route_suspect") == count(left, "neighbour_suspect") == 0
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_the_floor_of_real_hosts_holds_off_suspicion_for_250_ms():
    network, left, right, relays = over_two_relays()
    left.anchor.resender._floor_s = SILENCE_FLOOR_S
    bulk = Bulk(network, left, right)
    bulk.run(1)
    in_use(left, right, relays).crash()
    bulk.run(2)
    network.run(1)
    assert SILENCE_FLOOR_S - 0.05 < bulk.gap_s() < SILENCE_FLOOR_S + 0.05
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_relay_dies_while_new_keys_are_made(seed):
    network, left, right, relays = over_two_relays(seed)
    bulk = Bulk(network, left, right)
    bulk.run(1)
    first = left.anchor.sessions[right.node_id]
    left.anchor.sessions.rekey(first, network.now())
    bulk.run(0.01 * seed)
    in_use(left, right, relays).crash()
    bulk.run(3)
    network.run(1)
    assert left.anchor.sessions[right.node_id] is not first
    assert bulk.gap_s() < 0.3
    assert (bulk.missing(), bulk.doubled()) == ([], 0)


def test_a_peer_that_never_reports_is_not_suspected():
    network, left, right, _ = over_two_relays()
    right.anchor.reporter.owed = lambda stream, now: None
    left.anchor.routing.get(right.node_id).reports = False
    bulk = Bulk(network, left, right)
    bulk.run(3)
    network.run(1)
    assert count(left, "route_suspect") == count(left, "route_doubted") == 0
    assert count(left, "frame_sent_again") == 0
    assert bulk.missing() == []


def test_a_peer_that_stops_reporting_costs_no_packet_as_long_as_frames_arrive():
    network, left, right, _ = over_two_relays()
    bulk = Bulk(network, left, right)
    bulk.run(1)
    right.anchor.reporter.owed = lambda stream, now: None
    bulk.run(3)
    network.run(1)
    assert count(left, "route_suspect") > 0
    assert (bulk.missing(), bulk.doubled()) == ([], 0)
    assert left.anchor.resender.kept_bytes <= KEEP_BYTES


# Reports


def test_one_way_traffic_is_reported_over_a_way_that_the_receiver_finds_itself():
    network, left, right, _ = over_two_relays()
    right.anchor.routing.release(left.node_id)
    assert right.anchor.routing.get(left.node_id) is None
    bulk = Bulk(network, left, right)
    bulk.run(2)
    network.run(0.2)
    assert right.anchor.routing.get(left.node_id).routes
    assert left.anchor.resender.kept_bytes == 0
    assert bulk.missing() == []


def watch_reports(network: SimNetwork, source: str) -> list[tuple[float, int]]:
    """(time, size) of each datagram on its way from *source* that can only be a report."""
    seen = []

    def note(sender: str, destination: str, message: bytes) -> None:
        if sender == source and 60 < len(message) < 1_150:
            seen.append((network.now(), len(message)))

    network.on_datagram = note
    return seen


def test_reports_come_every_25_ms_at_most_and_cost_less_than_one_percent(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(3)
    seen = watch_reports(network, "right")
    bulk = Bulk(network, left, right)
    bulk.run(5, every_s=0.0005)
    times = [time for time, _ in seen]
    assert min(after - before for before, after in pairwise(times)) > 0.0249
    assert max(after - before for before, after in pairwise(times)) < 0.03
    assert sum(size for _, size in seen) < 0.01 * 1_200 * len(bulk.sent_at)


@pytest.mark.parametrize("packet_auth", [AuthLevel.HANDSHAKE])  # no other messages
def test_reports_are_not_reported(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(3)
    before = [node.anchor.sessions[peer.node_id].out.counter for node, peer in _both(pair)]
    right.answers_pings = False
    left.send_packet(right, b"one")
    network.run(5)
    after = [node.anchor.sessions[peer.node_id].out.counter for node, peer in _both(pair)]
    # One packet, one report about it, and silence.
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def _both(pair):
    return (pair.left, pair.right), (pair.right, pair.left)


class Learning(EqualRouter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told = []

    def path_measured(self, path, sample, *, now):
        self.told.append((path, sample))


def test_the_router_learns_delay_and_loss_of_each_route():
    network = network_of(5)
    router = Learning()
    left = network.add_node("left", teams=["ops"], router=lambda: router)
    right = network.add_node("right", teams=["ops"])
    left.ping(right)
    network.run(2)
    network.link(left, right).loss = 0.05
    bulk = Bulk(network, left, right)
    bulk.run(10)
    network.run(1)
    samples = [sample for path, sample in router.told if path == (left.node_id, right.node_id)]
    delivered, lost = sum(s.delivered for s in samples), sum(s.lost for s in samples)
    assert samples[-1].delay_s == pytest.approx(0.04, abs=0.002)
    assert lost / (delivered + lost) == pytest.approx(0.05, abs=0.02)
    assert delivered + lost == pytest.approx(len(bulk.sent_at), rel=0.1)


# Hostile and broken peers


def tell(source: SimNode, target: SimNode, message: bytes) -> None:
    """Send *message* inside the stream of *source*, as patched software could."""
    anchor = source.anchor
    session = anchor.sessions[target.node_id]
    reach = anchor.routing.get(target.node_id)
    assert anchor.egress.tell(session, reach, message, now=source.now())


def report_of(source: SimNode, target: SimNode, highest: int, bitmap: bytes) -> bytes:
    stream_id = target.anchor.sessions[source.node_id].out.stream_id
    return envelope(Kind.REPORT, Report(stream_id, highest, 0, bitmap).encode())


@pytest.fixture
def talking(pair):
    pair.left.ping(pair.right)
    pair.network.run(3)
    # From here on reports are the test's alone.
    pair.right.anchor.reporter.owed = lambda stream, now: None
    return pair


def test_acknowledging_what_was_never_sent_is_counted_and_changes_nothing(talking):
    network, left, right = talking.network, talking.left, talking.right
    left.send_packet(right, b"kept")
    kept = left.anchor.resender.kept_bytes
    assert kept
    for highest in (1_000, 2**63, 2**64 - 1):
        bit = 1 << (highest & 7)
        tell(right, left, report_of(right, left, highest, bytes(99) + bytes((bit,))))
    network.run(0.1)
    assert count(left, "report_of_unsent") == 3
    assert left.anchor.resender.kept_bytes == kept


def test_a_report_about_the_stream_of_somebody_else_changes_nothing():
    network = network_of(7)
    left, right, third = (
        network.add_node(name, teams=["ops"]) for name in ("left", "right", "third")
    )
    left.ping(right)
    left.ping(third)
    network.run(3)
    right.anchor.reporter.owed = lambda stream, now: None
    left.send_packet(right, b"kept")
    kept = left.anchor.resender.kept_bytes
    out = left.anchor.sessions[right.node_id].out
    bit = 1 << (out.counter & 7)
    stolen = Report(out.stream_id, out.counter, 0, bytes((bit,))).encode()
    tell(third, left, envelope(Kind.REPORT, stolen))
    network.run(0.1)
    assert count(left, "report_of_nothing_kept") == 1
    assert left.anchor.resender.kept_bytes == kept


def test_malformed_reports_and_floods_of_them_are_counted(talking):
    network, left, right = talking.network, talking.left, talking.right
    for n in range(1_000):
        tell(right, left, envelope(Kind.REPORT, bytes(n % 60)))
    network.run(0.1)
    assert count(left, "report_malformed") > 0
    assert count(left, "report_over_rate") > 900
    ping = left.ping(right)
    network.run(0.1)
    assert ping.answers == 1


def test_a_report_that_did_not_come_inside_a_stream_is_dropped(talking):
    left, right = talking.left, talking.right
    out = left.anchor.sessions[right.node_id].out
    message = report_of(right, left, out.counter, bytes((1 << (out.counter & 7),)))
    left.anchor.take_control(bytes(16), b"h" * 16, message, now=left.now())
    assert count(left, "report_outside_a_stream") == 1


@pytest.mark.parametrize("packet_auth", [AuthLevel.HANDSHAKE])  # else the session ends first
def test_what_is_kept_for_a_silent_peer_stays_within_4_mb_and_500_ms(talking):
    network, left, right = talking.network, talking.left, talking.right
    for _ in range(400):
        left.send_burst([left.packet(right, bytes(1_200)) for _ in range(40)])
        network.run(0.0002)
        assert left.anchor.resender.kept_bytes <= KEEP_BYTES
    assert left.anchor.resender.kept_bytes > KEEP_BYTES - 60_000
    for n in range(MAX_SLOTS + 100):
        left.send_packet(right, b"%d" % n)
    assert left.anchor.resender.slots <= MAX_SLOTS
    network.run(FORGIVE_S + 2 * KEEP_S)
    assert left.anchor.resender.kept_bytes == left.anchor.resender.slots == 0


def test_unknown_messages_inside_a_stream_are_counted_and_the_stream_lives_on(talking):
    network, left, right = talking.network, talking.left, talking.right
    tell(right, left, bytes((1, 99)) + b"from a newer version")
    tell(right, left, b"")
    network.run(0.1)
    assert count(left, "control_malformed") == 2
    assert IN_STREAM == 0x80
    ping = left.ping(right)
    network.run(0.1)
    assert ping.answers == 1
