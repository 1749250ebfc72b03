"""conflux/wire/segment.py: virtio headers, and cutting up in software.

The second decoder (tests/vectors), written from the documents alone, says what is right; so does
the kernel's own segmentation, in tests/lab/test_segmentation.py.
"""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from conflux.api import Gso, WireError
from conflux.testing.packets import ip_packet, tcp_packet, udp_packet
from conflux.testing.virtio import virtio_body
from conflux.wire import ip
from conflux.wire.checksum import checksum, pseudo_header_sum
from conflux.wire.segment import (
    HEADER,
    MAX_SEGMENTS,
    MIN_GSO_SIZE,
    NO_HEADER,
    check,
    segment_bytes,
    segments,
    split,
    tidy,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors"))

from second_decoder import Refused
from second_virtio import virtio

V4 = ip_address("10.0.0.1"), ip_address("10.0.0.2")
V6 = ip_address("fd00::1"), ip_address("fd00::2")
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))
ends = st.sampled_from([V4, V6])
payloads = st.one_of(st.binary(max_size=200), st.builds(bytes, st.integers(0, 20_000)))
options = st.sampled_from([b"", TIMESTAMPS, b"\x01" * 40])


@st.composite
def packets(draw):
    """TCP and UDP, with options and extension headers now and then."""
    pair, payload = draw(ends), draw(payloads)
    if draw(st.booleans()):
        packet = udp_packet(*pair, payload)
    else:
        packet = tcp_packet(*pair, payload, flags=draw(st.integers(0, 255)), options=draw(options))
    fields = bytearray(packet)
    if pair is V4:
        fields[4:6] = draw(st.binary(min_size=2, max_size=2))
        return with_options(fields) if draw(st.booleans()) else with_header_checksum(fields)
    return with_extension(packet) if draw(st.booleans()) else packet


def with_options(packet):
    longer = bytearray(b"\x46" + packet[1:20] + b"\x01\x01\x01\x00" + packet[20:])
    longer[2:4] = len(longer).to_bytes(2, "big")
    return with_header_checksum(longer)


def with_header_checksum(packet):
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(packet[: (packet[0] & 15) * 4]).to_bytes(2, "big")
    return bytes(packet)


def with_extension(packet):
    """The same behind destination options (RFC 8200 §4.6)."""
    body = bytes((packet[6], 0, 1, 4, 0, 0, 0, 0)) + packet[40:]
    return packet[:4] + len(body).to_bytes(2, "big") + b"\x3c" + packet[7:40] + body


sizes = st.one_of(st.integers(MIN_GSO_SIZE, 1_500), st.integers(0, 40))
bodies = st.builds(
    lambda packet, size, ecn: virtio_body(packet, gso_size=size, ecn=ecn),
    packets(), sizes.map(lambda size: size if size >= MIN_GSO_SIZE else 0), st.booleans(),
)  # fmt: skip


def view(body):
    return memoryview(bytearray(body))


def has_whole_checksum(packet):
    whole = memoryview(packet)
    protocol, at = ip.transport(whole)
    if packet[0] >> 4 == 4 and checksum(packet[: (packet[0] & 15) * 4]) != 0:
        return False
    pseudo = pseudo_header_sum(*ip.addresses(whole), protocol, len(packet) - at)
    return checksum(packet[at:], pseudo) == 0


def taken(function, body):
    """What *function* makes of a copy of *body*; None if that is a WireError, which alone it
    may raise."""
    try:
        return function(view(body))
    except WireError:
        return None


