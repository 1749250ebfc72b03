"""Datagrams on the wire: headers, pieces, and which of a batch belong together."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from conflux_tether_udp import keys
from conflux_tether_udp.datagram import (
    HEADER,
    HEADER_BYTES,
    MAX_PIECES,
    TAILS,
    Cutter,
    Kind,
    run_length,
    single,
    split_tail,
)

SECRET = bytes(range(32))
FAR_ID = b"\x80to-far-"


def sealer():
    return keys.derive(SECRET, is_offerer=True)[0]


def cut(message: bytes, piece_bytes: int, **how) -> list[bytes]:
    parts = Cutter().cut(how.get("sealer") or sealer(), FAR_ID, message, piece_bytes, 0.0)
    return [bytes(parts[i]) + bytes(parts[i + 1]) for i in range(0, len(parts), 2)]


@given(st.binary(max_size=65_535), st.integers(1_184, 65_491))
def test_what_is_cut_and_joined_opens(message, piece_bytes):
    datagrams = cut(message, piece_bytes)
    assert len(datagrams) == -(-(len(message) + 16) // piece_bytes) <= MAX_PIECES
    assert {len(data) for data in datagrams[:-1]} <= {piece_bytes + HEADER_BYTES}
    opener = keys.derive(SECRET, is_offerer=False)[1]
    sealed = b"".join(data[HEADER_BYTES:] for data in datagrams)
    out = memoryview(bytearray(65_536))
    assert opener.open_into(1, datagrams[0][:HEADER_BYTES], sealed, out, 0.0) == len(message)
    assert out[: len(message)] == message
    for at, data in enumerate(datagrams):
        receiver, high, low, first, last = HEADER.unpack_from(data)
        assert (receiver, high << 32 | low) == (FAR_ID, 1)
        assert (split_tail(first, last), last) == ((Kind.MESSAGE, at), len(datagrams) - 1)


def test_one_cutter_serves_messages_of_every_size_in_turn():
    cutter, chance = Cutter(), random.Random(1)
    seal, open_ = sealer(), keys.derive(SECRET, is_offerer=False)[1]
    out = memoryview(bytearray(65_536))
    for counter in range(1, 400):
        message = chance.randbytes(chance.choice([0, 1, 1_400, 9_000, 65_535]))
        parts = cutter.cut(seal, FAR_ID, message, chance.choice([1_184, 1_456, 8_956]), 0.0)
        sealed = b"".join(parts[1::2])
        assert open_.open_into(counter, parts[0], sealed, out, 0.0) == len(message)
        assert out[: len(message)] == message


def test_datagram_is_what_the_protocol_page_says():
    """docs/protocol/udp-tether.md §2 and §3, put together by hand."""
    extract = hmac.HMAC(bytes(32), hashes.SHA256())
    extract.update(SECRET)
    chain = expand(extract.finalize(), b"conflux udp 1 from offerer", 32)
    material = expand(chain, b"conflux udp 1 epoch", 76)
    key, iv = material[:32], int.from_bytes(material[32:44], "big")
    header = FAR_ID + (1).to_bytes(6, "big") + bytes((0, 0))
    nonce = (iv ^ 1).to_bytes(12, "big")
    assert cut(b"hello", 1_184) == [header + AESGCM(key).encrypt(nonce, b"hello", header)]


def test_worked_example_of_the_protocol_page():
    far_id = bytes.fromhex("8877665544332211")
    parts = Cutter().cut(sealer(), far_id, b"hello", 1_184, 0.0)
    assert [bytes(part).hex() for part in parts] == [
        "88776655443322110000000000010000",
        "29566ece77c50b92e9a378eebc734575fae700d6e7",
    ]


def expand(key: bytes, label: bytes, size: int) -> bytes:
    return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=label).derive(key)


@given(st.integers(0, 255), st.integers(0, 255))
def test_only_sensible_ends_of_headers_are_read(first, last):
    kind, index = split_tail(first, last)
    if kind == Kind.MESSAGE:
        assert first == index <= last < MAX_PIECES
    elif kind >= 0:
        assert (first, last, index) == (kind << 6, 0, 0)
    else:
        assert first >> 6 == 3 or first & 63 > last or last >= MAX_PIECES or first >= 64


@given(st.data())
def test_runs_are_neighbouring_pieces_of_one_message(data):
    """Batches of pieces of several messages, in any order, some twice: cut into true runs."""
    count = data.draw(st.integers(1, MAX_PIECES))
    headers = []
    while len(headers) < count:
        last = data.draw(st.integers(0, MAX_PIECES - 1))
        index = data.draw(st.integers(0, last))
        prefix = FAR_ID + data.draw(st.integers(1, 3)).to_bytes(6, "big")
        length = data.draw(st.integers(1, last + 1 - index))
        headers += [prefix + tail for tail in TAILS[last][index : index + length]]
    headers = headers[:count]
    whole = memoryview(b"".join(headers))
    at = 0
    while at < count:
        _, _, _, index, last = HEADER.unpack_from(whole, at * HEADER_BYTES)
        run = run_length(whole, at, count, index, last)
        assert run >= 1
        prefix = headers[at][:-2]
        assert headers[at : at + run] == [prefix + t for t in TAILS[last][index : index + run]]
        following = headers[at + run : at + run + 1]
        assert index + run > last or following != [prefix + TAILS[last][index + run]]
        at += run
    assert at == count


@pytest.mark.parametrize("kind", Kind)
def test_kind_is_authenticated(kind):
    datagram = single(sealer(), FAR_ID, kind, b"items", 0.0)
    out = memoryview(bytearray(100))
    for other in Kind:
        header = datagram[:14] + bytes((other << 6, 0))
        opener = keys.derive(SECRET, is_offerer=False)[1]
        size = opener.open_into(1, header, datagram[HEADER_BYTES:], out, 0.0)
        assert size == (5 if other is kind else -1)
