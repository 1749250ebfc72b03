"""What is inside the tunnel behaves as IP should: sizes, errors, and who may say what to whom."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from conflux.anchor.egress import BACKOFF_S, WAITING_S
from conflux.anchor.icmp_errors import ERRORS_BURST, ERRORS_PER_S
from conflux.anchor.stream import REKEY_S
from conflux.api import Layout
from conflux.testing.packets import ACK, SYN, checksum, ip_packet, tcp_packet, udp_packet
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire import icmp, ip
from conflux.wire.control import AuthLevel, Kind
from conflux.wire.fragment import fragments
from conflux.wire.frame import MAX_PACKET_BYTES, SIZE

WIDE, NARROW = 9_000, 1_500


@dataclass
class Uneven:
    """Two nodes of one team whose interfaces carry packets of different sizes."""

    network: SimNetwork
    wide: SimNode
    narrow: SimNode

    def ends(self, family: int = 4):
        at = 0 if family == 4 else 1
        return self.wide.addresses[at], self.narrow.addresses[at]

    def talk(self) -> None:
        ping = self.wide.ping(self.narrow)
        self.network.run(2)
        assert ping.answers == 1
        self.wide.received.clear()
        self.narrow.received.clear()


@pytest.fixture
def uneven(packet_auth: AuthLevel) -> Uneven:
    network = SimNetwork(seed=21, packet_auth=packet_auth)
    wide = network.add_node("wide", teams=["ops"], mtu_bytes=WIDE)
    return Uneven(network, wide, network.add_node("narrow", teams=["ops"], mtu_bytes=NARROW))


def told(node: SimNode) -> list[bytes]:
    return [arrival.packet for arrival in node.told]


def came_in(node: SimNode) -> list[bytes]:
    return [arrival.packet for arrival in node.received]


def mtu_in(error: bytes) -> tuple[int, int, int]:
    """(type, code, MTU) of a Packet Too Big."""
    kind, code, _, rest = struct.unpack_from(">BBHI", error, 20 if error[0] >> 4 == 4 else 40)
    return kind, code, rest


def put_together(parts: list[bytes]) -> bytes:
    """The datagram of fragments that came in, header and all (RFC 791 §3.2)."""
    offsets = [struct.unpack_from(">H", part, 6)[0] for part in parts]
    data = b""
    for offset, part in sorted(zip(offsets, parts, strict=True), key=lambda p: p[0] & 0x1FFF):
        assert (offset & 0x1FFF) * 8 == len(data)
        data += part[20:]
    header = parts[0][:2] + (20 + len(data)).to_bytes(2, "big") + parts[0][4:6] + bytes(2)
    header += parts[0][8:10] + bytes(2) + parts[0][12:20]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + data


# Packets that do not fit


def test_packet_without_df_arrives_in_fragments_and_whole(uneven):
    packet = udp_packet(*uneven.ends(), bytes(range(250)) * 30, may_be_cut=True)
    uneven.talk()
    uneven.wide.send_burst([packet])
    uneven.network.run(1)
    parts = came_in(uneven.narrow)
    assert len(parts) == 6
    assert max(map(len, parts)) == NARROW
    assert put_together(parts) == packet
    assert told(uneven.wide) == []


@pytest.mark.parametrize(("family", "kind"), [(4, 3), (6, 2)])
def test_sender_of_a_packet_that_may_not_be_cut_is_told_the_mtu(uneven, family, kind):
    wide, narrow = uneven.ends(family)
    packet = udp_packet(wide, narrow, bytes(4_000))
    uneven.talk()
    uneven.wide.send_burst([packet])
    uneven.network.run(1)
    [error] = told(uneven.wide)
    assert mtu_in(error) == (kind, 4 if family == 4 else 0, NARROW)
    assert ip.addresses(memoryview(error)) == (narrow.packed, wide.packed)
    assert packet.startswith(error[28 if family == 4 else 48 :])
    assert came_in(uneven.narrow) == []
    assert uneven.wide.anchor.counters["packet_too_big"] == 1


@pytest.mark.parametrize("family", [4, 6])
def test_packets_of_the_mtu_itself_pass_and_one_byte_more_does_not(uneven, family):
    headers = 28 if family == 4 else 48
    fits = udp_packet(*uneven.ends(family), bytes(NARROW - headers))
    exceeds = udp_packet(*uneven.ends(family), bytes(NARROW - headers + 1))
    uneven.talk()
    uneven.wide.send_burst([fits, exceeds, fits])
    uneven.network.run(1)
    assert came_in(uneven.narrow) == [fits, fits]
    assert len(told(uneven.wide)) == 1


def test_first_packet_that_waits_for_its_peer_is_made_to_fit_too(uneven):
    packet = udp_packet(*uneven.ends(), bytes(4_000))
    cut = udp_packet(*uneven.ends(), bytes(range(200)) * 20, may_be_cut=True)
    uneven.wide.send_burst([packet, cut])
    uneven.network.run(2)
    assert mtu_in(*told(uneven.wide)) == (3, 4, NARROW)
    assert put_together(came_in(uneven.narrow)) == cut


def test_end_with_the_smaller_mtu_sends_as_ever(uneven):
    packet = udp_packet(*uneven.ends()[::-1], bytes(NARROW - 28))
    uneven.talk()
    uneven.narrow.send_burst([packet])
    uneven.network.run(1)
    assert came_in(uneven.wide) == [packet]
    assert told(uneven.narrow) == []


def test_fragments_of_the_largest_packet_are_spread_over_frames_that_fit():
    """Their headers make a superframe of more than a tether carries."""
    network = SimNetwork(seed=23)
    wide = network.add_node("wide", teams=["ops"], mtu_bytes=MAX_PACKET_BYTES)
    narrow = network.add_node("narrow", teams=["ops"], mtu_bytes=NARROW)
    payload = network.entropy(MAX_PACKET_BYTES - 28)
    packet = udp_packet(wide.address, narrow.address, payload, may_be_cut=True)
    wide.send_burst([packet])
    network.run(2)
    assert put_together(came_in(narrow)) == packet


def test_fragment_that_is_too_long_is_cut_further(uneven):
    whole = udp_packet(*uneven.ends(), bytes(range(250)) * 60, may_be_cut=True)
    uneven.talk()
    uneven.wide.send_burst(fragments(memoryview(whole), 8_000))
    uneven.network.run(1)
    assert put_together(came_in(uneven.narrow)) == whole


def test_of_fragments_with_df_only_the_first_is_answered(uneven):
    whole = udp_packet(*uneven.ends(), bytes(20_000), may_be_cut=True)
    parts = [bytearray(part) for part in fragments(memoryview(whole), 8_000)]
    for part in parts:
        part[6] |= 0x40
    uneven.talk()
    uneven.wide.send_burst([bytes(part) for part in parts])
    assert len(told(uneven.wide)) == 1
    assert uneven.wide.anchor.counters["packet_too_big"] == len(parts) == 3


def test_an_icmp_error_that_is_too_long_is_not_answered(uneven):
    about = memoryview(udp_packet(*uneven.ends()[::-1], b"x"))
    error = icmp.host_unreachable(about, source=uneven.ends()[0].packed)[20:]
    uneven.talk()
    uneven.wide.send_burst([ip_packet(*uneven.ends(), ip.ICMP, error + bytes(4_000))])
    uneven.network.run(1)
    assert told(uneven.wide) == came_in(uneven.narrow) == []


def test_errors_about_one_destination_are_limited_in_rate(uneven):
    packet = udp_packet(*uneven.ends(), bytes(4_000))
    uneven.talk()
    for _ in range(1_000):
        uneven.wide.send_burst([packet])
        uneven.network.run(0.005)
    seconds = 1_000 * 0.005
    assert len(told(uneven.wide)) == pytest.approx(ERRORS_BURST + seconds * ERRORS_PER_S, abs=2)
    assert uneven.wide.anchor.counters["icmp_over_rate"] > 900
    assert uneven.wide.anchor.counters["packet_too_big"] == 1_000


def test_a_malformed_packet_that_is_too_long_is_counted(uneven):
    packet = bytearray(udp_packet(*uneven.ends(), bytes(4_000), may_be_cut=True))
    packet[0] = 0x44
    uneven.talk()
    before = uneven.wide.anchor.counters["tun_malformed"]
    uneven.wide.send_burst([bytes(packet)])
    assert uneven.wide.anchor.counters["tun_malformed"] == before + 1
    assert told(uneven.wide) == []


# How the MTU is known


def test_mtu_is_known_again_after_a_rekey_and_after_a_restart_with_another_one(uneven):
    network, wide = uneven.network, uneven.wide
    packet = udp_packet(*uneven.ends(), bytes(3_000))
    uneven.talk()
    first = wide.anchor.sessions[uneven.narrow.node_id]
    for _ in range(int(REKEY_S / 10) + 2):
        wide.ping(uneven.narrow)
        network.run(10)
    assert wide.anchor.sessions[uneven.narrow.node_id] is not first
    wide.send_burst([packet])
    assert mtu_in(*told(wide))[2] == NARROW
    uneven.narrow.mtu_bytes = WIDE
    uneven.narrow.restart()
    ping = uneven.narrow.ping(wide)
    network.run(3)
    assert ping.answers == 1
    uneven.narrow.received.clear()
    wide.send_burst([packet])
    network.run(1)
    assert came_in(uneven.narrow) == [packet]


def test_both_ends_of_a_handshake_know_the_others_mtu(uneven):
    uneven.talk()
    assert uneven.wide.anchor.sessions[uneven.narrow.node_id].mtu_bytes == NARROW
    assert uneven.narrow.anchor.sessions[uneven.wide.node_id].mtu_bytes == WIDE


@pytest.mark.parametrize("said", [0, 1, 1_279])
def test_nonsense_for_an_mtu_is_taken_as_what_ip_needs_or_ethernet_has(uneven, said):
    """A peer that says nothing is an older one, one that says too little is a broken one."""
    uneven.narrow.anchor.exchange._use.features = said << 16
    uneven.talk()
    session = uneven.wide.anchor.sessions[uneven.narrow.node_id]
    assert session.mtu_bytes == (1_280 if said else 1_500)


# TCP


@pytest.mark.parametrize(("family", "headers"), [(4, 40), (6, 60)])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_the_end_with_the_larger_mtu_lowers_the_mss_both_ways(uneven, family, headers, flags):
    def syn(ends, mss: int) -> bytes:
        return tcp_packet(*ends, flags=flags, options=struct.pack(">BBH", 2, 4, mss))

    ends, most = uneven.ends(family), NARROW - headers
    uneven.talk()
    uneven.wide.send_burst([syn(ends, 8_960), syn(ends, most), syn(ends, 536)])
    uneven.narrow.send_burst([syn(ends[::-1], 8_960), syn(ends[::-1], 536)])
    uneven.network.run(1)
    assert came_in(uneven.narrow) == [syn(ends, most), syn(ends, most), syn(ends, 536)]
    assert came_in(uneven.wide) == [syn(ends[::-1], most), syn(ends[::-1], 536)]


def test_where_both_mtus_are_equal_nothing_is_touched(pair):
    ends = pair.left.address, pair.right.address
    syn = tcp_packet(*ends, flags=SYN, options=struct.pack(">BBH", 2, 4, 8_960))
    jumbo = udp_packet(*ends, bytes(20_000), may_be_cut=True)
    pair.left.send_burst([syn, jumbo])
    pair.network.run(2)
    assert came_in(pair.right) == [syn, jumbo]


# Nobody there


@pytest.mark.parametrize(("nobody", "kind", "code"), [("10.77.0.200", 3, 1), ("fd77::200", 1, 3)])
def test_sender_is_told_when_nobody_answers_and_then_at_once(pair, nobody, kind, code):
    left, network = pair.left, pair.network
    asked = left.packet(nobody, b"anybody?")
    left.send_burst([asked])
    network.run(WAITING_S - 0.1)
    assert told(left) == []
    network.run(0.2)
    [error] = told(left)
    assert mtu_in(error) == (kind, code, 0)
    assert error.endswith(asked)
    assert ip.addresses(memoryview(error))[0] == ip_address(nobody).packed
    left.send_burst([asked])
    assert len(told(left)) == 2
    network.run(BACKOFF_S)
    left.send_burst([asked])
    assert len(told(left)) == 2, "asked once more, silently"


def test_who_reaches_a_peer_is_told_nothing(pair):
    for _ in range(50):
        pair.left.ping(pair.right)
        pair.network.run(0.5)
    assert pair.left.told == pair.right.told == []


def test_a_peer_without_a_common_team_looks_like_nobody():
    network = SimNetwork(seed=22)
    left = network.add_node("left", teams=["red"])
    right = network.add_node("right", teams=["blue"])
    for to in (right, "10.77.0.200"):
        left.send_packet(to, b"hello")
    network.run(WAITING_S + 1)
    to_right, to_nobody = told(left)
    assert mtu_in(to_right) == mtu_in(to_nobody) == (3, 1, 0)
    assert right.told == right.received == []


def test_packets_that_waited_in_vain_for_a_route_are_answered(pair):
    """The peer is known, and out of reach: for a while packets wait, then their senders hear."""
    ping = pair.left.ping(pair.right)
    pair.network.run(2)
    assert ping.answers == 1
    pair.network.block(pair.left, pair.right)
    pair.network.run(4)
    pair.left.send_packet(pair.right, b"late")
    pair.network.run(WAITING_S + 1)
    assert {mtu_in(error) for error in told(pair.left)} == {(3, 1, 0)}


def test_errors_about_nobody_are_not_answered(pair):
    about = memoryview(udp_packet(ip_address("10.77.0.200"), pair.left.address, b"x"))
    pair.left.send_burst([icmp.host_unreachable(about, source=pair.left.address.packed)])
    pair.network.run(WAITING_S + 1)
    assert pair.left.anchor.counters["packet_waited_in_vain"] == 1
    assert told(pair.left) == []


# What a system sends to all and to its link


@pytest.mark.parametrize(
    "destination",
    [
        "224.0.0.251", "239.255.255.250", "255.255.255.255", "10.77.255.255", "10.77.0.0",
        "169.254.1.1", "ff02::fb", "ff02::2", "ff02::16", "fe80::1", "fd77::", "ff0e::1",
    ],
)  # fmt: skip
def test_chatter_of_the_system_is_dropped_counted_and_never_asked_for(pair, destination):
    left = pair.left
    for _ in range(20):
        left.send_packet(destination, b"chatter")
        pair.network.run(1)
    assert pair.network.channel.count(Kind.ASK) == 0
    assert left.anchor.counters["packet_to_nowhere"] == 20
    assert told(left) == came_in(pair.right) == []
    assert not left.anchor.egress._egressers


@pytest.mark.parametrize("source", ["::", "fe80::1", "0.0.0.0", "169.254.1.1"])
def test_packets_from_no_address_of_ours_go_nowhere(pair, source):
    """Router solicitations, multicast reports, address probes."""
    source = ip_address(source)
    to = pair.right.addresses[0 if source.version == 4 else 1]
    pair.left.send_burst([udp_packet(source, to, b"x")])
    pair.network.run(2)
    assert pair.left.anchor.counters["packet_source_not_ours"] == 1
    assert pair.network.channel.count(Kind.ASK) == 0
    assert told(pair.left) == []


# Who may say what to whom


def smuggle(source: SimNode, target: SimNode, *packets: bytes) -> None:
    """Seal and send *packets* without the checks at the sender's own end."""
    session = source.anchor.sessions[target.node_id]
    records = b"".join(SIZE.pack(len(packet)) + packet for packet in packets)
    superframe = memoryview(bytes((Layout.BARE,)) + records)
    frame = session.out.seal(superframe, now=source.now())
    source.anchor.routing.get(target.node_id).choose(0).send(frame, now=source.now())


