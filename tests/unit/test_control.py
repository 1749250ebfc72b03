"""conflux/wire/control.py: Ask, Answer, Open and their envelope."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import MAX_CONTROL_BYTES, MAX_DESCRIPTION_BYTES, WireError
from conflux.wire.control import (
    MAX_AVOID,
    MAX_HANDSHAKE_BYTES,
    MAX_TEAM_TAGS,
    Answer,
    Ask,
    AuthLevel,
    Description,
    Kind,
    Open,
    Purpose,
    Target,
    TargetKind,
    envelope,
    read_envelope,
)
from conflux.wire.credentials import Certificate


def fixed(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=1, max_size=8).map(lambda b: (b * size)[:size])


def _interface(address: IPv4Address | IPv6Address) -> IPv4Interface | IPv6Interface:
    return ip_interface((address.packed, address.max_prefixlen - 8))


certificates = st.builds(
    Certificate,
    serial=st.integers(0, 2**64 - 1),
    conflux_id=fixed(16),
    plane_id=fixed(16),
    sign_public=fixed(1_952),
    kem_public=fixed(1_216),
    addresses=st.lists(st.ip_addresses().map(_interface), max_size=3).map(tuple),
    networks=st.lists(
        st.sampled_from([IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8")]), max_size=2
    ).map(tuple),
    portal=st.booleans(),
    not_before=st.integers(0, 2**64 - 1),
    not_after=st.integers(0, 2**64 - 1),
    signature=fixed(3_309),
)
targets = st.one_of(
    st.builds(Target, st.just(TargetKind.ADDRESS), st.one_of(fixed(4), fixed(16))),
    st.builds(Target, st.just(TargetKind.NODE), fixed(32)),
    st.just(Target(TargetKind.ANY_RELAY)),
)
descriptions = st.builds(
    Description, st.text(max_size=10), st.binary(max_size=MAX_DESCRIPTION_BYTES)
)
asks = st.builds(
    Ask,
    nonce=fixed(16),
    time_ms=st.integers(0, 2**64 - 1),
    purpose=st.sampled_from(list(Purpose)),
    target=targets,
    certificate=certificates,
    kem_public=fixed(1_216),
    suites=st.lists(st.integers(0, 65_535), max_size=5),
    auth_level=st.sampled_from(list(AuthLevel)),
    features=st.integers(0, 2**32 - 1),
    tether_kinds=st.lists(st.text(max_size=12), max_size=4),
    avoid=st.lists(fixed(32), max_size=MAX_AVOID),
    team_tags=st.lists(fixed(16), min_size=8, max_size=8),
)
answers = st.builds(
    Answer,
    ask_hash=fixed(32),
    suite=st.integers(0, 65_535),
    auth_level=st.sampled_from(list(AuthLevel)),
    features=st.integers(0, 2**32 - 1),
    certificate=certificates,
    kem_public=fixed(1_216),
    random=fixed(32),
    team_tags=st.lists(fixed(16), max_size=4),
    mac=fixed(32),
    tether=descriptions,
    signature=fixed(3_309),
)
opens = st.builds(
    Open, answer_hash=fixed(32), random=fixed(32), tether=descriptions, signature=fixed(3_309)
)


@given(asks)
def test_ask_reads_back(ask):
    assert Ask.decode(ask.encode()) == ask


@given(answers)
def test_answer_reads_back(answer):
    assert Answer.decode(answer.encode()) == answer


@given(opens)
def test_open_reads_back(opening):
    assert Open.decode(opening.encode()) == opening


@given(asks, answers, opens, st.data())
def test_every_cut_and_every_tail_is_refused(ask, answer, opening, data):
    message = data.draw(st.sampled_from([ask, answer, opening]))
    encoded = message.encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(WireError):
        type(message).decode(encoded[:cut])
    with pytest.raises(WireError):
        type(message).decode(encoded + b"\0")


@given(asks, answers, opens, st.data())
def test_a_changed_byte_gives_wire_error_or_what_was_written(ask, answer, opening, data):
    message = data.draw(st.sampled_from([ask, answer, opening]))
    encoded = bytearray(message.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = type(message).decode(encoded)
    except WireError:
        return
    assert again.encode() == encoded


@given(st.binary(max_size=600), st.sampled_from([Ask, Answer, Open]))
def test_noise_gives_wire_error_and_nothing_else(noise, kind):
    with pytest.raises(WireError):
        kind.decode(noise)


@given(asks)
def test_core_does_not_hold_the_tags_that_prove_it(ask):
    assert replace(ask, team_tags=[b"x" * 16] * 8).core() == ask.core()


@given(asks, st.integers(1, 7))
def test_tags_that_are_not_padded_to_eight_are_refused(ask, count):
    with pytest.raises(WireError, match="padded"):
        Ask.decode(replace(ask, team_tags=[b"x" * 16] * count).encode())


@given(asks)
def test_too_many_tags_or_nodes_to_avoid_are_refused(ask):
    for changes in (
        {"team_tags": [b"x" * 16] * (MAX_TEAM_TAGS + 8)},
        {"avoid": [b"x" * 32] * (MAX_AVOID + 1)},
    ):
        with pytest.raises(WireError):
            Ask.decode(replace(ask, **changes).encode())


@pytest.mark.parametrize(
    "target",
    [
        Target(TargetKind.ADDRESS, b"12345"),
        Target(TargetKind.NODE, b"1234"),
        Target(TargetKind.ANY_RELAY, b"x"),
    ],
)
@given(ask=asks)
def test_targets_of_a_wrong_length_are_refused(target, ask):
    with pytest.raises(WireError, match="length"):
        Ask.decode(replace(ask, target=target).encode())


@given(st.sampled_from(list(Kind)), st.binary(max_size=99))
def test_envelope_reads_back(kind, body):
    assert read_envelope(envelope(kind, body)) == (kind, body)


@given(st.binary(max_size=10))
def test_noise_for_the_envelope_gives_wire_error_and_nothing_else(noise):
    try:
        kind, body = read_envelope(noise)
    except WireError:
        return
    assert envelope(kind, body) == noise


@pytest.mark.parametrize(
    ("kind", "limit"), [(Kind.ASK, MAX_HANDSHAKE_BYTES), (Kind.GRANT, MAX_CONTROL_BYTES)]
)
def test_messages_over_their_limit_are_refused(kind, limit):
    assert read_envelope(envelope(kind, bytes(limit - 2)))[0] is kind
    with pytest.raises(WireError, match="too large"):
        read_envelope(envelope(kind, bytes(limit - 1)))
