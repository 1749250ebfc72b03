"""Planes: which ranges make one, and which address a conflux gets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet_guardian.errors import Conflict, Invalid
from veilnet_guardian.models import Plane
from veilnet_guardian.planes import next_free, parse_range, parse_wanted


def plane(cidr: str) -> Plane:
    return Plane(name="home", cidr=cidr)


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
    assert parse_wanted(wanted, plane("10.8.0.0/24")) == ip_address("10.8.0.9")


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
    ],
)
def test_impossible_wanted_address_says_what_to_take(cidr: str, wanted: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        parse_wanted(wanted, plane(cidr))


@pytest.mark.parametrize("cidr", ["10.8.0.0/24", "fd00:8::/64", " 192.168.4.0/30"])
def test_private_ranges_make_a_plane(cidr: str) -> None:
    assert str(parse_range(cidr)) == cidr.strip()


@pytest.mark.parametrize(
    "cidr",
    [
        *("", "home", "10.8.0.1/24", "10.8.0.0/33", "10.8.0.0", "10.8.0.0/-1"),
        *("224.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0"),
        *("::/0", "fe80::/64", "::1/128"),
    ],
)
def test_useless_ranges_make_no_plane(cidr: str) -> None:
    with pytest.raises(Invalid, match=r"write it like|take a private range"):
        parse_range(cidr)
