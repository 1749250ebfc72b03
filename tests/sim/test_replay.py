"""Replay: frames by a relay, control messages by the Master, both across restarts of either end."""

from __future__ import annotations

import pytest

from conflux.anchor.stream import REKEY_S
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind
from conflux.wire.frame import OUTER

DATA_BYTE = 0x10


class Recorder:
    """Everything that crosses the network: frames by link, and what the Master carries."""

    def __init__(self, network: SimNetwork) -> None:
        self.network = network
        self.frames: list[tuple[str, str, bytes]] = []
        network.on_datagram = self._note

    def _note(self, source: str, target: str, message: bytes) -> None:
        if message[0] == DATA_BYTE:
            self.frames.append((source, target, message))

    def replay_frames(self, times: int = 1) -> int:
        """Send each frame once more over the tether that it came by, as its last sender could."""
        self.network.on_datagram = None
        sent = 0
        for source, target, message in self.frames * times:
            nodes = self.network.nodes
            neighbour = nodes[source].anchor.neighbours.get(nodes[target].node_id)
            if neighbour is not None:
                sent += neighbour.tethers[-1].send([message])
            if sent % 100 == 0:
                self.network.run(0.05)
        self.network.run(1)
        return sent

    def replay_control(self) -> None:
        for message in list(self.network.channel.messages):
            self.network.replay(message)
            self.network.run(0.1)
        self.network.run(5)


def talk(one: SimNode, other: SimNode, network: SimNetwork) -> None:
    ping = one.ping(other)
    assert network.run_until(lambda: ping.answers == 1, 5)


def sessions(*nodes: SimNode) -> list[list]:
    return [list(node.anchor.sessions.items()) for node in nodes]


def test_frames_that_a_relay_replays_are_dropped_and_counted(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    recorder = Recorder(network)
    sent = [b"%d" % number for number in range(50)]
    talk(left, right, network)
    for number, payload in enumerate(sent):
        left.send_packet(right, payload, port=2_000 + number)
    network.run(3)
    before = right.payloads()
    assert set(sent) <= set(before)
    assert recorder.replay_frames(3) > 150
    assert right.payloads() == before
    assert right.anchor.counters["frame_replayed"] >= 150
    assert left.node_id in right.anchor.sessions
    talk(left, right, network)


def test_frames_replayed_under_the_label_of_another_route_are_dropped(relayed):
    """Both relays work together: what came by the one comes once more by the other."""
    network, left, right = relayed.network, relayed.left, relayed.right
    recorder = Recorder(network)
    talk(left, right, network)
    network.run(3)
    left.send_packet(right, b"once")
    network.run(1)
    routes = {
        relay.name: list(right.anchor.neighbours.get(relay.node_id).labels)
        for relay in relayed.relays
    }
    before, sent = right.payloads(), 0
    for _, target, frame in list(recorder.frames):
        for relay in relayed.relays:
            for label in routes[relay.name] if target == right.name else ():
                under = OUTER.pack(DATA_BYTE, 5, 0, label) + frame[OUTER.size :]
                sent += relay.anchor.neighbours.get(right.node_id).tethers[-1].send([under])
    network.run(1)
    assert sent > 2
    assert right.payloads() == before
    assert right.anchor.counters["frame_replayed"] >= sent - 2


def test_frames_replayed_after_a_rekey_are_dropped(pair):
    network, left, right = pair.network, pair.left, pair.right
    recorder = Recorder(network)
    talk(left, right, network)
    for number in range(int(REKEY_S) + 20):
        left.send_packet(right, b"%d" % number)
        network.run(1)
    before = right.payloads()
    assert recorder.replay_frames() > 100
    assert right.payloads() == before
    counters = right.anchor.counters
    assert counters["frame_replayed"] + counters["frame_of_unknown_stream"] > 100


@pytest.mark.parametrize("who", ["receiver", "sender", "both"])
def test_replay_across_a_restart_opens_and_delivers_nothing(pair, who):
    network, left, right = pair.network, pair.left, pair.right
    recorder = Recorder(network)
    talk(left, right, network)
    for number in range(20):
        left.send_packet(right, b"%d" % number)
    network.run(1)
    for node in {"receiver": [right], "sender": [left], "both": [left, right]}[who]:
        node.crash()
        node.start()
    right.received.clear()
    left.received.clear()
    recorder.replay_control()
    recorder.replay_frames()
    # Whoever did not start anew may still hold the old session, whose peer is gone.
    fresh = {"receiver": [right], "sender": [left], "both": [left, right]}[who]
    assert sessions(*fresh) == [[] for _ in fresh]
    assert left.received == right.received == []
    ping = left.ping(right)
    assert network.run_until(lambda: ping.answers == 1, 8)
    recorder.replay_control()
    assert len(left.anchor.sessions) == len(right.anchor.sessions) == 1
    talk(left, right, network)


def test_frames_of_an_old_start_over_a_tether_of_the_new_one_are_of_an_unknown_stream(pair):
    network, left, right = pair.network, pair.left, pair.right
    recorder = Recorder(network)
    talk(left, right, network)
    left.send_packet(right, b"once")
    network.run(1)
    right.restart()
    talk(right, left, network)
    before = right.payloads()
    assert recorder.replay_frames() > 2
    assert right.payloads() == before
    assert right.anchor.counters["frame_of_unknown_stream"] > 0
    talk(left, right, network)


def test_an_ask_replayed_to_a_node_that_started_anew_ends_in_nothing(pair):
    """Its memory of nonces is gone: it may answer, but nobody can open that Answer."""
    network, left, right = pair.network, pair.left, pair.right
    talk(left, right, network)
    asks = [message for message in network.channel.messages if message.kind is Kind.ASK]
    right.restart()
    left.restart()
    for _ in range(50):
        for ask in asks:
            network.replay(ask)
        network.run(0.1)
    network.run(15)
    assert sessions(left, right) == [[], []]
    assert network.underlay.tethers("left") == network.underlay.tethers("right") == []
    assert network.channel.count(Kind.OPEN) == 1
    assert not right.anchor.exchange.answering._answered
    talk(left, right, network)
