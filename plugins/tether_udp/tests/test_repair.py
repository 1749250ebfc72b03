"""Pieces that are lost come again, and what came after them waits for that, but not for long."""

from __future__ import annotations

import pytest

from conflux_tether_udp.arrivals import (
    HOLD_S,
    MAX_ORDERED_BYTES,
    MOST_IN_VAIN,
    PAUSE_S,
    QUEUE_S,
)
from conflux_tether_udp.control import MAX_NACKED, Nack
from conflux_tether_udp.datagram import HEADER, HEADER_BYTES, split_tail
from conflux_tether_udp.kept import KEEP_BYTES, KEEP_S, LOSSY_S, MOST_ASKS, Kept
from conflux_tether_udp.reassembly import ASK_S, GIVE_UP_S, MAX_ASKS, Reassembly
from conflux_tether_udp.tally import Tally

PIECE = 1_456
LONG = 10 * PIECE


def message(number: int, size: int = LONG) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"\xa5")


def numbers(end) -> list[int]:
    return [int.from_bytes(got[:4], "big") for got in end.messages]


def parse(data: bytes) -> tuple[int, int, int]:
    """(counter, index, last) of a datagram; last -1 for those of the tether itself."""
    _, high, low, first, last = HEADER.unpack_from(data)
    kind, index = split_tail(first, last)
    return high << 32 | low, index, last if kind == 0 else -1


def lose(pair, *pieces: int, times: int = 1):
    """Lose these *pieces* of the next message of several that near sends, *times* in all."""
    lost: dict[tuple[int, int], int] = {}
    victim: list[int] = []

    def passes(source, target, data):
        counter, index, last = parse(data)
        if source != pair.near.source or last < 1:
            return True
        if not victim:
            victim.append(counter)
        if counter != victim[0] or index not in pieces:
            return True
        lost[counter, index] = lost.get((counter, index), 0) + 1
        return lost[counter, index] > times

    pair.net.passes = passes


def resent(pair) -> list[tuple[int, int]]:
    """Pieces that near has sent more than once, as (counter, index)."""
    seen: set[tuple[int, int]] = set()
    again = []
    for source, _, data in pair.net.log:
        if source == pair.near.source:
            counter, index, last = parse(data)
            if last >= 1:
                if (counter, index) in seen:
                    again.append((counter, index))
                seen.add((counter, index))
    return again


@pytest.fixture
def lossy(make_pair):
    """A pair with a round trip of 10 ms that has lost before: near keeps messages, far knows."""

    def make(**net):
        pair = make_pair(seed=1, delay_s=0.005, **net).connect().settle()
        for _ in range(2):
            lose(pair, 0)
            pair.near.post(message(0), message(1))
            pair.net.run(1)
        pair.net.passes = lambda source, target, data: True
        pair.far.messages.clear()
        pair.net.log.clear()
        return pair

    return make


def test_lost_pieces_alone_are_sent_again_within_a_round_trip(lossy):
    pair = lossy()
    lose(pair, 3, 9)
    began = pair.net.now
    pair.near.post(message(1), message(2))
    assert pair.net.run(1, lambda: len(pair.far.messages) == 2)
    assert pair.net.now - began < 3 * pair.net.delay_s + 2 * ASK_S
    assert [index for _, index in resent(pair)] == [3, 9]
    assert pair.far.messages == [message(1), message(2)]


def test_later_messages_wait_and_come_in_order(lossy):
    pair = lossy()
    lose(pair, 0)
    pair.near.post(message(1), message(2, 100), message(3), message(4, 50))
    pair.net.run(pair.net.delay_s + ASK_S)
    assert numbers(pair.far) == []
    pair.net.run(1)
    assert numbers(pair.far) == [1, 2, 3, 4]


def test_end_of_the_last_message_is_asked_for_though_nothing_follows(lossy):
    pair = lossy()
    lose(pair, 8, 9)
    pair.near.post(message(1))
    pair.net.run(0.1)
    assert numbers(pair.far) == [1]


