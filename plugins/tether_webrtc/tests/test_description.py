"""Descriptions come from outside: they are read strictly, and what they may say is narrow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conflux.api import MAX_DESCRIPTION_BYTES, WireError
from conflux_tether_webrtc.description import (
    MAX_CANDIDATES,
    CandidateType,
    Description,
    Endpoint,
    Kind,
    decode,
    is_unicast,
)
from conflux_tether_webrtc.ice import Reach, remote_candidates

ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

addresses = (
    st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
).filter(is_unicast)

endpoints = st.builds(
    Endpoint,
    st.sampled_from(CandidateType),
    st.integers(0, 2**32 - 1),
    addresses,
    st.integers(1, 65_535),
)

descriptions = st.builds(
    Description,
    kind=st.sampled_from(Kind),
    ufrag=st.text(ICE_CHARS, min_size=4, max_size=64),
    password=st.text(ICE_CHARS, min_size=22, max_size=128),
    fingerprint=st.binary(min_size=32, max_size=32),
    candidates=st.lists(endpoints, max_size=MAX_CANDIDATES).map(tuple),
)

GOOD = Description(
    kind=Kind.OFFER,
    ufrag="abcd",
    password="p" * 22,
    fingerprint=bytes(32),
    candidates=(Endpoint(CandidateType.HOST, 1, IPv4Address("192.0.2.1"), 4_000),),
)

NOBODYS = [
    "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "fe80::1",
]  # fmt: skip


@given(descriptions)
def test_what_is_written_is_read(description):
    data = description.encode()
    assert len(data) <= MAX_DESCRIPTION_BYTES
    assert decode(data, description.kind) == description


@given(st.binary(max_size=600))
@example(b"")
@example(bytes(MAX_DESCRIPTION_BYTES + 1))
def test_noise_is_a_wire_error(data):
    with pytest.raises(WireError):
        decode(data, Kind.OFFER)


@given(descriptions, st.data())
def test_damage_is_a_wire_error_or_another_description(description, data):
    bad = bytearray(description.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(bad), description.kind)
    except WireError:
        return
    assert read.encode() == bytes(bad)


@given(descriptions, st.data())
def test_every_cut_and_every_tail_is_a_wire_error(description, data):
    whole = description.encode()
    with pytest.raises(WireError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], description.kind)
    with pytest.raises(WireError):
        decode(whole + data.draw(st.binary(min_size=1, max_size=8)), description.kind)


def test_an_offer_is_no_answer():
    with pytest.raises(WireError, match="kind"):
        decode(GOOD.encode(), Kind.ANSWER)


@pytest.mark.parametrize("address", NOBODYS)
def test_address_that_is_no_single_hosts_is_a_wire_error(address):
    packed = ip_address(address).packed
    version = bytes([4 if len(packed) == 4 else 6])
    whole = GOOD.encode()
    bad = whole[: -len(b"4aaaapp")] + version + packed + b"\x0f\xa0"
    with pytest.raises(WireError, match="reached"):
        decode(bad, Kind.OFFER)


def test_port_zero_and_too_many_candidates_are_wire_errors():
    whole = GOOD.encode()
    with pytest.raises(WireError, match="reached"):
        decode(whole[:-2] + bytes(2), Kind.OFFER)
    candidate = whole[-12:]
    at = len(whole) - 13
    for count, error in ((MAX_CANDIDATES, None), (MAX_CANDIDATES + 1, "too many")):
        data = whole[:at] + bytes([count]) + candidate * count
        if error is None:
            assert len(decode(data, Kind.OFFER).candidates) == count
        else:
            with pytest.raises(WireError, match=error):
                decode(data, Kind.OFFER)


def told(*hosts):
    return [
        Endpoint(CandidateType.HOST, index, ip_address(host), 4_000)
        for index, host in enumerate(hosts)
    ]


def test_a_neighbour_cannot_send_us_to_our_own_loopback_nor_into_the_overlay():
    overlay = ip_address("10.128.0.9")
    reach = Reach(is_overlay=lambda address: address == overlay)
    far = told("127.0.0.1", "127.8.8.8", "::1", "10.128.0.9", "198.51.100.7", "2001:db8::7")
    usable = [candidate.host for candidate in remote_candidates(far, reach)]
    assert usable == ["198.51.100.7", "2001:db8::7"]


def test_loopback_is_used_where_the_settings_say_so():
    reach = Reach(is_overlay=lambda address: False, allow_loopback=True)
    assert [c.host for c in remote_candidates(told("127.0.0.1", "::1"), reach)] == [
        "127.0.0.1",
        "::1",
    ]
