"""Routes over several relays: found without a router's help, bounded whatever others send."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from conflux.anchor.quota import Relaying
from conflux.anchor.route import ATTEMPT_DELAY_MIN_S
from conflux.anchor.seek import (
    ALL_ASKS_BURST,
    ASKS_BURST,
    HOLD_S,
    MAX_FOUND,
    MAX_ONWARD,
    SEEK_S,
    SEEKS_BURST,
    SEEKS_PER_S,
)
from conflux.api import NodeId, WireError
from conflux.testing.simnet import Ladder, SimNetwork, SimNode, chain, ladder
from conflux.wire import inband
from conflux.wire.control import Kind
from conflux.wire.inband import Found, Seek, Setup

NOWHERE = NodeId(b"n" * 32)


class Heard:
    """Every in-band message that arrives from now on: (from, to, message)."""

    def __init__(self, network: SimNetwork) -> None:
        self.messages: list[tuple[str, str, inband.Message]] = []
        network.on_reliable = self._note

    def _note(self, source: str, to: str, message: bytes) -> None:
        with contextlib.suppress(WireError):
            self.messages.append((source, to, inband.decode(message)))

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for _, _, message in self.messages)


def tether(one: SimNode, other: SimNode):
    neighbour = one.anchor.neighbours.get(other.node_id)
    assert neighbour is not None
    return neighbour.tethers[-1]


def meet(network: SimNetwork, *pairs: tuple[SimNode, SimNode]) -> None:
    """Let each pair have a tether, as if one had asked the other for it."""
    for one, other in pairs:
        one.anchor.asker.tether(other.node_id, network.now())
    assert network.run_until(
        lambda: all(one.anchor.neighbours.get(other.node_id) for one, other in pairs), 3
    )


def reached(made: Ladder, within_s: float) -> bool:
    """Ping ten times a second until left has an answer from right."""
    pings = []
    for _ in range(round(within_s * 10)):
        pings.append(made.left.ping(made.right))
        made.network.run(0.1)
        if any(ping.answers for ping in pings):
            return True
    return False


def spare(made: Ladder, within_s: float = 30.0) -> bool:
    """Ping until both ends have two routes each that share no relay."""

    def apart(paths: list[list[str]]) -> bool:
        return len(paths) == 2 and set(paths[0]).isdisjoint(paths[1])

    for _ in range(round(within_s * 10)):
        made.left.ping(made.right)
        made.network.run(0.1)
        if apart(made.paths(made.left, made.right)) and apart(made.paths(made.right, made.left)):
            return True
    return False


# What is found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("relays", [2, 3, 4])
def test_a_chain_of_relays_that_know_nobody_carries_the_first_answer_within_10_s(relays, seed):
    made = chain(SimNetwork(seed=seed), relays)
    assert reached(made, 10)
    names = [relay.name for relay in made.relays]
    assert made.paths(made.left, made.right) == [names]
    assert made.paths(made.right, made.left) == [names[::-1]]
    ping = made.left.ping(made.right)
    made.network.run(0.5)
    assert ping.answers == 1


def test_over_two_relays_the_first_answer_comes_soon_after_one_relay_would_have_brought_it():
    times = []
    for seed in range(20):
        made = chain(SimNetwork(seed=seed), 2)
        made.network.run(1)
        ping = made.left.ping(made.right)
        assert made.network.run_until(lambda ping=ping: ping.answers == 1, 3), f"seed {seed}"
        times.append(ping.rtt_s)
    assert statistics.median(times) < 0.6, f"by seed: {times}"


@pytest.mark.parametrize(("delay_s", "earliest_s", "latest_s"), [(0.002, 0.15, 0.4), (0.2, 1, 2)])
def test_paths_are_sought_once_one_relay_would_have_come_up_judged_by_the_peers_answer(
    delay_s, earliest_s, latest_s
):
    network = SimNetwork(seed=1)
    network.channel.delay_s = delay_s
    made = chain(network, 2)
    network.run(1)
    began = []
    made.left.anchor.seeking.seek = lambda *_, now, **__: began.append(now)
    made.left.ping(made.right)
    assert network.run_until(lambda: made.left.anchor.routing.all() != [], 3)
    wanted_at = network.now()
    assert network.run_until(lambda: bool(began), 3)
    assert earliest_s <= began[0] - wanted_at - ATTEMPT_DELAY_MIN_S <= latest_s


def test_the_same_seed_finds_the_same_way_at_the_same_time():
    runs = []
    for _ in range(2):
        made = ladder(SimNetwork(seed=5), 3)
        assert reached(made, 20)
        runs.append((made.network.now(), made.network.fingerprint()))
    assert runs[0] == runs[1]


def test_five_relays_are_more_than_a_route_has():
    made = chain(SimNetwork(seed=1), 5)
    heard = Heard(made.network)
    assert not reached(made, 30)
    longest = max(len(m.path) for _, _, m in heard.messages if isinstance(m, Seek))
    assert longest == 4  # what left the third relay for the fourth
    assert not heard.count(Found)


@pytest.mark.parametrize("seed", range(4))
def test_two_routes_without_a_common_relay_are_found_at_both_ends(seed):
    assert spare(ladder(SimNetwork(seed=seed), 4))


def test_where_two_ways_must_share_a_relay_they_share_no_other():
    network = SimNetwork(seed=2)
    made = ladder(network, 3)
    made.stages[1][1].stop()
    for _ in range(150):
        made.left.ping(made.right)
        network.run(0.1)
    paths = made.paths(made.left, made.right)
    assert len(paths) == 2
    assert set(paths[0]) & set(paths[1]) == {"b1"}


def test_ordinary_networks_are_not_flooded():
    """Only where the draw of any relay missed the second one for a second is it sought for once."""
    seeks = []
    for seed in range(10):
        network = SimNetwork(seed=seed)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        network.block(left, right)
        for name in ("one", "two"):
            network.add_node(name)
        heard = Heard(network)
        for _ in range(100):
            left.ping(right)
            network.run(0.1)
        seeks.append(heard.count(Seek))
    assert sum(map(bool, seeks)) <= 2, f"seeks by seed: {seeks}"
    assert max(seeks) <= 12, f"seeks by seed: {seeks}"


def test_with_one_relay_and_no_other_seeks_become_rare(relayed):
    relayed.relays[0].stop()
    heard = Heard(relayed.network)
    relayed.left.ping(relayed.right)
    relayed.network.run(60)
    early = heard.count(Seek)
    for _ in range(600):
        relayed.left.ping(relayed.right)
        relayed.network.run(1)
    # From each end three rings every half minute, to the one relay.
    assert heard.count(Seek) - early <= 2 * 3 * (600 / 30 + 1)


def test_while_the_master_is_down_a_way_is_found_over_the_tethers_that_there_are():
    network = SimNetwork(seed=3)
    made = ladder(network, 2)
    (a1, a2), (b1, b2) = made.stages
    assert spare(made)
    meet(network, (a1, b1), (a1, b2), (a2, b1), (a2, b2))
    network.channel.is_down = True
    taken = made.paths(made.left, made.right)[0]
    lost = [relay for relay in (a1, a2) if relay.name in taken]
    lost += [relay for relay in (b1, b2) if relay.name not in taken]
    for relay in lost:
        relay.crash()
    left_over = [relay.name for relay in made.relays if relay.is_alive]
    network.run(3)
    assert reached(made, 10)
    assert made.paths(made.left, made.right) == [left_over]


def test_a_relay_to_be_avoided_is_on_the_way_only_if_there_is_no_other():
    network = SimNetwork(seed=4)
    made = ladder(network, 2)
    (a1, a2), (b1, b2) = made.stages
    meet(network, (made.left, a1), (made.left, a2), (a1, b1), (a1, b2), (a2, b1), (a2, b2))
    meet(network, (b1, made.right), (b2, made.right))
    found: list[tuple[float, list[str]]] = []
    made.left.anchor.seeking._on_found = lambda _, path, now: found.append(
        (now, [network.name_of(node) for node in path[1:-1]])
    )
    began = network.now()
    made.left.anchor.seeking.seek(
        made.right.node_id, relays=2, avoid=[a1.node_id, b1.node_id], now=began
    )
    network.run(HOLD_S)
    assert [path for _, path in found] == [["a2", "b2"]]
    network.run(2 * HOLD_S)
    assert [path for _, path in found] == [["a2", "b2"], ["a2", "b1"]]
    a2.crash()
    network.run(5)
    found.clear()
    made.left.anchor.seeking.seek(
        made.right.node_id, relays=2, avoid=[a1.node_id, b1.node_id], now=network.now()
    )
    network.run(1)
    assert [path for _, path in found] == [["a1", "b2"], ["a1", "b1"]]


def test_what_comes_up_while_a_seek_lives_is_told_of_it():
    network = SimNetwork(seed=5)
    made = chain(network, 2)
    (a1,), (b1,) = made.stages
    meet(network, (made.left, a1))
    found = []
    made.left.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    network.channel.is_down = True
    made.left.anchor.seeking.seek(made.right.node_id, relays=2, avoid=[], now=network.now())
    network.run(1)
    assert not found
    network.channel.is_down = False
    meet(network, (b1, made.right), (a1, b1))
    network.run(1)
    assert found == [tuple(node.node_id for node in (made.left, a1, b1, made.right))]


def test_a_copy_that_came_a_shorter_way_is_worth_passing_on_again():
    network = SimNetwork(seed=6)
    source, detour, relay, last, target = (
        network.add_node(name) for name in ("source", "detour", "relay", "last", "target")
    )
    network.block(target, source, detour, relay)
    network.block(last, source, detour)
    network.link(source, relay).delay_s = 0.2
    meet(network, (source, detour), (source, relay), (detour, relay), (relay, last), (last, target))
    found = []
    source.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    source.anchor.seeking.seek(target.node_id, relays=2, avoid=[], now=network.now())
    network.run(2)
    assert found == [tuple(node.node_id for node in (source, relay, last, target))]


# Relays that take no part


def test_a_node_that_relays_for_nobody_is_gone_round():
    network = SimNetwork(seed=7)
    made = ladder(network, 2)
    selfish = made.stages[0][0]
    selfish.crash()
    selfish.relaying = Relaying(enabled=False)
    selfish.start()
    heard = Heard(network)
    assert reached(made, 20)
    made.network.run(30)
    assert all("a1" not in path for path in made.paths(made.left, made.right))
    assert not any(
        source == "a1" and isinstance(m, Found | Seek) for source, _, m in heard.messages
    )
    assert not selfish.anchor.relay.carried
    assert not selfish.anchor.neighbours.all()


def test_set_ups_through_a_node_that_relays_for_nobody_are_refused():
    network = SimNetwork(seed=8)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    selfish = network.add_node("selfish", teams=["ops"], relaying=Relaying(enabled=False))
    for end in (left, right):
        end.ping(selfish)
    network.run(1)
    heard = Heard(network)
    assert [ping.answers for ping in (left.ping(right), right.ping(left))] == [0, 0]
    network.run(20)
    refused = [m for source, _, m in heard.messages if source == "selfish"]
    assert {m.reason for m in refused if isinstance(m, inband.SetupFailed)} == {
        inband.Reason.REFUSED
    }
    assert not any(isinstance(m, inband.SetupOk) for m in refused)


def test_a_node_that_relays_for_nobody_is_reached_over_relays_itself(relayed):
    network = SimNetwork(seed=9)
    left = network.add_node("left", teams=["ops"])
    right = network.add_node("right", teams=["ops"], relaying=Relaying(enabled=False))
    network.block(left, right)
    network.add_node("relay")
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 5)


# Strangers, lies, loops, replays


def test_strangers_of_the_plane_learn_a_way_and_get_nothing_through_it():
    network = SimNetwork(seed=10)
    made = chain(network, 2)
    assert reached(made, 10)
    stranger = network.add_node("stranger", teams=["others"])
    network.block(
        stranger, *(n for n in network.nodes.values() if n.name not in ("stranger", "a1"))
    )
    meet(network, (stranger, made.relays[0]))
    found = []
    stranger.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    stranger.anchor.seeking.seek(made.right.node_id, relays=2, avoid=[], now=network.now())
    network.run(1)
    ways = [tuple(n.node_id for n in (stranger, *made.relays, made.right))]
    assert found == ways
    heard = Heard(network)
    tether(stranger, made.relays[0]).send_reliable(Setup(b"r" * 16, 90, ways[0]).encode())
    network.run(1)
    assert heard.count(inband.SetupOk) == 0
    failed = [m for _, to, m in heard.messages if to == "stranger" and not isinstance(m, Seek)]
    assert failed == [inband.SetupFailed(b"r" * 16, inband.Reason.NO_HANDSHAKE)]


def test_a_target_answers_nobody_without_streams_with_it(pair):
    network, left, right = pair.network, pair.left, pair.right
    stranger, relay = network.add_node("stranger", teams=["others"]), network.add_node("relay")
    left.ping(right)
    network.run(1)
    meet(network, (relay, right))
    heard = Heard(network)
    for number, paths in enumerate(([left], [left, relay], [stranger, relay])):
        path = [node.node_id for node in paths]
        message = Seek(bytes((number,)) * 16, 4 - len(path), right.node_id, path)
        tether(paths[-1], right).send_reliable(message.encode())
    network.run(1)
    whole = tuple(node.node_id for node in (left, relay, right))
    assert [m for _, _, m in heard.messages if isinstance(m, Found)] == [
        Found(bytes((1,)) * 16, list(whole))
    ]


def test_liars_cost_a_bounded_number_of_set_ups_and_the_true_way_is_found():
    network = SimNetwork(seed=11)
    made = ladder(network, 2)
    liar = made.stages[0][0]
    told: Counter[bytes] = Counter()

    def lie(neighbour, seek: Seek, now: float) -> None:
        for number in range(100):
            told[seek.seek_id] += neighbour.node_id == made.left.node_id
            made_up = NodeId(number.to_bytes(32, "big"))
            path = (*seek.path, liar.node_id, made_up, seek.target)
            neighbour.send_inband(Found(seek.seek_id, path))

    liar.anchor.seeking.received = lie
    meet(network, (made.left, liar))
    heard = Heard(network)
    assert reached(made, 20)
    assert all("a1" not in path for path in made.paths(made.left, made.right))
    lies = sum(told.values())
    seeks = sum(map(bool, told.values()))
    assert lies >= 100
    counters = made.left.anchor.counters
    assert counters["found_over_limit"] == lies - MAX_FOUND * seeks
    tried = {m.path[2] for _, to, m in heard.messages if to == "a1" and isinstance(m, Setup)}
    assert len(tried - {node.node_id for node in network.nodes.values()}) <= MAX_FOUND * seeks


Bend = Callable[[Seek], Found]


@pytest.mark.parametrize(
    "bent",
    [
        lambda s, me, to: Found(b"another id 12345", (*s.path, me, s.target)),
        lambda s, me, to: Found(s.seek_id, (NOWHERE, me, s.target)),
        lambda s, me, to: Found(s.seek_id, (*s.path, NOWHERE, s.target)),
        lambda s, me, to: Found(s.seek_id, (*s.path, me, NOWHERE)),
        lambda s, me, to: Found(s.seek_id, (*s.path, me, NOWHERE, NodeId(b"m" * 32), s.target)),
        lambda s, me, to: Found(s.seek_id, (*s.path, s.target, me)),
    ],
    ids=["id", "source", "not by its sender", "target", "too long", "behind the target"],
)
def test_a_found_that_does_not_continue_what_was_sent_is_dropped_and_counted(bent):
    network = SimNetwork(seed=12)
    source, relay = (network.add_node(name) for name in ("source", "relay"))
    meet(network, (source, relay))
    found = []
    source.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    relay.anchor.seeking.received = lambda neighbour, seek, now: neighbour.send_inband(
        bent(seek, relay.node_id, source.node_id)
    )
    source.anchor.seeking.seek(NodeId(b"t" * 32), relays=2, avoid=[], now=network.now())
    network.run(1)
    assert not found
    assert source.anchor.counters["found_unexpected"] == 1


def test_a_found_of_a_neighbour_that_was_not_asked_is_dropped_and_counted():
    network = SimNetwork(seed=12)
    source = network.add_node("source")
    neighbours = [network.add_node(f"node {n}") for n in range(MAX_ONWARD + 1)]
    meet(network, *((source, node) for node in neighbours))
    found = []
    source.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    heard = Heard(network)
    source.anchor.seeking.seek(NOWHERE, relays=2, avoid=[], now=network.now())
    network.run(0.1)
    told = {to: m.seek_id for by, to, m in heard.messages if by == "source" and isinstance(m, Seek)}
    assert len(told) == MAX_ONWARD
    [other] = [node for node in neighbours if node.name not in told]
    for node in (other, network.nodes[next(iter(told))]):
        path = (source.node_id, node.node_id, NOWHERE)
        tether(node, source).send_reliable(Found(next(iter(told.values())), path).encode())
    network.run(0.1)
    assert [network.name_of(path[1]) for path in found] == [next(iter(told))]
    assert source.anchor.counters["found_unexpected"] == 1


def test_a_copy_in_anothers_name_does_not_take_the_place_of_a_seek():
    network, one, two, _ = row_of_three(13)
    liar = network.add_node("liar")
    meet(network, (liar, two))
    genuine = Seek(b"s" * 16, 2, NOWHERE, [one.node_id])
    forged = Seek(b"s" * 16, 4, NOWHERE, [liar.node_id])
    for node, message in ((one, genuine), (liar, forged)):
        tether(node, two).send_reliable(message.encode())
        network.run(0.1)
    assert two.anchor.counters["seek_seen"] == 1
    assert two.anchor.seeking._live[b"s" * 16].before.node_id == one.node_id


def row_of_three(seed: int) -> tuple[SimNetwork, SimNode, SimNode, SimNode]:
    network = SimNetwork(seed=seed)
    one, two, three = (network.add_node(name) for name in ("one", "two", "three"))
    meet(network, (one, two), (two, three))
    return network, one, two, three


@pytest.mark.parametrize("case", ["loop", "another's", "itself"])
def test_a_seek_with_a_loop_or_from_another_than_its_last_node_is_refused_and_counted(case):
    network, one, two, three = row_of_three(13)
    paths = {
        "loop": [one.node_id, two.node_id, NOWHERE, one.node_id],
        "another's": [one.node_id, NOWHERE],
        "itself": [two.node_id, one.node_id],
    }
    heard = Heard(network)
    neighbour = one.anchor.neighbours.get(two.node_id)
    message = Seek(b"s" * 16, 1, NodeId(b"t" * 32), paths[case])
    neighbour.tethers[-1].send_reliable(message.encode())
    network.run(1)
    assert heard.count(Seek) == (0 if case == "loop" else 1)  # a loop is no message at all
    counted = "inband_malformed" if case == "loop" else "seek_refused"
    assert two.anchor.counters[counted] == 1
    assert two.anchor.seeking.live == 0
    assert three.anchor.seeking.live == 0


def test_a_replayed_seek_goes_no_further():
    network, one, two, three = row_of_three(14)
    message = Seek(b"s" * 16, 4, NOWHERE, [one.node_id]).encode()
    for _ in range(10):
        tether(one, two).send_reliable(message)
        network.run(SEEK_S / 2)
    assert two.anchor.counters["seek_seen"] == 9
    assert three.anchor.counters["seek_seen"] == 0
    network.run(2 * SEEK_S)
    assert two.anchor.seeking.live == three.anchor.seeking.live == 0


# Floods


def flood(network: SimNetwork, one: SimNode, two: SimNode, seeks: Sequence[Seek]) -> None:
    for seek in seeks:
        tether(one, two).send_reliable(seek.encode())
    network.run(0.5)


def seeks_to_nowhere(source: SimNode, count: int, *, relays_left: int = 4) -> list[Seek]:
    """Each of another id for another node that nobody knows."""
    return [
        Seek(n.to_bytes(16, "big"), relays_left, NodeId(n.to_bytes(32, "big")), [source.node_id])
        for n in range(1, count + 1)
    ]


def test_seeks_over_the_rate_are_dropped_and_counted():
    network, one, two, three = row_of_three(15)
    heard = Heard(network)
    flood(network, one, two, seeks_to_nowhere(one, 1_000))
    let_in = SEEKS_BURST + SEEKS_PER_S
    assert two.anchor.counters["seek_over_rate"] >= 1_000 - let_in
    passed_on = sum(source == "two" for source, _, m in heard.messages if isinstance(m, Seek))
    assert passed_on <= let_in
    assert two.anchor.seeking.live <= let_in
    network.run(2 * SEEK_S)
    assert two.anchor.seeking.live == three.anchor.seeking.live == 0


@pytest.mark.parametrize("relays_left", [1, 4])
def test_seeks_for_nodes_that_do_not_exist_do_not_use_up_a_relays_own_asks(relays_left):
    network, one, two, _ = row_of_three(16)
    asked = network.channel.count(Kind.ASK)
    for _ in range(10):
        flood(network, one, two, seeks_to_nowhere(one, 200, relays_left=relays_left))
    out = two.anchor.exchange.asking._asked
    assert 0 < len(out) <= ASKS_BURST + 10
    # An Ask to a node is repeated three times.
    assert network.channel.count(Kind.ASK) - asked <= 4 * (ASKS_BURST + 10)
    friend = network.add_node("friend", teams=["ops"])
    network.guardian.attach(two.name, "ops")
    network.run(1)
    ping = two.ping(friend)
    assert network.run_until(lambda: ping.answers == 1, 3)


def test_many_neighbours_together_make_a_relay_ask_no_more_than_its_bound():
    network = SimNetwork(seed=17)
    relay = network.add_node("relay")
    others = [network.add_node(f"node {n}") for n in range(8)]
    meet(network, *((node, relay) for node in others))
    asked = network.channel.count(Kind.ASK)
    for number, node in enumerate(others):
        seeks = [
            Seek(bytes((number, n)) * 8, 1, NodeId(bytes((number, n)) * 16), [node.node_id])
            for n in range(1, 40)
        ]
        for seek in seeks:
            tether(node, relay).send_reliable(seek.encode())
    network.run(0.2)
    assert network.channel.count(Kind.ASK) - asked == ALL_ASKS_BURST
    assert relay.anchor.counters["seek_ask_over_rate"] > 0


# Large networks


def network_of_fifty(seed: int, degree: int) -> tuple[SimNetwork, list[SimNode]]:
    """Fifty nodes, each with tethers to at least *degree* others, drawn by lot; nobody else's."""
    network = SimNetwork(seed=seed)
    network.channel.records = False
    nodes = [network.add_node(f"node {n}") for n in range(50)]
    chance = network.underlay.chance
    for node in nodes:
        others = chance.sample([other for other in nodes if other is not node], degree)
        for other in others:
            node.anchor.asker.tether(other.node_id, network.now())
        network.run(0.2)
    network.run(3)
    return network, nodes