def test_questions_and_answers_may_be_lost_several_times(lossy):
    pair = lossy()
    lose(pair, 5, times=MAX_ASKS)
    pair.near.post(message(1), message(2))
    pair.net.run(GIVE_UP_S)
    assert numbers(pair.far) == [1, 2]
    assert len(resent(pair)) == MAX_ASKS


def test_message_that_cannot_be_repaired_is_given_up_and_holds_nothing_up_for_long(lossy):
    pair = lossy()
    lose(pair, 5, times=100)
    pair.near.post(message(1), message(2))
    pair.net.run(pair.net.delay_s + GIVE_UP_S + 0.001)
    assert numbers(pair.far) == [2]
    assert len(resent(pair)) <= MOST_ASKS


def test_messages_that_vanished_whole_are_not_waited_for(lossy):
    pair = lossy()
    pair.net.passes = lambda source, target, data: parse(data)[2] != 0
    pair.near.post(message(1, 100), message(2))
    pair.net.run(pair.net.delay_s)
    assert numbers(pair.far) == [2]


def test_message_that_lost_many_pieces_met_a_queue_and_is_not_asked_for(lossy):
    pair = lossy()
    lose(pair, *range(MAX_NACKED + 1))
    pair.near.post(message(1), message(2))
    pair.net.run(pair.net.delay_s + 2 * ASK_S)
    assert numbers(pair.far) == [2]
    pair.net.run(1)
    assert resent(pair) == []


def test_nothing_is_asked_for_while_a_queue_is_filling(lossy):
    pair = lossy()
    pair.net.delay_s += QUEUE_S
    for _ in range(10):  # answers take longer and longer, which is how the far end knows
        lose(pair, 3)
        pair.near.post(message(1), message(2))
        pair.net.run(0.09)
    pair.net.run(0.2)
    pair.far.messages.clear()
    pair.net.log.clear()
    lose(pair, 4)
    pair.near.post(message(3), message(4))
    pair.net.run(pair.net.delay_s + 2 * ASK_S)
    assert numbers(pair.far) == [4]
    assert resent(pair) == []
    pair.net.delay_s -= QUEUE_S
    for _ in range(20):  # round trips are measured while messages go
        pair.near.post(message(5))
        pair.far.post(message(5))
        pair.net.run(2 * PAUSE_S / 10)
    pair.far.messages.clear()
    lose(pair, 4)
    pair.near.post(message(6), message(7))
    pair.net.run(0.5)
    assert numbers(pair.far) == [6, 7], "when it has drained, they are again"


def test_far_end_that_keeps_nothing_is_not_waited_for_long(make_pair):
    """The first loss of a path finds no message kept."""
    pair = make_pair(delay_s=0.005).connect().settle()
    lose(pair, 3)
    pair.near.post(message(1), message(2))
    pair.net.run(0.1)
    assert numbers(pair.far) == [2]
    assert resent(pair) == []


def test_path_that_loses_nothing_keeps_nothing(make_pair):
    pair = make_pair(delay_s=0.005).connect().settle()
    for number in range(50):
        pair.near.post(message(number))
    assert pair.near.hop._kept._bytes == 0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_lossy_path_delivers_all_long_messages_in_order(lossy, share):
    pair = lossy()
    pair.net.loss = share
    for number in range(1_000):
        pair.near.post(message(number, 40 * PIECE))
        pair.net.run(0.001)
    pair.net.loss = 0.0
    pair.net.run(1)
    assert numbers(pair.far) == sorted(numbers(pair.far))
    assert len(pair.far.messages) >= 995
    assert len(resent(pair)) < 2 * share * 40_000 + 20


def test_pieces_that_overtake_each_other_give_messages_in_order(lossy):
    pair = lossy()
    pair.net.jitter_s = 0.002
    for number in range(200):
        pair.near.post(message(number))
        pair.net.run(0.001)
    pair.net.run(1)
    assert numbers(pair.far) == list(range(200))


def test_what_is_held_is_bounded_and_then_handed_over(lossy):
    pair = lossy()
    lose(pair, 3, times=100)
    count = MAX_ORDERED_BYTES // 60_000 + 2
    pair.near.post(message(0))
    for number in range(1, count + 1):
        pair.near.post(message(number, 60_000))
    pair.net.run(pair.net.delay_s + 2 * ASK_S)
    assert numbers(pair.far) == list(range(1, count + 1))
    assert pair.far.hop._arrivals._held_bytes == 0


