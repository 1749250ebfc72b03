"""The Internet checksum is what RFC 1071 says, word by word."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from conflux.wire.checksum import checksum, pseudo_header_sum


def word_by_word(data, initial):
    """RFC 1071 §4.1, written out."""
    total = initial
    for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) % 2)):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=200), st.integers(0, 2**20))
def test_it_is_the_one_complement_of_the_sum_of_all_words(data, initial):
    assert checksum(data, initial) == word_by_word(data, initial)


@given(st.integers(0, 40), st.sampled_from([b"\xff", b"\x00"]))
def test_nothing_but_ones_is_not_taken_for_nothing(words, byte):
    data = byte * 2 * words
    assert checksum(data) == word_by_word(data, 0)


def test_the_example_of_the_rfc():
    """RFC 1071 §3: the sum of these bytes is ddf2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


@given(st.binary(max_size=100).filter(lambda data: len(data) % 2 == 0))
def test_what_carries_its_own_checksum_sums_up_to_zero(data):
    assert checksum(data + struct.pack(">H", checksum(data))) == 0


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.binary())
def test_the_pseudo_header_counts_as_if_it_stood_before_the_segment(source, destination, segment):
    header = source + destination + struct.pack(">II", len(segment), 17)
    initial = pseudo_header_sum(source, destination, 17, len(segment))
    assert checksum(segment, initial) == word_by_word(header + segment, 0)
