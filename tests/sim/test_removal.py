"""A team's key is replaced: who was removed is cut off at once, who stays notices nothing.

Whoever was removed is a real node that does not take its new grant: it keeps the old key, its
streams and its manners, and goes on trying.
"""

from __future__ import annotations

import pytest

from conflux.anchor.sessions import TEAM_GRACE_S
from conflux.anchor.stream import REKEY_S, OutStream
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind
from conflux.wire.frame import bare

DEAD_S = 1.0
"""From the removal at Guardian until nothing goes through any more, either way."""
LOOK_S = 0.25
"""Of that, Guardian may need so much to notice (docs/decisions/0023)."""
EVERY_S = 0.005


def ignore_grants(node: SimNode) -> None:
    node.anchor.grants.pushed = lambda sealed: None


class Flows:
    """Steady flows between pairs of nodes, numbered packets in both directions of each."""

    def __init__(self, network: SimNetwork, *pairs: tuple[SimNode, SimNode]) -> None:
        self.network = network
        self.ways = [way for one, other in pairs for way in ((one, other), (other, one))]
        self.sent: list[float] = []

    def send(self) -> None:
        """Send the next packet of each."""
        for source, target in self.ways:
            source.send_packet(target, self._name(source, target) + b"%d" % len(self.sent))
        self.sent.append(self.network.now())

    def arrivals(self, source: SimNode, target: SimNode) -> list[tuple[int, float]]:
        name = self._name(source, target)
        return [
            (int(payload.removeprefix(name)), arrival.time)
            for payload, arrival in zip(target.payloads(), target.received, strict=True)
            if payload.startswith(name)
        ]

    def last_arrival(self) -> float:
        return max(time for way in self.ways for _, time in self.arrivals(*way))

    def assert_whole(self) -> None:
        """Every packet arrived, and arrived once."""
        for source, target in self.ways:
            numbers = [number for number, _ in self.arrivals(source, target)]
            missing = set(range(len(self.sent))) - set(numbers)
            assert not missing, (source.name, target.name, [self.sent[n] for n in sorted(missing)])
            assert len(numbers) == len(set(numbers))

    def other(self, node: SimNode) -> SimNode:
        """The far end of *node*'s flow."""
        return next(target for source, target in self.ways if source is node)

    def _name(self, source: SimNode, target: SimNode) -> bytes:
        return f"{source.name} to {target.name} ".encode()


class Team:
    """Left and right stay in team ops, the leaver goes."""

    def __init__(self, network: SimNetwork, *, teams: str = "ops") -> None:
        self.network = network
        names = ("left", "right", "leaver")
        self.left, self.right, self.leaver = (
            network.add_node(name, teams=teams.split()) for name in names
        )
        self.stay = Flows(network, (self.left, self.right))
        self.go = Flows(network, (self.left, self.leaver), (self.leaver, self.right))

    def settle(self, seconds: float = 2.0) -> None:
        for way in (*self.stay.ways, *self.go.ways):
            way[0].ping(way[1])
        self.network.run(seconds)

    def run(self, seconds: float, *, every_s: float = EVERY_S) -> None:
        """All flows at once."""
        for _ in range(round(seconds / every_s)):
            self.go.send()
            self.stay.send()
            self.network.run(every_s)

    def asks_among_those_who_stay(self) -> int:
        """How often they asked each other by the Master."""
        held = [node.anchor.standing.grant.control for node in (self.left, self.right)]
        return sum(
            message.kind is Kind.ASK
            and any(message.tag in control.tags for control in held)
            and any(message.sender == control.handle for control in held)
            for message in self.network.channel.messages
        )

    def delay_grants(self, delays: dict[str, float]) -> None:
        """Grants reach the nodes so much later."""
        channel, clock = self.network.channel, self.network.clock
        late = {
            self.network.nodes[name].anchor.standing.grant.control.handle: delay_s
            for name, delay_s in delays.items()
        }

        def tap(message):
            if message.kind is Kind.GRANT and late.get(message.tag):
                clock.after(late[message.tag], lambda: channel.carry(message))
                return ()
            return (message,)

        channel.tap = tap


@pytest.fixture
def team(packet_auth):
    team = Team(SimNetwork(seed=4, packet_auth=packet_auth))
    team.settle()
    return team


def assert_cut_off(team: Team, since: float) -> None:
    """What the leaver sends and is sent ends in time, and for good."""
    network = team.network
    assert since <= team.go.last_arrival() < since + DEAD_S - LOOK_S
    for node in (team.left, team.right):
        assert team.leaver.node_id not in node.anchor.sessions
    answers = network.channel.count(Kind.ANSWER)
    before = [len(node.received) for node in network.nodes.values()]
    for _ in range(60):
        for source, target in team.go.ways:
            source.ping(target)
        network.run(1.0)
    assert [len(node.received) for node in network.nodes.values()] == before
    assert network.channel.count(Kind.ANSWER) == answers
    for node in (team.left, team.right):
        assert node.anchor.counters["control: Ask without a common team"] > 0


