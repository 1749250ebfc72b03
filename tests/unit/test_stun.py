"""STUN as netcheck speaks it, held to the codec of the UDP tether, which knows nothing of it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import WireError
from conflux.checks import nat
from conflux.wire import stun
from conflux_tether_udp import stun as tether_stun

TRANSACTION = bytes(range(12))
MAGIC = 0x2112A442


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def answer(*attributes: bytes, kind: int = 0x0101, transaction: bytes = TRANSACTION) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI", kind, len(body), MAGIC) + transaction + body


def address(value: str, port: int, mask: bytes) -> bytes:
    found = ip_address(value)
    packed = bytes(a ^ b for a, b in zip(found.packed, mask, strict=False))
    family = 1 if found.version == 4 else 2
    return struct.pack("!BBH", 0, family, port ^ int.from_bytes(mask[:2], "big")) + packed


MASK = MAGIC.to_bytes(4, "big") + TRANSACTION


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_answer_is_read_as_the_tether_reads_it(host):
    datagram = answer(
        attribute(0x8022, b"abc"),
        attribute(0x0020, address(host, 4_000, MASK)),
        attribute(0x802C, address("198.51.100.9", 3_479, bytes(16))),
    )
    found = stun.answer(datagram, TRANSACTION)
    assert found is not None
    assert found.mapped == tether_stun.mapped_address(datagram) == (ip_address(host), 4_000)
    assert found.other == (IPv4Address("198.51.100.9"), 3_479)


def test_request_is_the_tethers_own_if_nothing_else_is_asked():
    assert stun.request(TRANSACTION) == tether_stun.request(TRANSACTION)


@given(st.integers(5, 370).map(lambda words: words * 4), st.booleans(), st.booleans())
def test_request_has_the_size_that_is_asked_for(size, change_ip, change_port):
    request = stun.request(TRANSACTION, change_ip=change_ip, change_port=change_port, size=size)
    least = 28 if change_ip or change_port else 20
    assert len(request) == max(size, least)
    assert struct.unpack_from("!H", request, 2)[0] == len(request) - 20
    assert request[8:20] == TRANSACTION


def test_request_to_answer_from_elsewhere_says_so():
    request = stun.request(TRANSACTION, change_ip=True, change_port=True)
    assert request[20:] == bytes.fromhex("0003 0004 00000006")
    assert stun.request(TRANSACTION, change_port=True)[20:] == bytes.fromhex("0003 0004 00000002")


def test_what_answers_another_question_is_no_answer():
    assert stun.answer(answer(transaction=bytes(12)), TRANSACTION) is None
    assert stun.answer(answer(kind=0x0001), TRANSACTION) is None
    assert stun.answer(b"", TRANSACTION) is None


def test_error_is_an_answer_without_an_address():
    found = stun.answer(answer(attribute(0x0009, b"\0\0\4\24"), kind=0x0111), TRANSACTION)
    assert found == stun.Answer(is_success=False)


@given(st.binary(max_size=80))
def test_noise_behind_a_good_header_is_read_or_refused(noise):
    datagram = struct.pack("!HHI", 0x0101, len(noise), MAGIC) + TRANSACTION + noise
    try:
        found = stun.answer(datagram, TRANSACTION)
    except WireError:
        return
    assert found is not None
    assert found.mapped is None or isinstance(found.mapped[0], IPv4Address | IPv6Address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stun.example.org", ("stun.example.org", 3_478)),
        ("stun.example.org:5000", ("stun.example.org", 5_000)),
        ("stun:192.0.2.1:5000", ("192.0.2.1", 5_000)),
        ("turn:example.org?transport=udp", ("example.org", 3_478)),
        ("[2001:db8::1]:5000", ("2001:db8::1", 5_000)),
    ],
)
def test_names_of_servers_are_read(text, expected):
    assert nat.server(text) == expected


@pytest.mark.parametrize("text", ["", "a b", "host:0", "host:65536", "http://x", "turns:x"])
def test_other_names_are_refused(text):
    with pytest.raises(Exception, match="is no STUN server: write HOST:PORT"):
        nat.server(text)
