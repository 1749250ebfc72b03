"""Keys that this code holds in buffers of its own are gone when they are of no use any more."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor import handshake, sessions, stream
from conflux.anchor.handshake import Secrets, StreamKeys
from conflux.anchor.identity import Identity
from conflux.anchor.seal import hkdf_expand, hkdf_expand_into, wipe
from conflux.anchor.stream import InStream, OutStream, Spent
from conflux.api import WireError
from conflux.testing.fakes import FakeCrypto
from conflux.testing.simnet import SimNetwork
from conflux.wire.frame import HEADER_BYTES

KEY, IV = bytes(range(32)), bytes(range(12))
PLAIN = b"\x00a superframe"


def own_keys() -> StreamKeys:
    return StreamKeys(bytearray(KEY), bytearray(IV), 7)


def test_wiping_overwrites_the_buffer_where_it_stands():
    buffer = bytearray(KEY)
    view = memoryview(buffer)  # whoever else looks at it sees zeros, too
    wipe(buffer)
    assert bytes(view) == bytes(32)


def test_expanding_into_a_buffer_is_the_same_as_expanding():
    for size in (12, 32, 64):
        out = bytearray(size)
        hkdf_expand_into(KEY, b"label", out)
        assert bytes(out) == hkdf_expand(KEY, b"label", size)


def test_streams_go_on_after_their_keys_buffers_are_wiped():
    """OpenSSL has its own copy: were it read from the buffer again, the key would be zeros."""
    assert stream._COPIES_ITS_KEY, "streams work all the same, but their keys cannot be wiped"
    ours, theirs = own_keys(), own_keys()
    out, inbound = OutStream(ours, now=0.0), InStream(theirs, None)
    for keys in (ours, theirs):
        keys.erase()
        assert (keys.key, keys.iv) == (bytes(32), bytes(12))
    frame = out.seal(memoryview(PLAIN), now=0.0)
    nonce = (int.from_bytes(IV, "big") ^ 1).to_bytes(12, "big")
    sealed, header = bytes(frame[HEADER_BYTES:]), bytes(frame[8:HEADER_BYTES])
    assert AESGCM(KEY).decrypt(nonce, sealed, header) == PLAIN
    room = memoryview(bytearray(100))
    assert inbound.open(memoryview(frame), 1, room) == PLAIN


def test_streams_do_not_depend_on_a_library_that_copies_keys(monkeypatch):
    monkeypatch.setattr(stream, "_COPIES_ITS_KEY", False)
    keys = own_keys()
    out = OutStream(keys, now=0.0)
    keys.erase()
    frame = out.seal(memoryview(PLAIN), now=0.0)
    nonce = (int.from_bytes(IV, "big") ^ 1).to_bytes(12, "big")
    sealed, header = bytes(frame[HEADER_BYTES:]), bytes(frame[8:HEADER_BYTES])
    assert AESGCM(KEY).decrypt(nonce, sealed, header) == PLAIN


def test_an_erased_stream_seals_and_opens_nothing():
    out, inbound = OutStream(own_keys(), now=0.0), InStream(own_keys(), None)
    frame = out.seal(memoryview(PLAIN), now=0.0)
    room = memoryview(bytearray(100))
    for one in (out, inbound):
        one.erase()
        one.erase()
    with pytest.raises(Spent):
        out.seal(memoryview(PLAIN), now=0.0)
    with pytest.raises(WireError):
        inbound.open(memoryview(frame), 1, room)


@pytest.fixture
def made(monkeypatch) -> list[Secrets]:
    """The secrets of every handshake, as they are handed over."""
    kept: list[Secrets] = []
    genuine = sessions.Sessions.established

    def established(self, done, now):
        kept.append(done.secrets)
        assert any(done.secrets.ask_to_answer.key)
        genuine(self, done, now)

    monkeypatch.setattr(sessions.Sessions, "established", established)
    return kept


def buffers(made: list[Secrets]) -> list[bytes]:
    pairs = [(secrets.ask_to_answer, secrets.answer_to_ask) for secrets in made]
    return [bytes(part) for pair in pairs for keys in pair for part in (keys.key, keys.iv)]


def test_the_keys_of_a_handshake_are_wiped_at_both_ends_once_its_streams_are_made(made):
    network = SimNetwork(seed=1)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    ping = left.ping(right)
    network.run(200)  # a rekey, too
    for _ in range(60):
        ping = left.ping(right)
        network.run(1)
    assert ping.answers == 1
    assert len(made) >= 4
    assert not any(map(any, buffers(made)))


def test_the_keys_of_a_handshake_that_came_too_late_are_wiped_too(monkeypatch):
    kept: list[Secrets] = []
    genuine = sessions.Sessions.admit
    monkeypatch.setattr(
        sessions.Sessions,
        "admit",
        lambda self, done, now: kept.append(done.secrets) or genuine(self, done, now),
    )
    refused = 0
    for step in range(20):
        network = SimNetwork(seed=2)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        for node in (left, right):
            node.deferred_s = 0.05
        left.ping(right)
        network.run(0.02 * step)
        network.guardian.detach("left", "ops")
        network.run(5)
        refused += sum(n.anchor.counters["team_changed_meanwhile"] for n in (left, right))
    assert refused > 0
    assert not any(map(any, buffers(kept)))


def test_keys_that_were_made_while_the_handshake_was_forgotten_are_wiped_too(monkeypatch):
    """In a thread they are made; before they are handed over, the node drops all it has."""
    kept: list[Secrets] = []
    genuine = handshake._derive
    monkeypatch.setattr(handshake, "_derive", lambda *args: kept.append(genuine(*args)) or kept[-1])
    for step in range(1, 30):
        network = SimNetwork(seed=2)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        for node in (left, right):
            node.deferred_s = 0.05
        left.ping(right)
        network.run(0.01 * step)
        for node in (left, right):
            node.anchor.drop_keys(now=network.now())
        network.run(20)
    assert kept
    assert not any(map(any, buffers(kept)))


def test_closed_sessions_let_go_of_their_keys_at_once():
    """Sessions and their streams hold each other: the collector would come at some time."""
    network = SimNetwork(seed=3)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    left.ping(right)
    network.run(1)
    session = left.anchor.sessions[right.node_id]
    frame = right.anchor.sessions[left.node_id].out.seal(memoryview(PLAIN), now=network.now())
    left.anchor.drop_keys(now=network.now())
    with pytest.raises(Spent):
        session.out.seal(memoryview(PLAIN), now=network.now())
    counter = int.from_bytes(frame[16:24], "big")
    with pytest.raises(WireError):
        session.inbound.open(memoryview(frame), counter, memoryview(bytearray(100)))


def test_an_erased_identity_opens_nothing():
    identity = Identity(FakeCrypto({"seed": 1}), lambda size: bytes(range(size)))
    identity.erase()
    with pytest.raises(ValueError, match="erased"):
        identity.kem.decapsulate(bytes(1_120))
