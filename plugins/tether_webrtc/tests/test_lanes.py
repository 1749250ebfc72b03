"""Both halves of the data path on a simulated network: loss, reordering, long and short paths."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import MAX_MESSAGE_BYTES, WireError
from conflux_tether_webrtc import inbound, outbound
from conflux_tether_webrtc.inbound import Inbound
from conflux_tether_webrtc.outbound import BEGIN, END, PAYLOAD_BYTES, UNORDERED, Outbound

BINARY = 53
SIZES = (1, 2, 255, 256, 1_159, 1_160, 1_161, 1_400, 16_000, 60_000, MAX_MESSAGE_BYTES)


def message(size, tag=0):
    return random.Random(size << 16 | tag).randbytes(size)


def send_all(path, messages, *, stream=0):
    """Queue each as soon as the queue is short."""
    waiting = list(messages)[::-1]

    def turn():
        while waiting and path.out.queued_bytes < 10_000:
            path.out.send(path.now, waiting.pop(), stream, BINARY)

    path.on_turn = turn


def flood(path, size):
    path.keep = False
    data = bytes(size)

    def turn():
        while path.out.queued_bytes + size <= 262_144:
            path.out.send(path.now, data, 0, BINARY)

    path.on_turn = turn


# A path that loses nothing


def test_messages_of_every_size_arrive_whole_where_nothing_is_lost(simulate):
    path = simulate(rate=125e6, queue_bytes=10_000_000)
    sent = [message(size, tag) for tag in range(5) for size in SIZES]
    send_all(path, sent)
    path.run(5)
    assert [data for _, data in path.delivered] == sent
    assert path.out.deadline is None, "nothing is due any more"


def test_no_packet_is_longer_than_promised_and_small_messages_share_one(simulate):
    path = simulate(rate=1e9)
    longest = []
    path.drop = lambda packet: longest.append(len(packet))
    send_all(path, [bytes(60)] * 100 + [message(size) for size in SIZES])
    path.run(1)
    assert max(longest) <= PAYLOAD_BYTES
    few = 100 * 76 / PAYLOAD_BYTES + sum(size / 1_160 + 2 for size in SIZES)
    assert len(longest) <= few
    assert len(path.delivered) == 100 + len(SIZES)


def test_reordering_within_a_few_packets_loses_nothing(simulate):
    path = simulate(rate=2e6, jitter_s=0.003, queue_bytes=10_000_000)
    sent = [message(2_000, tag) for tag in range(300)]
    send_all(path, sent)
    path.run(5)
    assert sorted(data for _, data in path.delivered) == sorted(sent)
    assert path.out.loss == 0


@pytest.mark.parametrize("size", [1_400, 16_000, 60_000])
@pytest.mark.parametrize(
    ("delay_s", "rate", "queue_bytes"),
    [(0.0003, 5e6, 100_000), (0.01, 5e6, 50_000), (0.02, 1.25e6, 60_000)],
)
def test_a_path_is_filled_and_hardly_overrun(simulate, size, delay_s, rate, queue_bytes):
    path = simulate(delay_s=delay_s, rate=rate, queue_bytes=queue_bytes)
    flood(path, size)
    path.run(2)  # slow start, its one overshoot, recovery
    before, dropped, packets = path.delivered_bytes, path.dropped_by_queue, path.sent_packets
    path.run(2)
    assert path.delivered_bytes - before > 0.75 * 2 * rate
    assert path.dropped_by_queue - dropped < 0.005 * (path.sent_packets - packets)


# A path that loses


@pytest.mark.parametrize(("loss", "share"), [(0.001, 0.9), (0.01, 0.7), (0.1, 0.3)])
def test_datagrams_that_arrive_are_whole_and_single(simulate, loss, share):
    path = simulate(loss=loss, seed=3)
    sent = [message(size, tag) for tag in range(40) for size in SIZES[2:]]
    send_all(path, sent)
    path.run(60)
    arrived = [data for _, data in path.delivered]
    assert len(arrived) == len(set(arrived))
    assert set(arrived) <= set(sent)
    assert len(arrived) > share * len(sent)
    assert path.out.queued_bytes == 0, "every message left, or was given up"


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.3])
def test_reliable_lane_keeps_everything_in_order_beside_lossy_datagrams(simulate, loss):
    path = simulate(loss=loss, seed=4)
    sent = [message(random.Random(i).randrange(1, 16_384), i) for i in range(150)]
    for data in sent:
        path.out.send_reliable(data, 4, BINARY)
    send_all(path, [message(3_000, i) for i in range(150)])
    path.run(900)
    assert [data for stream, data in path.delivered if stream == 4] == sent
    assert path.out.reliable_bytes == 0


def test_lost_datagram_is_not_sent_again(simulate):
    path = simulate()
    seen = []
    path.drop = lambda packet: seen.append(packet) or len(seen) == 1
    sent = [message(1_100, tag) for tag in range(30)]
    send_all(path, sent)
    path.run(5)
    assert [data for _, data in path.delivered] == sent[1:]
    assert sum(len(packet) > 1_000 for packet in seen) == len(sent)


def test_lost_chunk_of_a_longer_message_is_sent_again(simulate):
    path = simulate(rate=1e6)
    seen = []
    path.drop = lambda packet: seen.append(packet) or len(seen) in (2, 17, 18)
    path.out.send(path.now, message(60_000), 0, BINARY)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(5)
    assert sorted(len(data) for _, data in path.delivered) == [500, 60_000]
    assert path.out.deadline is None, "nothing is due any more"


def test_message_that_loses_one_chunk_again_and_again_is_given_up(simulate, chunks_of):
    path = simulate(delay_s=0.0005, rate=1e6, first_tsn=1_000)
    tsn = (1_001).to_bytes(4, "big")
    dropped = []

    def drop(packet):
        is_it = any(
            kind == outbound.DATA and body.startswith(tsn) for kind, _, body in chunks_of(packet)
        )
        if is_it:
            dropped.append(packet)
        return is_it

    path.drop = drop
    path.out.send(path.now, message(MAX_MESSAGE_BYTES), 0, BINARY)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(5)
    assert [len(data) for _, data in path.delivered] == [500]
    assert len(dropped) == 1 + outbound.RESENDS
    assert path.out.queued_bytes == 0
    assert path.out.deadline is None


def sent_bytes_where_only_the_next_arrives(path):
    """Lose the second packet of a message, which is given up for it; that after it arrives."""
    seen = []
    path.drop = lambda packet: seen.append(packet) or len(seen) == 2
    path.out.send(path.now, message(60_000), 0, BINARY)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(5)
    assert [len(data) for _, data in path.delivered] == [500]
    return sum(map(len, seen))


def test_rest_of_a_message_that_was_given_up_is_not_sent(simulate, monkeypatch):
    monkeypatch.setattr(outbound, "RESENDS", 0)
    assert sent_bytes_where_only_the_next_arrives(simulate(rate=1e6)) < 40_000


def test_nothing_of_an_old_message_is_sent_again(simulate):
    path = simulate(delay_s=0.13, rate=1e6)  # its loss is seen after LIFETIME_S
    assert sent_bytes_where_only_the_next_arrives(path) < 62_000


@pytest.mark.parametrize("size", [4, 20_000])
@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("delay_s", [0.0005, 0.005, 0.04, 0.1])
def test_lost_end_of_what_is_sent_is_found_by_a_probe(simulate, size, losses, delay_s):
    """Nothing follows that would show it. Nothing is given up, however long the path is."""
    path = simulate(delay_s=delay_s, rate=1e8)
    path.run(1)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(1)  # the round trip is known
    last = message(size)
    packets = -(-size // 1_160)
    seen = []
    path.drop = lambda packet: seen.append(packet) or packets <= len(seen) < packets + losses
    path.out.send(path.now, last, 0, BINARY)
    path.run(0.05 + 30 * delay_s)
    assert path.delivered[1:] == [(0, last)]
    assert path.out.deadline is None


def test_probe_leaves_though_the_window_is_full(simulate):
    path = simulate(delay_s=0.0005, rate=1e8)
    path.run(1)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(1)
    path.out.peer_window = 4_000
    seen = []
    path.drop = lambda packet: seen.append(packet) or True
    path.out.send(path.now, message(20_000), 0, BINARY)
    path.run(0.05)
    assert len(seen) == 4 + outbound.PROBES


def test_path_that_swallows_all_is_not_probed_after_every_timeout(simulate):
    path = simulate()
    path.run(1)
    seen = []
    path.drop = lambda packet: seen.append(packet) or True
    path.out.send_reliable(message(500), 4, BINARY)
    path.run(40)
    assert len(seen) <= 1 + outbound.PROBES + 9  # RTOs of 1, 2, 4, 8, 8 ... s


def test_overtaken_chunk_is_found_within_a_round_trip_and_a_half(simulate):
    """Too little follows to tell it from one that was overtaken by chance."""
    path = simulate(delay_s=0.01, rate=1e8)
    path.run(1)
    path.out.send(path.now, message(500), 0, BINARY)
    path.run(1)
    seen = []
    path.drop = lambda packet: seen.append(packet) or len(seen) == 2
    path.out.send(path.now, message(5_000), 0, BINARY)
    path.run(0.02 * 1.5 + 0.011)
    assert len(path.delivered) == 2


def test_last_message_lost_with_its_probes_does_not_block_the_next(simulate):
    """The timer gives it up, and it is soon forgotten."""
    path = simulate()
    path.drop = lambda packet: packet[0] == outbound.DATA
    path.out.send(path.now, b"lost", 0, BINARY)
    path.run(5)
    assert path.out.deadline is None
    path.drop = lambda packet: False
    path.out.send(path.now, b"next", 0, BINARY)
    path.run(1)
    assert path.delivered == [(0, b"next")]


def test_far_end_is_asked_for_a_sack_at_once_where_nothing_follows(simulate, chunks_of):
    path = simulate()
    flags = []

    def note(packet):
        flags.extend(each for kind, each, _ in chunks_of(packet) if kind == outbound.DATA)
        return False

    path.drop = note
    for size in (400, 3_000, 400):
        path.out.send(path.now, message(size), 0, BINARY)
    path.run(1)
    asks = [bool(each & outbound.IMMEDIATE) for each in flags]
    assert asks == [False] * (len(flags) - 1) + [True]


def test_lost_forward_tsn_is_sent_again_while_data_flows(simulate):
    path = simulate(rate=1e6)
    data_packets, forwards = [], []

    def drop(packet):
        if packet[0] == outbound.FORWARD_TSN_TYPE:
            forwards.append(packet)
            return len(forwards) == 1
        data_packets.append(packet)
        return len(data_packets) == 30

    path.drop = drop
    send_all(path, [message(1_000, tag) for tag in range(2_000)])
    path.run(10)
    assert len(forwards) > 1
    assert len(path.delivered) == 1_999
    assert path.out.deadline is None


def test_long_messages_survive_a_path_that_loses_one_packet_in_twenty(simulate):
    path = simulate(loss=0.05, seed=8, delay_s=0.0005, rate=1e8)
    flood(path, 60_000)
    given_up, abandon = [], path.out._abandon
    path.out._abandon = lambda message: given_up.append(message) or abandon(message)
    path.run(5)
    assert path.delivered_bytes > 5 * 10e6
    assert len(given_up) < 0.02 * path.delivered_bytes / 60_000


@pytest.mark.parametrize(("loss", "share"), [(0.001, 0.5), (0.01, 0.15)])
def test_rare_loss_costs_little_throughput(simulate, loss, share):
    path = simulate(loss=loss, seed=6, rate=5e6)
    flood(path, 1_400)
    path.run(6)
    assert path.delivered_bytes > share * 6 * 5e6


def test_a_path_that_was_dead_for_a_while_works_again(simulate):
    path = simulate()
    flood(path, 1_400)
    path.run(1)
    path.drop = lambda packet: True
    path.run(10)
    path.drop = lambda packet: False
    before = path.delivered_bytes
    path.run(10)  # the timer had backed off to RTO_MAX_S
    assert path.delivered_bytes - before > 1_000_000


def test_loss_is_estimated(simulate):
    path = simulate(loss=0.05, seed=7)
    flood(path, 1_100)
    path.run(20)
    assert 0.02 < path.out.loss < 0.1


# What a hostile peer may say


def test_acknowledgement_of_what_was_never_sent_is_ignored():
    out = Outbound(100, peer_window=1 << 20)
    out.send(0.0, b"x" * 100, 0, BINARY)
    out.packet(0.0)
    out.on_sack(0.1, 105, 1 << 20, [])
    assert out.deadline is not None
    out.on_sack(0.1, 100, 1 << 20, [])
    assert out.deadline is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0xFFFFFFFF) | st.integers(90, 130),
            st.integers(0, 0xFFFFFFFF),
            st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=8),
        ),
        max_size=20,
    )
)
def test_no_sack_breaks_the_sender(sacks):
    out = Outbound(100, peer_window=1 << 20)
    for size in SIZES:
        out.send(0.0, bytes(size), 0, BINARY)
        out.send_reliable(bytes(min(size, 16_384)), 4, BINARY)
    now = 0.0
    for cumulative, window, gaps in sacks:
        now += 0.01
        while out.packet(now, out.forward_tsn(now)):
            pass
        out.on_sack(now, cumulative, window, gaps)
        assert out.queued_bytes >= 0
        assert out.reliable_bytes >= 0
        assert 0 <= out.loss <= 1
    for _ in range(200):
        now += 10
        out.on_timer(now)
        while out.packet(now, out.forward_tsn(now)):
            pass
        out.on_sack(now, out._tsn & 0xFFFFFFFF, 1 << 20, [])
    assert (out.queued_bytes, out.reliable_bytes) == (0, 0), "the sender still sends"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0xFFFFFFFF) | st.integers(0, 40),
            st.integers(0, 7),
            st.integers(0, 5),
            st.integers(0, 3),
            st.binary(min_size=1, max_size=20),
        ),
        max_size=60,
    )
)
def test_no_data_breaks_the_receiver(data_chunks):
    delivered = []
    into = Inbound(5, ordered_stream=4, deliver=lambda *got: delivered.append(got))
    for tsn, flags, stream, sequence, data in data_chunks:
        try:
            into.data(tsn, flags, stream, sequence, BINARY, data)
            if not sequence:
                into.forward(tsn)
        except WireError:
            return
    sack = into.sack()
    assert len(sack) == struct.unpack_from("!H", sack, 2)[0] if sack else True


@given(st.permutations(range(30)), st.data())
def test_any_order_of_arrival_gives_every_message_once(order, data):
    """Thirty chunks: messages of one to five, every third ordered; some chunks arrive twice."""
    pieces, sent = [], []
    sequence = 0
    while len(pieces) < 30:
        count = min(data.draw(st.integers(1, 5)), 30 - len(pieces))
        is_ordered = len(sent) % 3 == 2
        parts = [bytes([len(pieces) + i]) * 3 for i in range(count)]
        for i, part in enumerate(parts):
            flags = BEGIN * (i == 0) | END * (i == count - 1) | UNORDERED * (not is_ordered)
            pieces.append((flags, 4 if is_ordered else 1, sequence if is_ordered else 0, part))
        sequence += is_ordered
        sent.append((4 if is_ordered else 1, b"".join(parts)))
    delivered = []
    first = 0xFFFFFFF0
    into = Inbound(
        first - 1,
        ordered_stream=4,
        deliver=lambda stream, _, got: delivered.append((stream, got)),
    )
    for at in [*order, *order[:5]]:
        flags, stream, number, part = pieces[at]
        into.data((first + at) & 0xFFFFFFFF, flags, stream, number, BINARY, part)
    assert sorted(delivered) == sorted(sent)
    assert [got for got in delivered if got[0] == 4] == [got for got in sent if got[0] == 4]
    _, _, _, cumulative, window, gaps, _ = inbound.SACK_HEADER.unpack(into.sack())
    assert (cumulative, window, gaps) == ((first + 29) & 0xFFFFFFFF, inbound.WINDOW_BYTES, 0)


def test_what_never_ends_fills_the_window_and_no_more():
    into = Inbound(0, ordered_stream=4, deliver=lambda *_: None)
    part = bytes(1_160)
    for tsn in range(2, 20_000, 2):
        into.data(tsn, UNORDERED, 0, 0, BINARY, part)
    assert inbound.SACK_HEADER.unpack_from(into.sack())[4] < len(part)


@pytest.mark.parametrize(
    ("flags", "stream", "part"),
    [
        pytest.param(UNORDERED | BEGIN, 0, bytes(1_160), id="messages that only begin"),
        pytest.param(UNORDERED | BEGIN, 0, b"x", id="crumbs of them"),
        pytest.param(BEGIN | END, 4, bytes(1_160), id="messages ahead of one that never comes"),
    ],
)
def test_what_never_ends_in_order_is_a_wire_error_before_it_costs_much(flags, stream, part):
    """Every chunk is the very next one, which the window never holds up."""
    into = Inbound(0, ordered_stream=4, deliver=lambda *_: None)
    most = min(inbound.MOST_HELD_BYTES // len(part), inbound.MOST_RUNS)
    for tsn in range(1, most + 1):
        into.data(tsn, flags, stream, tsn, BINARY, part)
    with pytest.raises(WireError):
        into.data(most + 1, flags, stream, most + 1, BINARY, part)


def test_message_that_grows_too_long_is_a_wire_error():
    into = Inbound(0, ordered_stream=4, deliver=lambda *_: None)
    for tsn in range(1, 57):
        into.data(tsn, UNORDERED | BEGIN * (tsn == 1), 0, 0, BINARY, bytes(1_160))
    with pytest.raises(WireError):
        into.data(57, UNORDERED, 0, 0, BINARY, bytes(1_160))


def test_fragments_before_a_forward_tsn_do_not_join_what_follows():
    delivered = []
    into = Inbound(0, ordered_stream=4, deliver=lambda *got: delivered.append(got))
    into.data(1, UNORDERED | BEGIN, 0, 0, BINARY, b"given up")
    into.forward(2)
    into.data(3, UNORDERED | BEGIN, 0, 0, BINARY, b"who")
    into.data(4, UNORDERED | END, 0, 0, BINARY, b"le")
    assert delivered == [(0, BINARY, b"whole")]


@pytest.mark.parametrize("point", [3, 4, 5])
def test_forward_tsn_keeps_a_message_that_lacks_nothing_so_far(point):
    """An old FORWARD TSN may point into a reliable message whose next part is still to come."""
    delivered = []
    into = Inbound(0, ordered_stream=4, deliver=lambda *got: delivered.append(got))
    for tsn, flags, part in ((3, BEGIN, b"a"), (4, 0, b"b"), (5, 0, b"c")):
        into.data(tsn, flags, 4, 0, BINARY, part)
    into.forward(point)
    into.data(6, END, 4, 0, BINARY, b"d")
    assert delivered == [(4, BINARY, b"abcd")]


def test_fragments_whose_beginning_was_given_up_are_forgotten():
    into = Inbound(0, ordered_stream=4, deliver=lambda *_: None)
    for tsn in (3, 4, 5):
        into.data(tsn, UNORDERED, 0, 0, BINARY, bytes(1_000))
    into.forward(4)
    _, _, _, cumulative, window, _, _ = inbound.SACK_HEADER.unpack_from(into.sack())
    assert (cumulative, window) == (5, inbound.WINDOW_BYTES)
