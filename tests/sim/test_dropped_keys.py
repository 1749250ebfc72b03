"""All keys are dropped, as after a VM was cloned or went back to a snapshot: none is used again."""

from __future__ import annotations

import pytest

from conflux.anchor import sessions
from conflux.anchor.identity import CLOCK_SKEW_S
from conflux.anchor.stream import OutStream
from conflux.testing.simnet import SimNetwork, SimNode

BACK_S = 0.5
"""Within so much peers are reached again, at round trips of 10 ms."""


class Sealed:
    """Every frame that anybody seals, and under which key and nonce."""

    def __init__(self, monkeypatch) -> None:
        self.frames: list[tuple[float, int, int, bytes]] = []
        """(time, stream id, counter, frame)."""
        self.made: dict[int, float] = {}
        """When each stream's keys were made, by stream id."""
        sealed = self

        class Recorded(OutStream):
            __slots__ = ()

            def __init__(self, keys, *, now):
                super().__init__(keys, now=now)
                sealed.made[keys.stream_id] = now

            def seal(self, superframe, *, now):
                frame = super().seal(superframe, now=now)
                sealed.frames.append((now, self.stream_id, self.counter, bytes(frame)[8:]))
                return frame

        monkeypatch.setattr(sessions, "OutStream", Recorded)

    def nonces_used_twice(self) -> set[tuple[int, int]]:
        seen: dict[tuple[int, int], bytes] = {}
        twice = set()
        for _, stream, counter, frame in self.frames:
            if seen.setdefault((stream, counter), frame) != frame:
                twice.add((stream, counter))
        return twice


@pytest.fixture
def sealed(monkeypatch) -> Sealed:
    return Sealed(monkeypatch)


def streams_of(node: SimNode) -> set[int]:
    return {session.out.stream_id for session in node.anchor.sessions.values()}


def datagrams_from(network: SimNetwork, name: str) -> list[float]:
    """When something that *name* sent over a tether arrived."""
    times: list[float] = []
    network.on_datagram = lambda source, _, __: times.append(network.now()) if source == name else 0
    return times


def go_back(node: SimNode, counters: dict) -> None:
    """What a snapshot does to streams that it holds: they count from there on once more."""
    for session in node.anchor.sessions.values():
        session.out._counter = counters[session.out.stream_id]


def test_a_snapshot_would_use_nonces_twice_without_this(pair, sealed):
    """The fault that the other tests are about shows in this record."""
    pair.left.ping(pair.right)
    pair.network.run(1)
    counters = {s.out.stream_id: s.out.counter for s in pair.left.anchor.sessions.values()}
    pair.left.ping(pair.right)
    pair.network.run(0.1)
    go_back(pair.left, counters)
    pair.left.send_packet(pair.right, b"something else")
    pair.network.run(0.1)
    assert sealed.nonces_used_twice()


def test_after_a_snapshot_no_nonce_is_used_twice_and_peers_are_reached_again_at_once(pair, sealed):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(1)
    counters = {s.out.stream_id: s.out.counter for s in left.anchor.sessions.values()}
    for _ in range(20):
        left.ping(right)
        network.run(0.05)
    go_back(left, counters)
    dropped_at, former = network.now(), streams_of(left)
    left.anchor.drop_keys(now=network.now())
    assert not left.anchor.sessions
    assert not left.anchor.neighbours.all()
    assert not left.anchor.ingress.streams
    for source, target in ((left, right), (right, left)):
        ping = source.ping(target)
        assert network.run_until(lambda p=ping: p.answers == 1, BACK_S)
    network.run(5)
    assert not sealed.nonces_used_twice()
    assert all(when <= dropped_at for when, stream, _, _ in sealed.frames if stream in former), (
        "sealed under a former key"
    )


def test_nothing_is_told_to_neighbours_over_their_old_tethers(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(3)
    relay = next(node for node in relayed.relays if node.anchor.relay.carried)
    for node in (left, relay):
        network.run(2)
        sent = datagrams_from(network, node.name)
        tethers = network.underlay.tethers(node.name)
        reliable = [len(tether._reliable) for tether in tethers]
        far_ends = [tether.peer for tether in tethers if not tether.peer.closed]
        assert far_ends
        node.anchor.drop_keys(now=network.now())
        assert all(tether.closed for tether in tethers)
        assert [len(tether._reliable) for tether in tethers] == reliable
        network.run(0.1)
        under_way_s = 0.02
        assert not [when for when in sent if when > network.now() - 0.1 + under_way_s]
        assert not any(far_end.closed for far_end in far_ends), "told of the end"


def test_flows_go_on_over_another_relay_or_a_new_tether(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    for node in (left, right, *relayed.relays):
        node.anchor.drop_keys(now=network.now())
        ping = None
        for _ in range(100):
            ping = left.ping(right)
            network.run(0.05)
        network.run(1)
        assert ping.answers == 1


@pytest.mark.parametrize("asks", ["left", "right"])
def test_a_handshake_that_is_under_way_gives_no_keys(asks, monkeypatch):
    """Both halves of a clone would make the same ones of it. At whichever moment it comes."""
    for step in range(60):
        with monkeypatch.context() as patched:
            sealed = Sealed(patched)
            network = SimNetwork(seed=step % 3)
            left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
            for node in (left, right):
                node.deferred_s = 0.01
            source, target = (left, right) if asks == "left" else (right, left)
            source.ping(target)
            network.run(0.001 * step)
            dropped_at, former = network.now(), set(sealed.made)
            left.anchor.drop_keys(now=dropped_at)
            mine = [session.out.stream_id for session in left.anchor.sessions.values()]
            assert mine == []
            # What was on its way makes nothing within the time of a new handshake's first step.
            network.run(0.012)
            assert not left.anchor.sessions
            ping = source.ping(target)
            # An Open that was on its way is lost: who sent it waits for an answer for 12 s.
            network.run(18)
            ping = source.ping(target)
            assert network.run_until(lambda p=ping: p.answers == 1, 2), step
            assert not former & streams_of(left)
            assert not sealed.nonces_used_twice()


def test_packets_that_wait_go_out_under_new_keys(pair):
    network, left, right = pair.network, pair.left, pair.right
    for node in (left, right):
        node.deferred_s = 0.02
    ping = left.ping(right)
    network.run(0.05)
    left.anchor.drop_keys(now=network.now())
    assert network.run_until(lambda: ping.answers == 1, BACK_S)


def test_a_machine_is_reached_again_that_has_nothing_to_send(pair):
    network, left, right = pair.network, pair.left, pair.right
    right.ping(left)
    network.run(1)
    left.anchor.drop_keys(now=network.now())
    network.run(BACK_S - 0.1)
    ping = right.ping(left)
    assert network.run_until(lambda: ping.answers == 1, 0.1)


def test_a_machine_that_slept_asks_by_guardians_clock(pair):
    """Its own stood still: by that, its Asks would come from the past and be dropped."""
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(300)
    slept_s = 10 * CLOCK_SKEW_S
    left.anchor.grants._clock_offset_s -= slept_s
    left.anchor.drop_keys(now=network.now(), slept_s=slept_s)
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, BACK_S)


def test_nothing_is_left_behind(pair):
    network, left, right = pair.network, pair.left, pair.right
    for _ in range(50):
        left.ping(right)
        network.run(0.07)
        left.anchor.drop_keys(now=network.now())
    network.run(200)
    for node in (left, right):
        assert not node.anchor.sessions
        assert network.underlay.tethers(node.name) == []
        assert not node.anchor.exchange._connecting
        assert not node.anchor.exchange.asking._opening