def test_removed_member_that_ignores_its_removal_and_keeps_the_old_key(team):
    ignore_grants(team.leaver)
    team.run(0.5)
    removed_at = team.network.now()
    team.network.guardian.detach("leaver", "ops")
    team.run(2.0)
    team.network.run(1.0)
    team.stay.assert_whole()
    assert_cut_off(team, removed_at)


def test_removed_member_that_obeys_is_out_at_once(team):
    team.run(0.5)
    removed_at = team.network.now()
    team.network.guardian.detach("leaver", "ops")
    team.run(1.0)
    team.network.run(1.0)
    team.stay.assert_whole()
    assert team.go.last_arrival() < removed_at + 0.1
    assert not team.leaver.anchor.sessions


def test_who_stays_has_new_keys_that_hang_on_the_new_epoch_alone(team):
    team.run(0.2)
    before = team.left.anchor.sessions[team.right.node_id]
    team.network.guardian.detach("leaver", "ops")
    team.run(1.0)
    after = team.left.anchor.sessions[team.right.node_id]
    assert after.out.stream_id != before.out.stream_id
    assert [team_key.epoch for team_key in after.teams] == [before.teams[0].epoch + 1]
    streams = {stream.stream_id for stream in team.left.anchor.ingress.streams}
    assert before.inbound.stream_id not in streams


@pytest.mark.parametrize("late", ["left", "right"])
@pytest.mark.parametrize("late_s", [0.03, 0.13, 0.25])
def test_who_stays_loses_nothing_if_one_learns_of_it_later(packet_auth, late, late_s):
    team = Team(SimNetwork(seed=5, packet_auth=packet_auth))
    team.settle()
    ignore_grants(team.leaver)
    team.delay_grants({late: late_s})
    team.run(0.2)
    team.network.guardian.detach("leaver", "ops")
    team.run(1.5)
    team.network.run(1.0)
    team.stay.assert_whole()


@pytest.mark.parametrize("rtt_s", [0.05, 0.18])
def test_who_stays_loses_nothing_at_round_trips_of_up_to_180_ms(packet_auth, rtt_s):
    network = SimNetwork(seed=6, packet_auth=packet_auth)
    network.underlay.default.delay_s = rtt_s / 2
    team = Team(network)
    team.settle(5.0)
    team.run(0.5)
    network.guardian.detach("leaver", "ops")
    team.run(1.5)
    network.run(2.0)
    team.stay.assert_whole()


@pytest.mark.parametrize("seed", range(4))
def test_farther_away_new_keys_that_are_on_their_way_are_waited_for(seed):
    network = SimNetwork(seed=seed)
    network.underlay.default.delay_s = 0.15
    team = Team(network)
    team.settle(5.0)
    asked = team.asks_among_those_who_stay()
    network.guardian.detach("leaver", "ops")
    team.run(0.5)
    for node in (team.left, team.right):
        late = min(session.ends_at for session in node.anchor.sessions.values()) + 0.001
        packet = memoryview(bare([node.packet(team.stay.other(node), b"before the timer")]))
        node.anchor.take_burst(packet, now=late)
    team.run(0.5)
    assert [key.epoch for key in team.left.anchor.sessions[team.right.node_id].teams] == [2]
    assert team.asks_among_those_who_stay() == asked
    for source, target in team.stay.ways:
        assert team.stay.arrivals(source, target)[-1][1] > network.now() - 0.2
        assert b"before the timer" in target.payloads()


@pytest.mark.parametrize("seed", range(4))
def test_clocks_that_differ_do_not_keep_the_old_keys_in_use(seed):
    """Of two handshakes at once the one asked for later stands, by the askers' clocks."""
    team = Team(SimNetwork(seed=seed))
    team.left.anchor.grants._clock_offset_s += 30
    team.left.ping(team.right)
    team.network.run(1.0)
    team.settle()
    team.run(0.2)
    team.network.guardian.detach("leaver", "ops")
    team.run(1.0)
    team.network.run(0.5)
    team.stay.assert_whole()


def test_who_stays_loses_nothing_over_a_relay_and_the_leaver_may_be_that(packet_auth):
    network = SimNetwork(seed=7, packet_auth=packet_auth)
    team = Team(network)
    network.block(team.left, team.right)
    team.settle(5.0)
    routes = team.left.anchor.routing.get(team.right.node_id).routes
    assert team.leaver.node_id in routes[0].path
    ignore_grants(team.leaver)
    team.run(0.5)
    removed_at = network.now()
    network.guardian.detach("leaver", "ops")
    team.run(2.0)
    network.run(1.0)
    team.stay.assert_whole()
    assert_cut_off(team, removed_at)


