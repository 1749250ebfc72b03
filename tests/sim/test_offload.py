"""Records that stand for several packets: whichever end has offload, the same packets arrive."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from conflux.anchor import node as anchor_node
from conflux.api import Gso, Layout
from conflux.testing.packets import ip_packet, tcp_packet, udp_packet
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.testing.simnet.underlay import SimTether
from conflux.testing.virtio import virtio_body
from conflux.wire.fragment import fragments
from conflux.wire.frame import HEADER_BYTES, SIZE, TAG_BYTES
from conflux.wire.segment import HEADER, NO_HEADER, segments

ALL, NO_UDP, NONE = frozenset(Gso), frozenset(Gso) - {Gso.UDP_L4}, frozenset()
DATA_BYTE = 0x10


def make(left_gso, right_gso, *, packet_auth=None) -> tuple[SimNetwork, SimNode, SimNode]:
    network = SimNetwork(seed=5)
    made = [
        network.add_node(name, teams=["ops"], gso=gso, packet_auth=packet_auth)
        for name, gso in (("left", left_gso), ("right", right_gso))
    ]
    return network, *made


def talk(network: SimNetwork, left: SimNode, right: SimNode) -> None:
    ping = left.ping(right)
    network.run(3)
    assert ping.answers == 1
    for node in (left, right):
        node.received.clear()
        node.delivered.clear()


def ends(source: SimNode, target: SimNode, family: int):
    return source.addresses[family], target.addresses[family]


def bodies(source: SimNode, target: SimNode) -> list[bytes]:
    """A burst of everything: many and single, both families, with and without a checksum left."""
    made = []
    for family in (0, 1):
        pair = ends(source, target, family)
        tcp = tcp_packet(*pair, bytes(range(256)) * 25, flags=0x99)
        udp = udp_packet(*pair, bytes(range(256)) * 9)
        echo_request, protocol = ((8, 1), (128, 58))[family]
        icmp = ip_packet(*pair, protocol, bytes((echo_request,)) + bytes(31))
        made += [
            virtio_body(tcp, gso_size=1_000, ecn=True), NO_HEADER + icmp,
            virtio_body(udp, gso_size=700), virtio_body(udp_packet(*pair, b"one")),
            virtio_body(tcp, gso_size=1_448), NO_HEADER + tcp_packet(*pair, b"whole"),
        ]  # fmt: skip
    return made


def packets_of(made: list[bytes]) -> list[bytes]:
    return by_family(packet for body in made for packet in segments(memoryview(body)))


def received(node: SimNode) -> list[bytes]:
    return by_family(arrival.packet for arrival in node.received)


def by_family(packets: Iterable[bytes]) -> list[bytes]:
    """IPv4 first: what goes to two addresses of a peer may overtake each other."""
    return sorted(packets, key=lambda packet: packet[0] >> 4)


def frames_of(network: SimNetwork, source: SimNode) -> list[bytes]:
    """From now on, what *source* sends with packets in it."""
    frames: list[bytes] = []

    def note(sender: str, _: str, message: bytes) -> None:
        if sender == source.name and message[0] == DATA_BYTE and len(message) > 60:
            frames.append(message)

    network.on_datagram = note
    return frames


def without_signatures(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if len(frame) > 5_000]


def smuggle(source: SimNode, target: SimNode, *made: bytes) -> None:
    """Send records of layout VIRTIO without the checks of the sender's own end."""
    session = source.anchor.sessions[target.node_id]
    superframe = b"\x01" + b"".join(SIZE.pack(len(body)) + body for body in made)
    frame = session.out.seal(memoryview(superframe), now=source.now())
    source.anchor.routing.get(target.node_id).choose(0).send(frame, now=source.now())


