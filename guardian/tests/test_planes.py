"""Planes: which ranges make one, and which address a conflux gets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet_guardian.errors import Conflict, Invalid
from veilnet_guardian.models import Plane
from veilnet_guardian.planes import next_free, parse_ranges, parse_wanted


def plane(cidr: str) -> Plane:
    ranges = {network.version: str(network) for network in parse_ranges(cidr)}
    return Plane(name="home", cidr4=ranges.get(4), cidr6=ranges.get(6))


@given(data=st.data(), prefix=st.integers(min_value=24, max_value=32))
def test_next_free_is_the_lowest_host_address_that_nobody_has(
    data: st.DataObject, prefix: int
) -> None:
    network = ip_network(f"10.8.0.0/{prefix}")
    taken = data.draw(st.sets(st.sampled_from(list(network))))
    free = [host for host in network.hosts() if host not in taken]
    if free:
        assert next_free(network, taken) == free[0]
    else:
        with pytest.raises(Conflict, match="is taken: unregister a conflux first"):
            next_free(network, taken)


@pytest.mark.parametrize(
    ("cidr", "first"),
    [
        ("10.8.0.0/30", "10.8.0.1"),
        ("10.8.0.0/31", "10.8.0.0"),
        ("10.8.0.7/32", "10.8.0.7"),
        ("fd00:8::/64", "fd00:8::1"),
        ("fd00:8::/127", "fd00:8::"),
    ],
)
def test_first_address_of_a_plane(cidr: str, first: str) -> None:
    assert next_free(ip_network(cidr), []) == ip_address(first)


@pytest.mark.parametrize("wanted", ["10.8.0.9", "10.8.0.9/24", "10.8.0.9/32", " 10.8.0.9 "])
def test_wanted_address_comes_with_or_without_a_prefix(wanted: str) -> None:
    found = parse_wanted(wanted, plane("10.8.0.0/24"))
    assert found == {ip_network("10.8.0.0/24"): ip_address("10.8.0.9")}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("10.8.0.9,fd00:8::9", ["10.8.0.9", "fd00:8::9"]),
        ("fd00:8::9/64, 10.8.0.9/24", ["fd00:8::9", "10.8.0.9"]),
        ("fd00:8::9", ["fd00:8::9"]),
        ("10.8.0.9", ["10.8.0.9"]),
        ("", []),
    ],
)
def test_one_address_of_each_range_can_be_wanted(wanted: str, found: list[str]) -> None:
    addresses = parse_wanted(wanted, plane("10.8.0.0/24,fd00:8::/64"))
    assert list(map(str, addresses.values())) == found
    assert all(address in network for network, address in addresses.items())


@pytest.mark.parametrize(
    ("cidr", "wanted", "reason"),
    [
        ("10.8.0.0/24", "10.9.0.1", "10.9.0.1 is outside plane home: take an address of 10.8.0.0"),
        ("10.8.0.0/24", "fd00::1", "outside plane home"),
        ("10.8.0.0/24", "10.8.0.0", "network or broadcast address"),
        ("10.8.0.0/24", "10.8.0.255/24", "network or broadcast address"),
        ("fd00:8::/64", "fd00:8::", "network or broadcast address"),
        ("10.8.0.0/24", "ten", "is not an address: take one of plane home"),
        ("10.8.0.0/24", "10.8.0.300", "is not an address"),
        ("10.8.0.0/24", "10.8.0.9,10.8.0.10", "has two addresses of 10.8.0.0/24: ask for one"),
        ("10.8.0.0/24", "10.8.0.9,fd00::1", "fd00::1 is outside plane home"),
        ("10.8.0.0/24", "10.8.0.9,", "'' is not an address"),
        ("10.8.0.0/24,fd00:8::/64", "fd00:9::1", "take an address of 10.8.0.0/24,fd00:8::/64"),
        ("10.8.0.0/24,fd00:8::/64", "fd00:8::", "address of fd00:8::/64: take another"),
    ],
)
def test_impossible_wanted_address_says_what_to_take(cidr: str, wanted: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        parse_wanted(wanted, plane(cidr))


@pytest.mark.parametrize("cidr", ["10.8.0.0/24", "fd00:8::/64", "192.168.4.0/30,fd00:8::/64"])
def test_private_ranges_make_a_plane(cidr: str) -> None:
    assert plane(cidr).cidr == cidr


@pytest.mark.parametrize("cidr", ["fd00:8::/64,10.8.0.0/24", " 10.8.0.0/24 , fd00:8::/64 "])
def test_order_and_blanks_of_two_ranges_do_not_matter(cidr: str) -> None:
    assert plane(cidr).cidr == "10.8.0.0/24,fd00:8::/64"


@pytest.mark.parametrize("cidr", ["10.8.0.0/24,10.9.0.0/24", "fd00:8::/64,fd00:9::/64"])
def test_two_ranges_of_one_family_make_no_plane(cidr: str) -> None:
    with pytest.raises(Invalid, match="has two ranges of one family"):
        parse_ranges(cidr)


@pytest.mark.parametrize(
    "cidr",
    [
        *("", "home", "10.8.0.1/24", "10.8.0.0/33", "10.8.0.0", "10.8.0.0/-1"),
        *("224.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0"),
        *("::/0", "fe80::/64", "::1/128"),
        *("10.8.0.0/24,", ",", "10.8.0.0/24,fe80::/64", "10.8.0.0/24;fd00:8::/64"),
    ],
)
def test_useless_ranges_make_no_plane(cidr: str) -> None:
    with pytest.raises(Invalid, match=r"write it like|take a private range"):
        parse_ranges(cidr)
