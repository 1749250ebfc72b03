"""New keys inside the stream: nothing lost, nobody asked."""

from __future__ import annotations

import gc

import pytest

from conflux.anchor import stream
from conflux.anchor.stream import MAX_KEY_AGE_S, REKEY_S, InStream, OutStream
from conflux.wire.control import Kind


def session_of(node, peer):
    return node.anchor.sessions[peer.node_id]


def stream_ids(node, peer):
    session = session_of(node, peer)
    return session.out.stream_id, session.inbound.stream_id


def talk(network, one, other, *, seconds, every_s=0.05):
    """Both send all the time; return the payloads that did not arrive."""
    sent = []
    for number in range(int(seconds / every_s)):
        payload = b"%d" % number
        sent.append(payload)
        one.send_packet(other, payload)
        other.send_packet(one, payload)
        network.run(every_s)
    network.run(2)
    return [
        payload for node in (one, other) for payload in sorted(set(sent) - set(node.payloads()))
    ]


def test_streams_in_use_get_new_keys_and_lose_nothing(pair):
    network, left, right = pair.network, pair.left, pair.right
    assert talk(network, left, right, seconds=5) == []
    first = stream_ids(left, right)
    assert talk(network, left, right, seconds=REKEY_S) == []
    second = stream_ids(left, right)
    assert not set(first) & set(second)
    assert stream_ids(right, left) == second[::-1]
    assert talk(network, left, right, seconds=2 * REKEY_S) == []
    assert session_of(left, right).opened > network.now() - MAX_KEY_AGE_S


def test_the_smaller_node_id_begins_and_one_handshake_is_enough(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(1)
    talk(network, left, right, seconds=REKEY_S + 30, every_s=1)
    assert network.channel.count(Kind.ASK) == 1
    assert session_of(left, right).opened == pytest.approx(REKEY_S, abs=5)
    assert len(left.anchor.ingress.streams) == len(right.anchor.ingress.streams) == 1


def test_keys_of_closed_and_of_replaced_sessions_are_held_by_nobody(pair):
    network, left, right = pair.network, pair.left, pair.right
    talk(network, left, right, seconds=REKEY_S / 2, every_s=1)
    first = {*stream_ids(left, right)}
    talk(network, left, right, seconds=REKEY_S, every_s=1)
    second = {*stream_ids(left, right)}
    network.run(11)

    def held():
        gc.collect()
        streams = [s for s in gc.get_objects() if isinstance(s, InStream | OutStream)]
        return {stream.stream_id for stream in streams} & (first | second)

    assert held() == second
    right.stop()
    network.run(11)
    # What stopped keeps its own end until somebody collects the node itself.
    del right.anchor
    assert held() == set()


def test_relayed_streams_are_rekeyed_while_the_master_is_down(relayed):
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    network.channel.is_down = True
    before = stream_ids(left, right)
    assert talk(network, left, right, seconds=4 * REKEY_S, every_s=0.5) == []
    assert not set(before) & set(stream_ids(left, right))


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_rekeying_converges_where_frames_are_lost(pair, loss):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    network.link(left, right).loss = loss
    for _ in range(5):
        talk(network, left, right, seconds=REKEY_S, every_s=1)
        network.link(left, right).loss = 0.0
        network.run(1)
        assert talk(network, left, right, seconds=2) == []
        network.link(left, right).loss = loss


def test_idle_streams_are_not_rekeyed(pair):
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(1_000)
    assert network.channel.count(Kind.ASK) == 1
    assert left.anchor.sessions == right.anchor.sessions == {}


def test_frames_of_the_old_keys_are_opened_for_a_while_and_then_no_more(pair):
    network, left, right = pair.network, pair.left, pair.right
    talk(network, left, right, seconds=REKEY_S + 1, every_s=1)
    assert talk(network, left, right, seconds=30, every_s=1) == []
    assert len(right.anchor.ingress.streams) == 1


def test_keys_that_have_sealed_much_are_replaced_before_they_are_spent(relayed, monkeypatch):
    monkeypatch.setattr(stream, "REKEY_BLOCKS", 5_000)
    monkeypatch.setattr(stream, "MAX_BLOCKS", 30_000)
    network, left, right = relayed.network, relayed.left, relayed.right
    left.ping(right)
    network.run(5)
    network.channel.is_down = True
    seen = set()
    for _ in range(20):
        assert talk(network, left, right, seconds=REKEY_S / 20) == []
        seen |= {stream_ids(left, right)}
    assert len(seen) > 4, "much sooner than by age"
    closed = [event for node in (left, right) for _, event in node.events if "closed" in event]
    assert closed == []


def test_a_worn_key_is_not_asked_for_more_often_than_an_old_one(pair, monkeypatch):
    monkeypatch.setattr(stream, "REKEY_BLOCKS", 1)
    network, left, right = pair.network, pair.left, pair.right
    left.ping(right)
    network.run(2)
    asks = []
    monkeypatch.setattr(left.anchor.sessions, "_ask", lambda *_, **__: asks.append(network.now()))
    monkeypatch.setattr(right.anchor.sessions, "_ask", lambda *_, **__: None)
    talk(network, left, right, seconds=61, every_s=0.5)
    assert 5 <= len(asks) <= 7