@pytest.mark.parametrize("right_gso", [ALL, NO_UDP, NONE], ids=["offload", "no UDP", "bare"])
def test_same_packets_arrive_whatever_the_receivers_device_takes(right_gso, packet_auth):
    network, left, right = make(ALL, right_gso, packet_auth=packet_auth)
    talk(network, left, right)
    sent = bodies(left, right)
    frames = frames_of(network, left)
    left.send_bodies(sent)
    network.run(3)
    assert received(right) == packets_of(sent)
    assert len(without_signatures(frames)) == 2  # one to each of its addresses
    assert right.anchor.counters["virtio_header_malformed"] == 0
    udp_packets = sum(p[9 if p[0] >> 4 == 4 else 6] == 17 for p in packets_of(sent[2:3] * 2))
    by_layout = {
        ALL: {Layout.VIRTIO: len(sent)},
        NO_UDP: {Layout.VIRTIO: len(sent) - 2, Layout.BARE: udp_packets},
        NONE: {Layout.BARE: len(packets_of(sent))},
    }
    assert right.delivered == by_layout[right_gso]


@pytest.mark.parametrize("right_gso", [ALL, NONE], ids=["offload", "bare"])
def test_bare_packets_arrive_at_any_device(right_gso):
    network, left, right = make(NONE, right_gso)
    talk(network, left, right)
    sent = packets_of(bodies(left, right))
    left.send_burst(sent)
    network.run(1)
    assert received(right) == sent
    assert right.delivered == {Layout.BARE: len(sent)}


@pytest.mark.parametrize("right_gso", [ALL, NONE], ids=["offload", "bare"])
def test_peer_that_does_not_offer_it_gets_bare_packets(right_gso, monkeypatch):
    monkeypatch.setattr(anchor_node, "FEATURES", 0)
    network, left, right = make(ALL, right_gso)
    talk(network, left, right)
    sent = bodies(left, right)
    left.send_bodies(sent)
    network.run(1)
    assert received(right) == packets_of(sent)
    assert right.delivered == {Layout.BARE: len(packets_of(sent))}


def test_each_end_learns_what_the_other_takes(monkeypatch):
    network, one, other = make(ALL, ALL)
    monkeypatch.setattr(anchor_node, "FEATURES", 0xFFFE)  # bits that nobody knows
    older = network.add_node("older", teams=["ops"])
    for source, target in ((one, older), (older, other)):
        talk(network, source, target)
    for newer in (one, other):
        assert not newer.anchor.sessions[older.node_id].takes_virtio
        assert older.anchor.sessions[newer.node_id].takes_virtio


def test_records_that_waited_for_a_session_arrive_as_they_are():
    network, left, right = make(ALL, ALL)
    sent = bodies(left, right)
    for body in sent:
        left.send_bodies([body])
    network.run(3)
    assert received(right)[: len(packets_of(sent))] == packets_of(sent)
    assert set(right.delivered) == {Layout.VIRTIO}


def test_records_cross_a_relay_that_never_opens_them():
    network, left, right = make(ALL, NONE)
    network.block(left, right)
    network.add_node("relay")
    talk(network, left, right)
    sent = bodies(left, right)
    left.send_bodies(sent)
    network.run(1)
    assert received(right) == packets_of(sent)


