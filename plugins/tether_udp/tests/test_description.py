"""Descriptions come from outside: they are read strictly, and what they may say is narrow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conflux.api import MAX_DESCRIPTION_BYTES, WireError
from conflux_tether_udp.description import (
    MAX_CANDIDATES,
    Candidate,
    CandidateType,
    Description,
    Kind,
    decode,
    is_unicast,
)
from conflux_tether_udp.reach import Reach

addresses = (
    st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
).filter(is_unicast)

candidates = st.builds(Candidate, st.sampled_from(CandidateType), addresses, st.integers(1, 65_535))

descriptions = st.builds(
    Description,
    kind=st.sampled_from(Kind),
    id=st.binary(min_size=8, max_size=8).map(lambda id_: bytes((id_[0] | 0x80,)) + id_[1:]),
    candidates=st.lists(candidates, max_size=MAX_CANDIDATES).map(tuple),
)

GOOD = Description(
    kind=Kind.OFFER,
    id=b"\x80-an-id-",
    candidates=(Candidate(CandidateType.HOST, IPv4Address("192.0.2.1"), 4_000),),
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
    bad = whole[: -len(b"vaaaapp")] + version + packed + b"\x0f\xa0"
    with pytest.raises(WireError, match="reached"):
        decode(bad, Kind.OFFER)


def test_port_zero_and_too_many_candidates_are_wire_errors():
    whole = GOOD.encode()
    with pytest.raises(WireError, match="reached"):
        decode(whole[:-2] + bytes(2), Kind.OFFER)
    head, candidate = whole[:10], whole[11:]
    most = head + bytes((MAX_CANDIDATES,)) + candidate * MAX_CANDIDATES
    assert len(decode(most, Kind.OFFER).candidates) == MAX_CANDIDATES
    more = MAX_CANDIDATES + 1
    with pytest.raises(WireError, match="too many"):
        decode(head + bytes((more,)) + candidate * more, Kind.OFFER)


def test_id_that_looks_like_stun_is_a_wire_error():
    with pytest.raises(WireError, match="id"):
        decode(GOOD.encode().replace(GOOD.id, b"\x01" + GOOD.id[1:]), Kind.OFFER)


def test_unknown_version_type_and_family_are_wire_errors():
    whole = bytearray(GOOD.encode())
    for at, value in ((0, 2), (1, 3), (11, 2), (12, 5)):
        bad = whole.copy()
        bad[at] = value
        with pytest.raises(WireError):
            decode(bytes(bad), Kind.OFFER)


def test_neither_our_own_loopback_nor_the_overlay_is_within_reach():
    overlay = ip_address("10.128.0.9")
    reach = Reach(is_overlay=lambda address: address == overlay)
    hosts = ["127.0.0.1", "127.8.8.8", "::1", "10.128.0.9", "198.51.100.7", "2001:db8::7"]
    usable = [host for host in hosts if reach.permits(ip_address(host))]
    assert usable == ["198.51.100.7", "2001:db8::7"]


def test_loopback_is_used_where_the_settings_say_so():
    reach = Reach(is_overlay=lambda address: False, allow_loopback=True)
    assert all(reach.permits(ip_address(host)) for host in ("127.0.0.1", "::1"))
