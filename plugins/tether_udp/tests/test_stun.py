"""STUN Binding: RFC 5769's answers are read, everything else is refused."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import IceServer, Unavailable, WireError
from conflux_tether_udp import stun

# RFC 5769 §2.2 and §2.3 (sample responses).
RFC5769_IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RFC5769_IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def test_published_answers_are_read():
    for answer, address in (
        (RFC5769_IPV4, "192.0.2.1"),
        (RFC5769_IPV6, "2001:db8:1234:5678:11:2233:4455:6677"),
    ):
        assert stun.transaction_of(answer) == TRANSACTION
        assert stun.mapped_address(answer) == (ip_address(address), 32_853)


def test_request_is_a_binding_request_without_attributes():
    request = stun.request(TRANSACTION)
    assert request == bytes.fromhex("000100002112a442") + TRANSACTION
    assert stun.transaction_of(request) is None, "a reflected request is no answer"


@given(st.binary(max_size=120))
def test_noise_is_no_answer(data):
    transaction = stun.transaction_of(data)
    assert transaction is None or len(transaction) == 12


@given(st.binary(max_size=120))
def test_attributes_of_any_kind_give_an_address_or_a_wire_error(body):
    answer = struct.pack("!HH", 0x0101, len(body)) + stun.MAGIC + TRANSACTION + body
    assert stun.transaction_of(answer) == TRANSACTION
    try:
        address, port = stun.mapped_address(answer)
    except WireError:
        return
    assert address.version in (4, 6)
    assert 0 <= port < 65_536


@pytest.mark.parametrize("at", range(24, len(RFC5769_IPV4), 4))
def test_answer_that_is_cut_short_is_refused(at):
    assert stun.transaction_of(RFC5769_IPV4[:at]) is None


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("stun:stun.example.org", ("stun.example.org", 3_478)),
        ("stun:192.0.2.7:19302", ("192.0.2.7", 19_302)),
        ("stun:[2001:db8::1]:3479", ("2001:db8::1", 3_479)),
        ("turn:turn.example.org:3478?transport=udp", ("turn.example.org", 3_478)),
        ("turn:turn.example.org?transport=tcp", None),
        ("turns:turn.example.org", None),
        ("stuns:stun.example.org:5349", None),
    ],
)
def test_servers_that_answer_over_udp_are_asked(url, server):
    found = stun.server(IceServer(url=url))
    assert (None if found is None else (found.host, found.port)) == server


@pytest.mark.parametrize(
    "url",
    ["", "stun:", "http://x", "stun:a:0", "stun:a:65536", "stun:a b", "stun:a:1:2", "stun:[x"],
)
def test_server_that_cannot_be_read_says_so(url):
    with pytest.raises(Unavailable, match="cannot be used"):
        stun.server(IceServer(url=url))