class TestFrames:
    def test_burst_longer_than_a_frame_is_cut_between_records(self):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        sent = bodies(left, right) * 8
        frames = frames_of(network, left)
        left.send_bodies(sent)
        network.run(1)
        assert received(right) == packets_of(sent)
        assert right.delivered == {Layout.VIRTIO: len(sent)}
        of_one_family = sum(len(body) + 2 for body in sent) / 2
        assert len(without_signatures(frames)) == 2 * math.ceil(of_one_family / 65_000)

    def test_record_as_large_as_a_frame_is_one_frame(self):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        packet = tcp_packet(*ends(left, right, 0), bytes(65_482 - 40))
        left.send_bodies([virtio_body(packet, gso_size=1_448)])
        network.run(1)
        assert right.delivered == {Layout.VIRTIO: 1}
        assert sum(len(p) - 40 for p in received(right)) == 65_442

    @pytest.mark.parametrize("unit_bytes", [1, 1_400, 3_000, 12_000, 40_000])
    def test_tether_that_wants_short_messages_gets_them(self, unit_bytes, monkeypatch):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        monkeypatch.setattr(SimTether, "unit_bytes", property(lambda tether: unit_bytes))
        sent = bodies(left, right) * 3
        frames = frames_of(network, left)
        left.send_bodies(sent)
        network.run(1)
        assert received(right) == packets_of(sent)
        longest = max(map(len, packets_of(sent))) + HEADER_BYTES + TAG_BYTES + 13
        assert max(map(len, frames)) <= max(unit_bytes, longest)
        if unit_bytes > 2 * longest:
            assert max(map(len, frames)) > unit_bytes / 2

    @pytest.mark.parametrize("gso", [ALL, NONE], ids=["offload", "bare"])
    def test_packet_that_no_frame_has_room_for_is_dropped_and_counted(self, gso):
        network, left, right = make(gso, gso)
        talk(network, left, right)
        big = udp_packet(*ends(left, right, 0), bytes(65_535 - 28))
        if gso:
            body = NO_HEADER + big[:65_525]
            left.send_bodies([body, NO_HEADER + left.packet(right, b"after")])
        else:
            left.send_burst([big, left.packet(right, b"after")])
        network.run(1)
        assert right.payloads() == [b"after"]
        assert left.anchor.counters["packet_too_large"] == 1

    def test_flows_to_several_peers_go_their_own_ways(self):
        network, left, right = make(ALL, ALL)
        third = network.add_node("third", teams=["ops"])
        talk(network, left, right)
        talk(network, left, third)
        right.received.clear()
        one, other = bodies(left, right), bodies(left, third)
        left.send_bodies([body for pair in zip(one, other, strict=True) for body in pair])
        network.run(1)
        # Where there is more than one way, flows may overtake each other.
        assert sorted(received(right)) == sorted(packets_of(one))
        assert sorted(received(third)) == sorted(packets_of(other))


class TestNarrowerPeer:
    """A peer whose interface carries less: of a record the longest packet counts."""

    MTU_BYTES = 1_500

    def make(self) -> tuple[SimNetwork, SimNode, SimNode]:
        network = SimNetwork(seed=6)
        left = network.add_node("left", teams=["ops"], gso=ALL, mtu_bytes=9_000)
        right = network.add_node("right", teams=["ops"], gso=ALL, mtu_bytes=self.MTU_BYTES)
        talk(network, left, right)
        return network, left, right

    def test_many_that_fit_pass_as_they_are(self):
        network, left, right = self.make()
        sent = [body for body in bodies(left, right) if HEADER.unpack_from(body)[3] <= 1_440]
        left.send_bodies(sent)
        network.run(1)
        assert received(right) == packets_of(sent)
        assert right.delivered == {Layout.VIRTIO: len(sent)}

    @pytest.mark.parametrize("family", [0, 1])
    def test_system_hears_of_many_that_are_too_long(self, family):
        network, left, right = self.make()
        pair = ends(left, right, family)
        body = virtio_body(tcp_packet(*pair, bytes(50_000)), gso_size=8_000)
        left.send_bodies([body, virtio_body(udp_packet(*pair, b"after"))])
        network.run(1)
        assert right.payloads() == [b"after"]
        assert left.anchor.counters["packet_too_big"] == 1
        [told] = left.told
        assert told.packet[20:22] == b"\x03\x04" if family == 0 else told.packet[40:42] == b"\x02\0"
        assert body[10:40] in told.packet

    def test_many_that_may_be_cut_are_cut_into_fragments(self):
        network, left, right = self.make()
        packet = udp_packet(*ends(left, right, 0), bytes(range(250)) * 40, may_be_cut=True)
        body = virtio_body(packet, gso_size=4_000)
        left.send_bodies([body])
        network.run(1)
        whole = segments(memoryview(body))
        assert [len(p) for p in whole] == [4_028, 4_028, 2_028]
        parts = [part for p in whole for part in fragments(memoryview(p), self.MTU_BYTES)]
        assert received(right) == parts

    @pytest.mark.parametrize("family", [0, 1])
    def test_syns_announce_what_fits_in_both_directions(self, family):
        network, left, right = self.make()
        mss = b"\x02\x04" + (8_960).to_bytes(2, "big")
        fits = self.MTU_BYTES - (40, 60)[family]
        for source, target in ((left, right), (right, left)):
            pair = ends(source, target, family)
            syn = tcp_packet(*pair, flags=0x02, options=mss)
            source.send_bodies([virtio_body(syn)])
            network.run(1)
            lowered = tcp_packet(*pair, flags=0x02, options=mss[:2] + fits.to_bytes(2, "big"))
            assert received(target) == [lowered]