def counters_of(node: SimNode, *names: str) -> list[int]:
    return [node.anchor.counters[name] for name in names]


@dataclass
class Three:
    """Two that talk, and a third whose flows are none of theirs."""

    network: SimNetwork
    left: SimNode
    right: SimNode
    third: SimNode

    def ends(self, family: int):
        at = 0 if family == 4 else 1
        return [node.addresses[at] for node in (self.left, self.right, self.third)]


@pytest.fixture
def three(pair) -> Three:
    third = pair.network.add_node("third", teams=["ops"])
    ping = pair.left.ping(pair.right)
    pair.network.run(2)
    assert ping.answers == 1
    pair.left.received.clear()
    pair.right.received.clear()
    return Three(pair.network, pair.left, pair.right, third)


@pytest.mark.parametrize("family", [4, 6])
def test_inner_addresses_are_held_to_the_certificates(three, family):
    left, right, third = three.ends(family)
    true = udp_packet(left, right, b"true")
    smuggle(
        three.left, three.right,
        udp_packet(third, right, b"spoofed"), true, udp_packet(left, third, b"pass it on"), true,
    )  # fmt: skip
    three.network.run(1)
    assert came_in(three.right) == [true, true]
    assert counters_of(
        three.right, "packet_source_not_in_certificate", "packet_destination_not_ours"
    ) == [1, 1]


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_are_held_to_the_certificates_each(three, family):
    left, right, third = three.ends(family)

    def parts(source, payload: bytes) -> list[bytes]:
        if family == 4:
            whole = udp_packet(source, right, payload, may_be_cut=True)
            return fragments(memoryview(whole), 600)
        headers = [bytes((ip.UDP, 0)) + field + bytes(4) for field in (b"\x00\x01", b"\x02\x58")]
        return [ip_packet(source, right, 44, header + payload[:600]) for header in headers]

    true, spoofed = parts(left, bytes(1_100)), parts(third, bytes(1_100))
    smuggle(three.left, three.right, *true, *spoofed)
    three.network.run(1)
    assert came_in(three.right) == true
    assert counters_of(three.right, "packet_source_not_in_certificate") == [len(spoofed)]