def test_closed_tether_hands_over_nothing_that_it_held(lossy):
    pair = lossy()
    lose(pair, 3, times=100)
    pair.near.post(message(1), message(2))
    pair.net.run(pair.net.delay_s + ASK_S)
    pair.far.close()
    pair.net.run(1)
    assert pair.far.messages == []


def test_receiver_that_closes_inside_a_message_gets_no_further_one(lossy):
    pair = lossy()
    lose(pair, 3)
    far = pair.far
    deliver = far.datagram

    def closing(received):
        deliver(received)
        far.close()

    far.datagram = closing
    pair.near.post(message(1), message(2), message(3))
    pair.net.run(1)
    assert numbers(far) == [1]


def test_answers_are_slow_only_as_long_as_all_of_them_are():
    """One late answer is a busy machine's, many in a row are a queue's."""
    reassembly = Reassembly(Tally())
    reassembly.quiet_s, reassembly.turn_s, reassembly.slow_s = 0.01, 1.0, 0.04
    piece = memoryview(bytes(PIECE))
    slow_for_s = []
    for counter, took_s in enumerate((0.05, 0.01, 0.05, 0.05, 0.06, 0.01), start=1):
        now = float(counter)
        reassembly.add(counter, 0, 1, piece, PIECE, now)
        assert reassembly.poll(now + 0.01)
        assert reassembly.add(counter, 1, 1, piece, PIECE, now + 0.01 + took_s)
        slow_for_s.append(reassembly.slow_for_s)
    assert slow_for_s == pytest.approx([0, 0, 0, 1.0, 2.01, 0])


# Injected pieces

STRANGER_PIECE = b"\x5a" * PIECE


def inject(pair, counter: int, index: int = 0, last: int = 8) -> None:
    """Have far receive a piece of message *counter* as if near had sent it."""
    header = HEADER.pack(pair.far.id, counter >> 32, counter & 0xFFFF_FFFF, index, last)
    pair.net.deliver(pair.near.source, pair.far.source, header + STRANGER_PIECE)


def test_injected_pieces_hold_no_message_for_longer_than_a_lost_one_does(lossy):
    """Whoever injects names a new counter each time, so that something is always missing."""
    pair = lossy()
    highest = pair.far.hop._opener.highest
    pair.near.hop._sealer._counter += 100  # as at a rekey: counters that never come
    inject(pair, highest + 1)
    pair.near.post(message(1, 100))
    pair.net.run(pair.net.delay_s)
    came = pair.net.now
    assert numbers(pair.far) == []
    for number in range(2, 40):
        inject(pair, highest + number)
        if pair.net.run(0.02, lambda: bool(pair.far.messages)):
            break
    assert numbers(pair.far) == [1]
    assert pair.net.now - came <= HOLD_S + 0.001


def test_pieces_that_are_asked_for_in_vain_again_and_again_are_asked_for_no_more(lossy):
    pair = lossy()
    for _ in range(3):  # how long answers take is known
        lose(pair, 3)
        pair.near.post(message(0), message(0))
        pair.net.run(0.1)
    pair.net.passes = lambda source, target, data: True
    pair.far.messages.clear()
    highest = pair.far.hop._opener.highest
    pair.near.hop._sealer._counter += 100
    for number in range(1, MOST_IN_VAIN + 1):
        inject(pair, highest + number)
    pair.near.post(message(1, 100))
    pair.net.run(HOLD_S + pair.net.delay_s)
    assert numbers(pair.far) == [1]
    inject(pair, highest + MOST_IN_VAIN + 1)
    pair.near.post(message(2, 100))
    pair.net.run(pair.net.delay_s)
    assert numbers(pair.far) == [1, 2], "nothing waits for a while"