class TestOwnKernel:
    """What a kernel may give that no peer may be sent."""

    def test_checksum_within_a_tunnel_is_made_before_it_leaves(self):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        inner = tcp_packet(*ends(left, right, 1), b"through a tunnel")
        outer = udp_packet(*ends(left, right, 0), inner)
        start = 28 + 40
        partial = bytearray(outer)
        partial[start + 16 : start + 18] = virtio_body(inner)[10 + 56 : 10 + 58]
        left.send_bodies([HEADER.pack(1, 0, 0, 0, start, 16) + bytes(partial)])
        network.run(1)
        assert received(right) == [outer]
        assert right.anchor.counters["virtio_header_malformed"] == 0

    def test_very_short_packets_are_cut_up_before_they_leave(self):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        body = virtio_body(udp_packet(*ends(left, right, 0), bytes(range(100))), gso_size=7)
        left.send_bodies([body])
        network.run(1)
        assert received(right) == packets_of([body])
        assert right.delivered == {Layout.BARE: 15}

    def test_header_that_makes_no_sense_is_dropped_and_counted(self):
        network, left, right = make(ALL, ALL)
        talk(network, left, right)
        packet = left.packet(right, b"payload")
        left.send_bodies([HEADER.pack(1, 0x77, 0, 100, 20, 6) + packet, NO_HEADER + packet])
        network.run(1)
        assert received(right) == [packet]
        assert left.anchor.counters["tun_malformed"] == 1


class TestPeerThatLies:
    """The kernel sees no virtio header that a peer made up."""

    @pytest.mark.parametrize("right_gso", [ALL, NONE], ids=["offload", "bare"])
    @pytest.mark.parametrize(
        "header",
        [
            HEADER.pack(2, 0, 0, 0, 0, 0),
            HEADER.pack(0, 0, 0, 0, 0, 1),
            HEADER.pack(1, 0, 0, 0, 8, 4),  # would put a checksum where the source stands
            HEADER.pack(1, 0, 0, 0, 20, 16),
            HEADER.pack(1, 0, 0, 0, 0xFFFF, 0xFFFF),
            HEADER.pack(1, 5, 28, 1, 20, 6),
            HEADER.pack(1, 5, 28, 0, 20, 6),
            HEADER.pack(1, 5, 0xFFFF, 100, 20, 6),
            HEADER.pack(1, 1, 40, 100, 20, 16),
            HEADER.pack(1, 3, 28, 100, 20, 6),
            HEADER.pack(1, 0x85, 28, 100, 20, 6),
            HEADER.pack(0, 5, 28, 100, 0, 0),
        ],
        ids=bytes.hex,
    )
    def test_odd_header_is_dropped_and_counted_alone(self, header, right_gso):
        network, left, right = make(ALL, right_gso)
        talk(network, left, right)
        good = virtio_body(udp_packet(*ends(left, right, 0), bytes(900)), gso_size=300)
        smuggle(left, right, good, header + good[10:], good)
        network.run(1)
        assert received(right) == packets_of([good, good])
        assert right.anchor.counters["virtio_header_malformed"] == 1

    def test_many_from_a_foreign_address_are_dropped(self):
        network, left, right = make(ALL, ALL)
        stranger = network.add_node("stranger", teams=["ops"])
        talk(network, left, right)
        smuggle(
            left,
            right,
            virtio_body(tcp_packet(*ends(stranger, right, 0), bytes(900)), gso_size=300),
            virtio_body(tcp_packet(*ends(left, stranger, 0), bytes(900)), gso_size=300),
        )
        network.run(1)
        assert received(right) == []
        assert right.anchor.counters["packet_source_not_in_certificate"] == 1
        assert right.anchor.counters["packet_destination_not_ours"] == 1