@pytest.mark.parametrize("family", [4, 6])
def test_errors_about_flows_with_the_peer_pass(three, family):
    left, right, _ = three.ends(family)
    about = memoryview(udp_packet(right, left, b"what right sent"))
    errors = [
        icmp.too_big(about, source=left.packed, mtu_bytes=1_400),
        icmp.host_unreachable(about, source=left.packed),
    ]
    three.left.send_burst(errors)
    three.network.run(1)
    assert came_in(three.right) == errors


@pytest.mark.parametrize("family", [4, 6])
def test_errors_about_flows_with_others_are_dropped(three, family):
    """A team mate may tell us about our packets to him, not break our flows with others."""
    left, right, third = three.ends(family)
    lies = [
        icmp.too_big(
            memoryview(udp_packet(right, third, b"x")), source=left.packed, mtu_bytes=1_280
        ),
        icmp.host_unreachable(memoryview(udp_packet(right, third, b"x")), source=left.packed),
    ]
    of_others = icmp.host_unreachable(memoryview(udp_packet(third, left, b"x")), source=left.packed)
    at = slice(16, 20) if family == 4 else slice(24, 40)
    to_right = bytearray(of_others)
    to_right[at] = right.packed
    smuggle(three.left, three.right, *lies, bytes(to_right))
    three.network.run(1)
    assert came_in(three.right) == []
    assert counters_of(three.right, "packet_icmp_about_others") == [3]