class TestCuttingUp:
    @given(bodies)
    def test_it_is_what_the_documents_say(self, body):
        made = [packet.hex() for packet in segments(view(body))]
        assert made == virtio(body)["cut_up"]

    @given(packets(), st.integers(1, 3_000))
    def test_payloads_join_to_what_they_were_and_every_packet_is_whole(self, packet, size):
        assume(len(packet) < 1_000 * size)
        body = virtio_body(packet, gso_size=size)
        made = segments(view(body))
        many = HEADER.unpack_from(body)
        header_bytes = many[2] or len(packet)
        assert b"".join(p[header_bytes:] for p in made) == packet[header_bytes:]
        assert {len(p) for p in made[:-1]} <= {header_bytes + size}
        assert all(len(p) <= header_bytes + size for p in made[-1:])
        assert all(map(has_whole_checksum, made))

    @given(st.sampled_from([V4, V6]), st.integers(0, 255))
    def test_flags_stand_where_they_belong(self, pair, flags):
        made = segments(view(virtio_body(tcp_packet(*pair, bytes(99), flags=flags), gso_size=33)))
        at = 20 if pair is V4 else 40
        first, middle, last = [packet[at + 13] for packet in made]
        assert first == flags & ~0x09
        assert middle == flags & ~0x89
        assert last == flags & ~0x80
        assert [int.from_bytes(p[at + 4 : at + 8], "big") for p in made] == [1, 34, 67]

    def test_identification_and_sequence_wrap_around(self):
        packet = bytearray(tcp_packet(*V4, bytes(96)))
        packet[4:6], packet[24:28] = b"\xff\xff", b"\xff\xff\xff\xff"
        made = segments(view(virtio_body(bytes(packet), gso_size=32)))
        assert [p[4:6].hex() for p in made] == ["ffff", "0000", "0001"]
        assert [p[24:28].hex() for p in made] == ["ffffffff", "0000001f", "0000003f"]

    def test_udp_never_sends_a_checksum_of_zero(self):
        """RFC 768. The payload is chosen so that it comes out as zero."""
        for pair in (V4, V6):
            zero = bytearray(udp_packet(*pair, bytes(64)))
            at = len(zero) - 72
            (was,) = struct.unpack_from(">H", zero, at + 6)
            zero[-2:] = was.to_bytes(2, "big")
            for size in (0, 62):
                made = segments(view(virtio_body(bytes(zero), gso_size=size)))
                assert all(packet[at + 6 : at + 8] != b"\0\0" for packet in made)
            assert segments(view(virtio_body(bytes(zero))))[0][at + 6 : at + 8] == b"\xff\xff"

    def test_one_byte_a_packet_does_not_explode(self):
        body = bytearray(virtio_body(udp_packet(*V4, bytes(65_000)), gso_size=1))
        with pytest.raises(WireError):
            segments(memoryview(body))
        with pytest.raises(WireError):
            check(memoryview(body))
        longest = virtio_body(udp_packet(*V4, bytes(MAX_SEGMENTS)), gso_size=1)
        assert len(segments(view(longest))) == MAX_SEGMENTS

    @given(packets())
    def test_packet_without_a_header_stays_as_it_is(self, packet):
        assert segments(view(NO_HEADER + packet)) == [packet]

    @given(bodies)
    def test_longest_packet_is_what_the_path_has_to_carry(self, body):
        assert segment_bytes(view(body)) == max(map(len, segments(view(body))))


class TestSplitting:
    @given(bodies, st.integers(0, 21_000))
    def test_parts_stand_for_the_same_packets(self, body, limit):
        parts = split(view(body), limit)
        assert [p for part in parts for p in segments(view(part))] == segments(view(body))

    @given(bodies, st.integers(0, 21_000))
    def test_parts_may_be_sent_and_keep_the_limit_if_they_can(self, body, limit):
        for part in split(view(body), limit):
            check(view(part))
            assert len(part) <= limit or len(segments(view(part))) == 1

    @given(bodies)
    def test_what_fits_stays_whole(self, body):
        assert split(view(body), len(body)) == [body]

    @given(packets().filter(lambda packet: len(packet) > 600), st.integers(300, 2_000))
    def test_no_more_parts_are_made_than_needed(self, packet, limit):
        body = virtio_body(packet, gso_size=100)
        parts = split(view(body), limit)
        assert all(len(one) + 100 > limit for one in parts[:-1])