def test_another_common_team_goes_on_without_a_gap(packet_auth):
    network = SimNetwork(seed=8, packet_auth=packet_auth)
    team = Team(network, teams="ops dev")
    team.settle()
    team.run(0.2)
    network.guardian.detach("leaver", "ops")
    team.run(1.5)
    network.run(1.0)
    team.stay.assert_whole()
    teams = {
        node.name: [key.name for key in team.left.anchor.sessions[node.node_id].teams]
        for node in (team.right, team.leaver)
    }
    assert teams == {"right": ["dev", "ops"], "leaver": ["dev"]}


def test_the_keys_that_a_rekey_replaced_die_with_their_team_too(team, monkeypatch):
    """The former stream of a pair opens frames for 10 s after a rekey: not beyond a removal."""
    monkeypatch.setattr(OutStream, "erase", lambda stream: None)  # the leaver keeps its keys
    ignore_grants(team.leaver)
    team.run(REKEY_S - 2, every_s=1.0)
    former = team.leaver.anchor.sessions[team.left.node_id]
    while team.leaver.anchor.sessions[team.left.node_id] is former:
        team.run(EVERY_S)
    removed_at = team.network.now()
    team.network.guardian.detach("leaver", "ops")
    route = team.leaver.anchor.routing.get(team.left.node_id).choose(0)
    for number in range(300):
        packet = team.leaver.packet(team.left, b"old keys %d" % number)
        frame = former.out.seal(memoryview(bare([packet])), now=removed_at)
        route.send(frame, now=team.network.now())
        team.network.run(EVERY_S)
    arrived = [arrival.time for arrival in team.left.received if b"old keys" in arrival.packet]
    assert removed_at + 0.1 < max(arrived) < removed_at + DEAD_S - LOOK_S


@pytest.mark.parametrize("late_s", [0.0, 0.03])
def test_a_removal_in_the_middle_of_a_rekey_loses_nothing_of_those_who_stay(late_s):
    for step in range(32):
        team = Team(SimNetwork(seed=90 + step % 4))
        team.settle()
        for node in team.network.nodes.values():
            node.deferred_s = 0.02
        team.delay_grants({"left": late_s})
        team.run(0.1)
        left = team.left.anchor
        left.sessions.rekey(left.sessions[team.right.node_id], team.network.now())
        team.run(EVERY_S * step)
        team.network.guardian.detach("leaver", "ops")
        team.run(0.8)
        team.network.run(0.5)
        team.stay.assert_whole()


def test_first_packets_that_meet_a_new_epoch_are_not_lost(packet_auth):
    """A handshake that the removal overtakes is made again at once, without a back-off."""
    for step in range(20):
        team = Team(SimNetwork(seed=step, packet_auth=packet_auth))
        team.delay_grants({"left": 0.002 * (step % 5)})
        ping = team.left.ping(team.right)
        team.network.run(0.002 * step)
        team.network.guardian.detach("leaver", "ops")
        assert team.network.run_until(lambda p=ping: p.answers == 1, 1.0), step


def test_an_idle_stream_of_a_former_epoch_is_closed_without_a_word(team):
    team.network.run(team.network.idle.stream_s + 10)
    asked = team.network.channel.count(Kind.ASK)
    team.network.guardian.detach("leaver", "ops")
    team.network.run(TEAM_GRACE_S + 0.1)
    assert not team.left.anchor.sessions
    assert team.network.channel.count(Kind.ASK) == asked


def test_a_late_timer_lets_nothing_of_a_removed_member_through(team):
    """The host stalls: frames are read before the timer that closes the session has run."""
    ignore_grants(team.leaver)
    team.network.guardian.detach("leaver", "ops")
    team.network.run(0.1)
    session = team.left.anchor.sessions[team.leaver.node_id]
    sent = team.leaver.anchor.sessions[team.left.node_id]
    late = session.ends_at + 0.001
    packet = team.leaver.packet(team.left, b"late")
    frame = sent.out.seal(memoryview(bare([packet])), now=0.0)
    before = len(team.left.received)
    assert team.left.anchor.ingress.take(memoryview(frame), now=late) is None
    assert len(team.left.received) == before
    assert team.left.anchor.counters["frame_after_its_keys_ended"] == 1


def test_policy_holds_while_guardian_and_master_are_dead(team):
    """The last that Guardian said stands: the leaver stays out, those who stay go on."""
    ignore_grants(team.leaver)
    team.network.guardian.detach("leaver", "ops")
    team.run(1.0)
    team.network.channel.is_down = True
    team.run(2.5 * REKEY_S, every_s=1.0)
    team.network.run(1.0)
    team.stay.assert_whole()
    for node in (team.left, team.right):
        assert team.leaver.node_id not in node.anchor.sessions


def test_the_grace_leaves_guardian_time_to_notice():
    assert LOOK_S + TEAM_GRACE_S <= DEAD_S - 0.25
