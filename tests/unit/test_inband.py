"""conflux/wire/inband.py: every message reads back, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.wire.inband import (
    Flood,
    LabelUnknown,
    Reason,
    Setup,
    SetupFailed,
    SetupOk,
    Teardown,
    decode,
)

route_ids = st.binary(min_size=16, max_size=16)
labels = st.integers(0, 2**32 - 1)
paths = st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=6, unique=True)
reasons = st.sampled_from(list(Reason))
messages = st.one_of(
    st.builds(Setup, route_ids, st.integers(0, 65_535), paths),
    st.builds(SetupOk, route_ids, labels, st.lists(labels, max_size=4)),
    st.builds(SetupFailed, route_ids, reasons),
    st.builds(Teardown, route_ids, reasons),
    st.builds(LabelUnknown, labels),
    st.builds(
        Flood, route_ids, st.integers(0, 4), route_ids, route_ids, st.binary(max_size=16_000)
    ),
)


@given(messages)
def test_what_is_encoded_decodes_to_the_same(message):
    assert decode(message.encode()) == message


@given(messages, st.data())
def test_every_cut_and_every_tail_is_refused(message, data):
    encoded = message.encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(WireError):
        decode(encoded[:cut])
    with pytest.raises(WireError):
        decode(encoded + b"\0")


@given(st.binary(max_size=300))
def test_noise_gives_wire_error_or_a_message_of_the_same_bytes(noise):
    try:
        message = decode(noise)
    except WireError:
        return
    assert message.encode() == noise


@pytest.mark.parametrize(
    "path",
    [[b"a" * 32], [b"a" * 32, b"b" * 32, b"a" * 32], [bytes([n]) * 32 for n in range(7)]],
)
def test_paths_too_short_too_long_or_with_a_loop_are_refused(path):
    with pytest.raises(WireError):
        decode(Setup(b"r" * 16, 90, path).encode())


def test_a_flood_that_no_lane_could_pass_on_is_refused():
    with pytest.raises(WireError):
        decode(Flood(bytes(16), 4, bytes(16), bytes(16), bytes(17_000)).encode())