def test_a_lie_behind_extension_headers_or_in_a_fragment_is_found(three):
    left, right, third = three.ends(6)
    about = memoryview(udp_packet(right, third, b"x"))
    lie = icmp.too_big(about, source=left.packed, mtu_bytes=1_280)[40:]
    options = bytes((ip.ICMPV6, 0)) + bytes(6)
    first_fragment = bytes((ip.ICMPV6, 0, 0, 1)) + bytes(4)
    smuggle(
        three.left, three.right,
        ip_packet(left, right, 60, options + lie),
        ip_packet(left, right, 44, first_fragment + lie),
        ip_packet(left, right, 44, first_fragment + lie[:40]),
    )  # fmt: skip
    three.network.run(1)
    assert came_in(three.right) == []
    assert counters_of(three.right, "packet_icmp_about_others", "packet_malformed") == [2, 1]


@pytest.mark.parametrize("family", [4, 6])
def test_queries_and_what_is_not_icmp_pass(three, family):
    left, right, _ = three.ends(family)
    echo = (ip.ICMP, b"\x08\x00") if family == 4 else (ip.ICMPV6, b"\x80\x00")
    packets = [
        ip_packet(left, right, echo[0], echo[1] + bytes(62)),
        ip_packet(left, right, 132, bytes(40)),
        ip_packet(left, right, ip.ICMPV6 if family == 4 else ip.ICMP, b"\x03" + bytes(20)),
        tcp_packet(left, right, b"data"),
    ]
    three.left.send_burst(packets)
    three.network.run(1)
    assert came_in(three.right) == packets
