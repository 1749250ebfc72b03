"""conflux/wire/inband.py: every message reads back, everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.wire.inband import (
    Flood,
    Found,
    LabelUnknown,
    Reason,
    Seek,
    Setup,
    SetupFailed,
    SetupOk,
    Teardown,
    decode,
)

route_ids = st.binary(min_size=16, max_size=16)
labels = st.integers(0, 2**32 - 1)
nodes = st.binary(min_size=32, max_size=32)
paths = st.lists(nodes, min_size=2, max_size=6, unique=True)
reasons = st.sampled_from(list(Reason))


@st.composite
def seeks(draw):
    target, *path = draw(st.lists(nodes, min_size=2, max_size=6, unique=True))
    left = draw(st.integers(0, 5 - len(path)))
    avoid = draw(st.lists(nodes, max_size=16, unique=True))
    return Seek(draw(route_ids), left, target, path, avoid)


messages = st.one_of(
    st.builds(Setup, route_ids, st.integers(0, 65_535), paths),
    st.builds(SetupOk, route_ids, labels, st.lists(labels, max_size=4)),
    st.builds(SetupFailed, route_ids, reasons),
    st.builds(Teardown, route_ids, reasons),
    st.builds(LabelUnknown, labels),
    st.builds(
        Flood, route_ids, st.integers(0, 4), route_ids, route_ids, st.binary(max_size=16_000)
    ),
    seeks(),
    st.builds(Found, route_ids, st.lists(nodes, min_size=3, max_size=6, unique=True)),
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


NODES = [bytes([n]) * 32 for n in range(20)]


@pytest.mark.parametrize(
    "message",
    [
        Seek(bytes(16), 5, NODES[0], NODES[1:2]),
        Seek(bytes(16), 3, NODES[0], NODES[1:4]),
        Seek(bytes(16), 0, NODES[0], NODES[1:7]),
        Seek(bytes(16), 4, NODES[0], []),
        Seek(bytes(16), 1, NODES[0], [NODES[1], NODES[2], NODES[1]]),
        Seek(bytes(16), 1, NODES[1], NODES[1:3]),
        Seek(bytes(16), 1, NODES[0], NODES[1:3], NODES[3:20]),
        Seek(bytes(16), 1, NODES[0], NODES[1:3], [NODES[4], NODES[4]]),
        Found(bytes(16), NODES[:2]),
        Found(bytes(16), NODES[:7]),
        Found(bytes(16), [NODES[0], NODES[1], NODES[0]]),
    ],
)
def test_seeks_and_answers_that_no_route_could_follow_are_refused(message):
    with pytest.raises(WireError):
        decode(message.encode())