@pytest.mark.parametrize("degree", [2, 6, 12])
def test_a_seek_in_a_network_of_fifty_causes_a_bounded_number_of_messages(degree):
    network, nodes = network_of_fifty(18, degree)
    source = nodes[0]
    heard = Heard(network)
    asked = network.channel.count(Kind.ASK)
    source.anchor.seeking.seek(NOWHERE, relays=4, avoid=[], now=network.now())
    network.run(SEEK_S + 1)
    sent = Counter(name for name, _, m in heard.messages if isinstance(m, Seek))
    assert 0 < max(sent.values()) <= MAX_ONWARD
    assert sum(sent.values()) <= MAX_ONWARD * len(nodes)
    assert not heard.count(Found)
    # Those at the edge of the ring ask for the node, once with three repeats; nobody else asks.
    assert network.channel.count(Kind.ASK) - asked <= 4 * len(nodes)
    assert not any(node.anchor.seeking.live for node in nodes)


def test_a_node_in_a_network_of_fifty_is_found_with_a_bounded_number_of_messages():
    network, nodes = network_of_fifty(19, 3)
    source, target = nodes[0], nodes[-1]
    found = []
    source.anchor.seeking._on_found = lambda _, path, now: found.append(path)
    heard = Heard(network)
    source.anchor.seeking.seek(target.node_id, relays=4, avoid=[], now=network.now())
    network.run(SEEK_S + 1)
    assert found
    assert heard.count(Seek) <= MAX_ONWARD * len(nodes)
    neighbours = len(target.anchor.neighbours.all())
    assert heard.count(Found) <= 4 * neighbours  # each relay next to it answers over four hops


# Draws of any relay


def test_blocked_nodes_are_tried_less_and_less_often_and_meanwhile_named_to_be_avoided():
    network = SimNetwork(seed=20)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    walls = [network.add_node(f"wall {n}") for n in range(6)]
    network.block(left, right, *walls)
    network.block(right, *walls)
    tried: Counter[str] = Counter()
    began = left.connect_tether

    def connect(tether_, secret, remote, *, deadline_s, then):
        tried[tether_.peer.owner] += 1
        began(tether_, secret, remote, deadline_s=deadline_s, then=then)

    left.connect_tether = connect
    # An attempt takes 10 s; then the failure counts for 10, 20, 40 s.
    for seconds, times in ((18, 1), (30, 2), (50, 3)):
        for _ in range(seconds):
            left.ping(right)
            network.run(1)
        # Right itself is asked for by its address, whatever failed before.
        assert set(tried) == {"right", *(wall.name for wall in walls)}
        assert [tried[wall.name] for wall in walls] == [times] * len(walls)
