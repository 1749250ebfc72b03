"""Every message of a live conversation, cut at every byte and made too long, on its way to a node.

The genuine message is held back; all the spoilt ones are handed to the node in its stead, and then
the genuine one: it still does what it is there for. The bytes of each codec by themselves:
tests/unit/test_cut_and_extended.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conflux.anchor.identity import node_tag
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.testing.simnet.channel import ControlMessage
from conflux.wire import checkpoint
from conflux.wire.control import AuthLevel, Kind, envelope
from conflux.wire.frame import HEADER_BYTES, IN_STREAM, OUTER
from conflux.wire.inband import (
    Flood,
    Found,
    LabelUnknown,
    Message,
    Reason,
    Seek,
    Setup,
    SetupFailed,
    SetupOk,
    Teardown,
)
from conflux.wire.report import Report

DATA_BYTE = 0x10
TAILS = (b"\x00", bytes(16), b"\x01" * 5_000, bytes(70_000))


def spoilt(message: bytes, *, whole_from: int = 0) -> Iterator[bytes]:
    """*message* cut at every byte from *whole_from* on, and longer than it is."""
    for size in range(whole_from, len(message)):
        yield message[:size]
    for tail in TAILS:
        yield message + tail


@pytest.fixture
def pair_of():
    def make(level: AuthLevel = AuthLevel.CHECKPOINT) -> tuple[SimNetwork, SimNode, SimNode]:
        network = SimNetwork(seed=31, packet_auth=level)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        for node in (left, right):
            node.deferred_s = 0.0
        return network, left, right

    return make


# The control channel


@pytest.mark.parametrize("kind", [Kind.ASK, Kind.ANSWER, Kind.OPEN, Kind.GRANT, Kind.REVOCATIONS])
def test_control_message_cut_at_every_byte_and_extended_opens_nothing(pair_of, kind):
    network, left, right = pair_of()
    held: list[ControlMessage] = []

    def hold(message: ControlMessage) -> list[ControlMessage]:
        goes_there = kind is not Kind.REVOCATIONS or message.tag == node_tag(
            network.guardian.plane_key, right.node_id
        )
        if message.kind is kind and goes_there and not held:
            held.append(message)
            return []
        return [message]

    network.channel.tap = hold
    ping = left.ping(right)
    network.guardian.attach("right", "another")
    network.add_node("gone")
    network.guardian.revoke("gone")
    network.run(0.2)
    message = held[0]
    target = left if kind is Kind.ANSWER else right
    standing, sessions = target.anchor.standing, dict(target.anchor.sessions)
    before = target.anchor.counters.total()
    count = 0
    for number, payload in enumerate(spoilt(message.payload)):
        # Each in another one's name: what comes from one sender alone is over his rate.
        is_guardians = kind in (Kind.GRANT, Kind.REVOCATIONS)
        sender = message.sender if is_guardians else number.to_bytes(16, "big")
        target.anchor.take_control(message.tag, sender, payload, now=network.now())
        network.run(0)
        count += 1
    assert dict(target.anchor.sessions) == sessions
    assert target.anchor.standing is standing
    assert target.anchor.counters.total() - before == count, "each is counted"
    network.replay(message)
    network.run(1)
    assert (target.anchor.standing is not standing) is is_guardians
    assert network.run_until(lambda: ping.answers == 1, 5)


# The datagram lane


@pytest.mark.parametrize("level", AuthLevel)
def test_frame_cut_at_every_byte_and_extended_delivers_nothing(pair_of, level):
    network, left, right = pair_of(level)
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1
    held = Held(left, right)
    left.send_packet(right, b"whole")
    network.run(0.01)
    (frame,) = held.frames
    before = list(right.received)
    for message in spoilt(frame):
        if len(message) <= 65_535:
            held.deliver(message)
    network.run(0.01)
    assert right.received == before
    assert left.node_id in right.anchor.sessions
    held.deliver(frame)
    network.run(0.5)
    assert right.payloads()[-1] == b"whole"


class Held:
    """The first frame that holds anything, kept from the other end of a tether."""

    def __init__(self, source: SimNode, target: SimNode) -> None:
        self.frames: list[bytes] = []
        self.tether = source.anchor.neighbours.get(target.node_id).tethers[-1]
        self._send = self.tether._send_datagram
        self.tether._send_datagram = self._hold

    def _hold(self, message: bytes) -> None:
        if message[0] == DATA_BYTE and len(message) > HEADER_BYTES + 17 and not self.frames:
            self.frames.append(message)
        else:
            self._send(message)

    def deliver(self, message: bytes) -> None:
        self.tether.peer._on_datagram(memoryview(message))


def test_probe_cut_at_every_byte_and_extended_measures_nothing(pair_of):
    network, left, right = pair_of()
    left.ping(right)
    network.run(3)
    neighbour = right.anchor.neighbours.get(left.node_id)
    tether = neighbour.tethers[-1]
    probes: list[bytes] = []
    network.on_datagram = lambda _, to, message: (
        probes.append(message) if to == "right" and message[0] & 15 else None
    )
    network.run(1.5)
    before = right.anchor.counters["tether_malformed"]
    for probe in probes[-2:]:
        measured = neighbour.srtt_s
        for message in spoilt(probe):
            tether._on_datagram(memoryview(message[:65_535]))
        assert neighbour.srtt_s == measured
    spoilt_here = 2 * (len(probes[-1]) + len(TAILS))
    assert right.anchor.counters["tether_malformed"] - before == spoilt_here


# The reliable lane


def of_every_kind(left: SimNode, right: SimNode) -> list[Message]:
    route, ends = bytes(range(16)), [left.node_id, right.node_id]
    other = type(left.node_id)(b"o" * 32)
    return [
        Setup(route, 90, ends),
        SetupOk(route, 7, [1, 2]),
        SetupFailed(route, Reason.BUSY),
        Teardown(route, Reason.IDLE),
        LabelUnknown(7),
        Flood(route, 3, bytes(16), bytes(range(16)), b"\x01\x01" + bytes(60)),
        Seek(route, 2, other, [left.node_id], []),
        Found(route, [left.node_id, other, right.node_id]),
    ]


def test_inband_message_cut_at_every_byte_and_extended_is_counted_and_does_nothing(pair_of):
    network, left, right = pair_of()
    left.ping(right)
    network.run(3)
    tether = right.anchor.neighbours.get(left.node_id).tethers[-1]
    messages = of_every_kind(left, right)
    assert {type(message) for message in messages} == set(Message.__args__)
    count, before = 0, right.anchor.counters["inband_malformed"]
    for message in messages:
        for data in spoilt(message.encode()):
            tether._on_reliable(memoryview(data))
            count += 1
    assert right.anchor.counters["inband_malformed"] - before == count
    assert right.anchor.relay._routes == {}
    ping = left.ping(right)
    network.run(1)
    assert ping.answers == 1


# Inside a stream


def in_stream(left: SimNode, right: SimNode) -> list[bytes]:
    """One message of each kind that travels in streams, about the streams of the two."""
    session = left.anchor.sessions[right.node_id]
    ours, theirs = session.out.stream_id, session.inbound.stream_id
    digest, signature = bytes(32), bytes(3_309)
    leaf = checkpoint.Leaf(session.transcript, ours, [1, 2], digest)
    return [
        envelope(Kind.GOODBYE, b""),
        envelope(Kind.REPORT, Report(theirs, 1, 0, b"\x02").encode()),
        checkpoint.Checkpoint(leaf, 0, 1, [], signature, [digest, digest]).encode(),
        checkpoint.Covered(theirs, 1).encode(),
        checkpoint.Wanted(theirs, 1, [1]).encode(),
        checkpoint.Digests(ours, 1, {1: digest}).encode(),
    ]


def test_message_inside_a_stream_cut_at_every_byte_and_extended_ends_nothing(pair_of):
    network, left, right = pair_of()
    left.ping(right)
    network.run(3)
    session = left.anchor.sessions[right.node_id]
    route = left.anchor.routing.get(right.node_id).routes[0]
    for message in in_stream(left, right):
        for data in spoilt(message):
            superframe = bytes((IN_STREAM,)) + data
            if len(superframe) > 65_000:
                continue
            frame = session.out.seal(memoryview(superframe), now=network.now())
            OUTER.pack_into(frame, 0, DATA_BYTE, 5, 0, route.label)
            right.anchor.neighbours.get(left.node_id).tethers[-1]._on_datagram(memoryview(frame))
        network.run(0.05)
    assert right.anchor.sessions[left.node_id].inbound.stream_id == session.out.stream_id
    ping = left.ping(right)
    network.run(1)
    assert ping.answers == 1
    counters = right.anchor.counters
    assert sum(n for name, n in counters.items() if name.startswith("packet auth: ")) > 3_000
