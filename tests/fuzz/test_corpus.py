"""Every input that the fuzzer kept, and every one that it once found a fault with, is harmless."""

from __future__ import annotations

from ipaddress import ip_address

import pytest


def test_stored_input_is_taken_or_refused_and_nothing_else_happens(stored, targets):
    targets[stored.parent.name].entry(stored.read_bytes())


def test_every_target_has_seeds(targets, folder):
    for name in targets:
        assert list((folder / "corpus" / name).iterdir()), name
    assert {path.name for path in (folder / "corpus").iterdir()} == set(targets)


def test_target_notices_a_decoder_that_raises_something_else(targets, monkeypatch):
    """The harness itself: what is not the codec's own error must come out."""

    def broken(data):
        raise KeyError("not a WireError")

    monkeypatch.setattr("conflux.wire.inband.decode", broken)
    with pytest.raises(KeyError):
        targets["inband"].entry(b"\x05\x00\x00\x00\x01")


def test_target_notices_a_value_with_two_encodings(targets, monkeypatch):
    monkeypatch.setattr("conflux.wire.inband.LabelUnknown.encode", lambda message: b"other")
    with pytest.raises(AssertionError, match="other bytes"):
        targets["inband"].entry(b"\x05\x00\x00\x00\x01")


# The receive path's stubs reach what they are there for


def run(receiver, *steps):
    node = receiver.Receiver()
    program = b"".join(
        receiver.operation(receiver.HANDSHAKES, which, payload) for which, payload in steps
    )
    opened, delivered = [], []
    node.world.stream_opened = lambda peer, address: opened.append(address)
    deliver = node.world.deliver
    node.world.deliver = lambda records, layout: delivered.append(deliver(records, layout))
    node.run(program, receiver.HANDSHAKES)
    return node, opened, delivered


def superframe(receiver, source, destination):
    packet = bytes((0x45,)) + bytes(11) + ip_address(source).packed + ip_address(destination).packed
    return b"\x00" + len(packet).to_bytes(2, "big") + packet


def test_unpatched_ask_and_open_of_a_stranger_open_a_stream(receiver):
    node = receiver.Receiver
    _, opened, _ = run(receiver, (node.asks, b"\x00"), (node.opens, b""))
    assert opened == [receiver.STRANGER]


def test_unpatched_answer_of_a_stranger_opens_a_stream(receiver):
    node = receiver.Receiver
    _, opened, _ = run(receiver, (node.packet_to_stranger, b"hi"), (node.answers, b"\x00"))
    assert opened == [receiver.STRANGER]


def test_one_patched_byte_of_an_ask_is_refused_by_name(receiver):
    node = receiver.Receiver
    done, opened, _ = run(receiver, (node.asks, b"\x00" + b"\x00\x00\x40\xff"), (node.opens, b""))
    assert opened == []
    assert any(name.startswith("control: ") for name in done.anchor.counters)


def test_frame_of_the_friend_is_delivered_directly_and_by_the_relay(receiver):
    node = receiver.Receiver
    frame = superframe(receiver, receiver.FRIEND, receiver.ME)
    _, _, direct = run(receiver, (node.superframe_direct, frame))
    _, _, relayed = run(receiver, (node.route_to_me, b""), (node.superframe_relayed, frame))
    assert (len(direct), len(relayed)) == (1, 1)


def test_spoofed_source_in_a_genuine_frame_is_not_delivered(receiver):
    node = receiver.Receiver
    frame = superframe(receiver, "10.9.0.77", receiver.ME)
    done, _, delivered = run(receiver, (node.superframe_direct, frame))
    assert delivered == []
    assert done.anchor.counters["packet_source_not_in_certificate"] == 1


def test_udp_programs_open_a_tether_and_act_on_it(folder, udp_runner):
    got = ready = held = 0
    for path in sorted((folder / "corpus" / "udp_hop").glob("seed-*")):
        runner = udp_runner()
        runner.run(path.read_bytes())
        ready += runner.world.ready_count
        got += runner.world.got
        held += runner.hop._rtt.srtt_s is not None
    assert ready >= 5
    assert got > 0x2000
    assert held >= 5


def test_unpatched_grant_is_taken_on(receiver):
    node = receiver.Receiver
    done, _, _ = run(receiver, (node.grants, b""))
    assert done.anchor.standing.grant.revision == receiver.PLANE.me.standing.grant.revision + 1


def test_unpatched_revocation_ends_streams_and_tethers_of_the_friend(receiver):
    node = receiver.Receiver
    frame = superframe(receiver, receiver.FRIEND, receiver.ME)
    done, _, delivered = run(receiver, (node.revokes, b"\x01"), (node.superframe_direct, frame))
    assert delivered == []
    assert done.anchor.counters["neighbour_down: revoked"] == 1


def test_same_program_does_the_same_twice(receiver, folder):
    for path in sorted((folder / "corpus" / "handshake").iterdir()):
        runs = []
        for _ in range(2):
            node = receiver.Receiver()
            node.run(path.read_bytes(), receiver.HANDSHAKES)
            runs.append((node.anchor.counters, node.world.published))
        assert runs[0] == runs[1]