def test_forged_message_ends_all_waiting_for_a_while(lossy):
    pair = lossy()
    highest = pair.far.hop._opener.highest
    pair.near.hop._sealer._counter += 100
    inject(pair, highest + 1)
    inject(pair, highest + 2, index=0, last=1)
    pair.near.post(message(1, 100))
    pair.net.run(pair.net.delay_s)
    assert numbers(pair.far) == []
    inject(pair, highest + 2, index=1, last=1)
    assert numbers(pair.far) == [1]
    inject(pair, highest + 3)
    pair.near.post(message(2, 100))
    pair.net.run(pair.net.delay_s)
    assert numbers(pair.far) == [1, 2]


def test_injected_piece_of_a_message_that_came_holds_nothing_up(lossy):
    pair = lossy()
    inject(pair, pair.near.hop._sealer._counter + 1)
    pair.near.post(message(1, 100), message(2, 100))
    pair.net.run(pair.net.delay_s)
    assert numbers(pair.far) == [1, 2]
    assert not pair.far.hop._arrivals._reassembly


# What is kept


def cut(counter: int, pieces: int, last_bytes: int = 100) -> list[bytes]:
    """Header, piece, header, piece ... as a `Cutter` makes them."""
    parts = []
    for index in range(pieces):
        header = b"\x80receive" + counter.to_bytes(6, "big") + bytes((index, pieces - 1))
        parts += [header, bytes([index]) * (last_bytes if index == pieces - 1 else PIECE)]
    return parts


def nack(counter: int, *pieces: int) -> Nack:
    return Nack(counter.to_bytes(6, "big"), sum(1 << piece for piece in pieces))


EACH = PIECE + HEADER_BYTES


def kept_since_a_question(now: float = 0.0) -> Kept:
    kept = Kept()
    assert kept.again(nack(1, 0), now) == ([], 0)
    return kept


def test_pieces_come_again_as_they_were():
    kept = kept_since_a_question()
    parts = cut(7, 5)
    kept.keep(parts, EACH, 0.0)
    again, each = kept.again(nack(7, 1, 4), 0.1)
    assert each == EACH
    assert [bytes(part) for part in again] == [*parts[2:4], *parts[8:10]]


def test_pieces_that_a_message_does_not_have_are_none():
    kept = kept_since_a_question()
    kept.keep(cut(7, 5), EACH, 0.0)
    assert kept.again(nack(7, 5, 63), 0.1)[0] == []


def test_message_of_one_datagram_is_not_kept():
    kept = kept_since_a_question()
    kept.keep(cut(7, 1), EACH, 0.0)
    assert kept._bytes == 0


def test_messages_are_kept_for_a_while_after_the_latest_question():
    kept = kept_since_a_question()
    kept.keep(cut(7, 2), EACH, LOSSY_S - 0.01)
    kept.keep(cut(8, 2), EACH, LOSSY_S)
    assert kept.again(nack(7, 0), LOSSY_S)[0]
    assert not kept.again(nack(8, 0), LOSSY_S)[0]


def test_what_is_kept_is_bounded_in_bytes_and_time():
    kept = kept_since_a_question()
    for counter in range(2, 200):
        kept.keep(cut(counter, 44), EACH, 0.0)
        assert kept._bytes <= KEEP_BYTES
    assert not kept.again(nack(2, 0), 0.0)[0], "the oldest went"
    assert kept.again(nack(199, 0), 0.0)[0]
    assert kept.due == KEEP_S
    kept.drop_old(KEEP_S)
    assert kept._bytes == 0
    assert kept.due is None


def test_far_end_that_asks_again_and_again_gets_no_more_than_that():
    kept = kept_since_a_question()
    kept.keep(cut(7, 5), EACH, 0.0)
    answers = [kept.again(nack(7, 1), 0.0)[0] for _ in range(MOST_ASKS + 3)]
    assert [bool(answer) for answer in answers] == [True] * MOST_ASKS + [False] * 3


def test_larger_datagrams_than_the_path_takes_now_are_not_sent_again(lossy):
    pair = lossy()
    lose(pair, 3)
    pair.near.post(message(1), message(2))
    pair.near.hop.refused(1_472, pair.net.now)
    assert pair.near.hop.datagram_bytes < 1_472
    pair.net.run(1)
    assert resent(pair) == []


def test_question_is_one_item_of_fifteen_bytes():
    assert nack(258, 0, 63).encode() == bytes.fromhex("07 000000000102 8000000000000001")