class TestHeaders:
    @given(bodies)
    def test_what_a_system_gives_may_be_sent_as_it_is(self, body):
        copy = view(body)
        assert tidy(copy)
        assert copy == body
        assert check(copy) == HEADER.unpack_from(body)[1] & 0x7F
        assert check(copy) in set(Gso)

    @given(bodies, st.integers(0, 65_535), st.sampled_from([0, 2, 3]))
    def test_hints_of_a_system_are_put_right(self, body, header_bytes, flags):
        """hdr_len is a hint to Linux, and DATA_VALID says what nobody here asks for."""
        given_ = bytearray(body)
        given_[2:4] = header_bytes.to_bytes(2, "little")
        is_many = given_[1] != 0
        given_[0] |= flags
        sent = view(given_)
        assert tidy(sent)
        if is_many:
            assert sent == body
        assert check(sent) == given_[1] & 0x7F
        assert segments(sent) == segments(view(body))

    def test_many_that_are_one_become_one(self):
        """Linux drops a TCP packet that calls itself many and is not longer than gso_size."""
        for packet in (tcp_packet(*V4, bytes(50)), udp_packet(*V6, bytes(50))):
            one = virtio_body(packet)
            body = bytearray(virtio_body(packet, gso_size=49))
            body[4:6] = (50).to_bytes(2, "little")
            with pytest.raises(WireError):
                check(memoryview(body))
            assert tidy(memoryview(body))
            assert body == one

    def test_many_with_whole_checksums_get_the_sum_that_many_have(self):
        for packet in (tcp_packet(*V4, bytes(99)), tcp_packet(*V6, bytes(99))):
            body = virtio_body(packet, gso_size=50)
            whole = bytearray(b"\0" + body[1:10] + packet)
            assert tidy(memoryview(whole))
            assert whole == body

    def test_too_little_payload_a_packet_is_cut_up_by_the_sender(self):
        packet = udp_packet(*V4, bytes(99))
        body = view(virtio_body(packet, gso_size=MIN_GSO_SIZE - 1))
        assert not tidy(body)
        assert len(segments(body)) == 4

    @pytest.mark.parametrize("pair", [V4, V6])
    def test_checksum_of_a_packet_within_the_packet_is_made_by_the_sender(self, pair):
        """A tunnel over the overlay leaves the inner checksum to the device: none of a peer's."""
        inner = tcp_packet(*V4, b"through a tunnel")
        outer = udp_packet(*pair, inner)
        start = len(outer) - len(inner) + 20
        partial = bytearray(outer)
        partial[start + 16 : start + 18] = virtio_body(inner)[10 + 36 : 10 + 38]
        body = bytearray(HEADER.pack(1, 0, 0, 0, start, 16) + partial)
        with pytest.raises(WireError):
            check(memoryview(body))
        assert tidy(memoryview(body))
        assert body == NO_HEADER + outer

    @given(bodies, st.lists(st.tuples(st.integers(0, 75), st.integers(0, 255)), max_size=3))
    def test_a_peers_header_is_taken_if_the_documents_allow_it(self, body, changes):
        changed = bytearray(body)
        for at, value in changes:
            changed[at % len(changed)] = value
        try:
            ip.addresses(memoryview(changed)[10:])
        except WireError:
            reject()
        try:
            allowed = virtio(bytes(changed))
        except Refused:
            assert taken(check, changed) is None
            return
        assert check(memoryview(changed)) == changed[1] & 0x7F
        assert [p.hex() for p in segments(memoryview(changed))] == allowed["cut_up"]

    @given(st.one_of(st.binary(max_size=120), st.builds(bytes.__add__, st.binary(
        min_size=10, max_size=10), packets())), st.integers(0, 300))  # fmt: skip
    def test_noise_gives_wire_error_and_nothing_else(self, noise, limit):
        for function in (check, segments, segment_bytes, lambda body: split(body, limit)):
            taken(function, noise)
        sent = view(noise)
        try:
            may_be_sent = tidy(sent)
        except WireError:
            return
        if may_be_sent and taken(ip.addresses, sent[10:]) is not None:
            check(sent)

    def test_fragments_have_no_checksum_of_their_own(self):
        whole = bytearray(udp_packet(*V4, bytes(99)))
        for field in (0x2000, 0x0001):
            whole[6:8] = field.to_bytes(2, "big")
            assert taken(check, HEADER.pack(1, 0, 0, 0, 20, 6) + whole) is None
        later = bytes((ip.UDP, 0, 0, 8, 0, 0, 0, 0)) + bytes(99)
        body = HEADER.pack(1, 0, 0, 0, 48, 6) + ip_packet(*V6, 44, later)
        assert taken(check, body) is None
