"""Guardian takes certificates back: whoever holds one is cut off as peer, neighbour and relay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conflux.anchor import grants
from conflux.anchor.grants import GUARDIAN_HANDLE
from conflux.anchor.handshake import Standing
from conflux.anchor.identity import CLOCK_SKEW_S, Identity, seal_revocations
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import Kind, envelope
from conflux.wire.credentials import Revoked

DEAD_S = 0.25
"""In all it may take 1 s, of which Guardian needs 0.25 s; here the way is short."""


def ignore_guardian(node: SimNode) -> None:
    node.anchor.grants.pushed = lambda sealed: None
    node.anchor.grants.pushed_revocations = lambda body: None


def star(seed: int = 1) -> tuple[SimNetwork, SimNode, SimNode, SimNode]:
    """Left and right reach each other over a relay without teams."""
    network = SimNetwork(seed=seed)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    relay = network.add_node("relay")
    network.block(left, right)
    left.ping(right)
    network.run(2)
    return network, left, right, relay


def assert_knows_nobody(node: SimNode, others: list[SimNode]) -> None:
    for other in others:
        assert other.anchor.neighbours.get(node.node_id) is None
        assert node.node_id not in other.anchor.sessions


def tethers_between(network: SimNetwork, gone: str, *honest: str) -> list[str]:
    """The honest nodes that have an end of a tether to *gone*."""
    return [
        name
        for name in honest
        for tether in network.underlay.tethers(name)
        if tether.peer is not None and tether.peer.owner == gone
    ]


def test_deleted_relay_that_runs_on_is_left_by_its_neighbours_and_not_taken_back():
    network, left, right, relay = star()
    assert relay.anchor.relay.carried
    ignore_guardian(relay)
    network.guardian.remove("relay")
    network.run(DEAD_S)
    assert_knows_nobody(relay, [left, right])
    assert relay.anchor.relay.carried == 0
    before = len(left.received)
    for _ in range(60):
        left.ping(right)
        for node in (left, right):
            relay.anchor.asker.tether(node.node_id, network.now())
        network.run(1)
    assert_knows_nobody(relay, [left, right])
    assert len(left.received) == before
    refused = sum(
        node.anchor.counters["control: certificate was revoked"] for node in (left, right)
    )
    assert refused > 0
    assert tethers_between(network, "relay", "left", "right") == []


def test_those_behind_a_deleted_relay_go_on_over_another_one():
    network, left, right, relay = star()
    network.add_node("other relay")
    left.ping(right)
    network.run(40)
    ignore_guardian(relay)
    network.guardian.remove("relay")
    pings = []
    for _ in range(60):
        pings.append(left.ping(right))
        network.run(0.02)
    network.run(3)
    assert [ping.answers for ping in pings] == [1] * len(pings)


@pytest.mark.parametrize("by_master", [True, False])
def test_deleted_conflux_with_its_old_team_keys_gets_no_tether_by_master_or_flood(by_master):
    network = SimNetwork(seed=2)
    left, right, gone = (
        network.add_node(name, teams=["ops"]) for name in ("left", "right", "gone")
    )
    for node in (left, right):
        gone.ping(node)
    left.ping(right)
    network.run(2)
    ignore_guardian(gone)
    network.guardian.remove("gone")
    network.run(DEAD_S)
    assert_knows_nobody(gone, [left, right])
    # It has other tethers in the plane, over which its Asks are flooded.
    network.channel.is_down = not by_master
    before = len(left.received), len(right.received), len(gone.received)
    for _ in range(60):
        for node in (left, right):
            gone.ping(node)
            node.ping(gone)
            gone.anchor.asker.tether(node.node_id, network.now())
        network.run(1)
    assert_knows_nobody(gone, [left, right])
    assert (len(left.received), len(right.received), len(gone.received)) == before


def test_a_start_that_another_one_with_the_same_token_replaced_is_cut_off_everywhere():
    """Its keys may be a thief's by now; its teams have not changed."""
    network = SimNetwork(seed=3)
    left, twin = (network.add_node(name, teams=["ops"]) for name in ("left", "twin"))
    twin.ping(left)
    network.run(2)
    first = left.anchor.sessions[twin.node_id]
    ignore_guardian(twin)
    network.guardian.admit("twin", Identity(network.crypto, network.entropy))
    twin.ping(left)
    network.run(DEAD_S)
    assert first.closed
    assert_knows_nobody(twin, [left])
    before = len(left.received)
    for _ in range(30):
        twin.ping(left)
        network.run(1)
    assert len(left.received) == before


def test_renewal_under_the_same_keys_closes_nothing():
    network = SimNetwork(seed=4)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    left.ping(right)
    network.run(2)
    session = left.anchor.sessions[right.node_id]
    standing = right.anchor.standing
    grant = network.guardian.admit("right", right.identity)
    right.anchor.renew(
        Standing(standing.crypto, standing.entropy, right.identity, standing.guardian, grant),
        now=network.now(),
    )
    network.run(1)
    assert left.anchor.sessions[right.node_id] is session
    assert left.anchor.neighbours.get(right.node_id)
    assert not left.anchor.standing.revoked


def test_who_starts_later_knows_of_it_from_the_first_moment():
    network = SimNetwork(seed=5)
    gone = network.add_node("gone", teams=["ops"])
    ignore_guardian(gone)
    serial = gone.anchor.standing.grant.certificate.serial
    network.guardian.revoke("gone")
    network.run(1)
    late = network.add_node("late", teams=["ops"])
    assert late.anchor.standing.revoked == {serial}
    for _ in range(10):
        gone.ping(late)
        network.run(1)
    assert late.received == []
    assert late.anchor.counters["control: certificate was revoked"] > 0


@pytest.mark.parametrize("deferred_s", [0.001, 0.02])
@pytest.mark.parametrize("teams", [["ops"], []])
def test_a_handshake_that_is_under_way_ends_in_nothing(deferred_s, teams):
    """At whichever moment of Ask, Answer, Open and connecting it comes."""
    for step in range(40):
        network = SimNetwork(seed=6)
        left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
        gone = network.add_node("gone", teams=teams)
        ignore_guardian(gone)
        for node in network.nodes.values():
            node.deferred_s = deferred_s
        gone.ping(left)
        right.ping(gone)
        for node in (left, right):
            gone.anchor.asker.tether(node.node_id, network.now())
        network.run(step * deferred_s / 4 + step * 0.001)
        network.guardian.revoke("gone")
        network.run(DEAD_S + 4 * deferred_s)
        assert_knows_nobody(gone, [left, right])
        network.run(12)
        assert_knows_nobody(gone, [left, right])
        assert tethers_between(network, "gone", "left", "right") == []


def test_frames_of_a_session_that_a_rekey_replaced_are_not_opened_either():
    network = SimNetwork(seed=7)
    left, gone = (network.add_node(name, teams=["ops"]) for name in ("left", "gone"))
    gone.ping(left)
    network.run(2)
    first = left.anchor.sessions[gone.node_id]
    left.anchor.sessions.rekey(first, network.now())
    network.run(0.5)
    assert left.anchor.sessions[gone.node_id] is not first
    assert len(left.anchor.ingress.streams) == 2
    network.guardian.revoke("gone")
    network.run(DEAD_S)
    assert not left.anchor.ingress.streams


def revocations(network: SimNetwork):
    [message] = [m for m in network.channel.messages if m.kind is Kind.REVOCATIONS][-1:]
    return message


def two_and_a_stranger():
    network = SimNetwork(seed=8)
    left = network.add_node("left", teams=["ops"])
    network.add_node("gone", teams=["ops"])
    network.guardian.revoke("gone")
    return network, left, revocations(network)


def test_revocations_of_anybody_but_guardian_are_dropped():
    network, left, message = two_and_a_stranger()
    held = left.anchor.standing.revoked
    handle = left.anchor.standing.grant.control.handle
    body = bytearray(message.payload)
    for at in (2, 40, len(body) - 1):
        false = bytearray(body)
        false[at] ^= 1
        left.anchor.take_control(handle, message.sender, bytes(false), now=network.now())
    left.anchor.take_control(handle, handle, message.payload, now=network.now())
    left.anchor.take_control(None, message.sender, message.payload, now=network.now())
    network.channel.is_down = True
    network.run(1)
    assert left.anchor.standing.revoked == held == frozenset()
    counters = left.anchor.counters
    assert counters["revocations: revocations do not open under the plane key"] == 3
    assert counters["control_malformed"] == 2


def test_revocations_that_a_member_signed_or_of_another_plane_are_refused():
    network, left, _ = two_and_a_stranger()
    guardian, key = network.guardian, left.anchor.standing
    entry = [Revoked(left.anchor.standing.grant.certificate.serial, 2**33)]
    for signer, plane_id in (
        (left.identity.signer, guardian.plane_id),
        (guardian._signer, bytes(16)),
    ):
        body = sealed(network, signer, entry, plane_id)
        told_by_guardian(left, body)
    network.channel.is_down = True
    network.run(1)
    assert left.anchor.standing is key
    assert left.anchor.counters["revocations: revocations were not signed by Guardian"] == 1
    assert left.anchor.counters["revocations: revocations of another plane"] == 1


def told_by_guardian(node: SimNode, body: bytes) -> None:
    own = node.anchor.standing.grant.control.handle
    message = envelope(Kind.REVOCATIONS, body)
    node.anchor.take_control(own, GUARDIAN_HANDLE, message, now=node.now())


def sealed(network, signer, revoked, plane_id):
    return seal_revocations(
        signer,
        revoked,
        plane_id=plane_id,
        plane_key=network.guardian.plane_key,
        entropy=network.entropy,
    )


def test_a_repeated_message_changes_nothing_and_none_takes_anything_back():
    network, left, message = two_and_a_stranger()
    network.run(1)
    known = left.anchor.standing
    assert len(known.revoked) == 1
    network.replay(message)
    body = sealed(network, network.guardian._signer, [], network.guardian.plane_id)
    told_by_guardian(left, body)
    network.guardian.push("left")
    network.run(1)
    assert left.anchor.standing.revoked == known.revoked
    assert left.anchor.standing.grant.revision > known.grant.revision


def test_serials_are_forgotten_once_their_certificates_have_ended(monkeypatch):
    network, left, _ = two_and_a_stranger()
    network.run(1)
    monkeypatch.setattr(grants, "MAX_REVOKED", 3)
    held = left.anchor.grants
    wall = held.wall(network.now())
    in_a_day = int(wall + 86_400)
    held._note([Revoked(n, in_a_day + 100 * n) for n in range(10)], network.now())
    assert sorted(held._revoked) == [7, 8, 9]
    assert not held._note([Revoked(200, int(wall - CLOCK_SKEW_S - 1))], network.now())
    network.run(86_400 + 700 + CLOCK_SKEW_S + 10)
    assert sorted(held._revoked) == [8, 9]
    assert left.anchor.standing.revoked == {8, 9}


def test_a_flood_of_revocations_is_bounded(pair):
    network, left = pair.network, pair.left
    body = sealed(network, network.guardian._signer, [], network.guardian.plane_id)
    for _ in range(100):
        told_by_guardian(left, body)
    assert left.anchor.counters["revocations_over_limit"] == 100 - grants.MAX_READING
    network.run(1)
    told_by_guardian(left, body)
    assert left.anchor.counters["revocations_over_limit"] == 100 - grants.MAX_READING


def test_a_standing_in_use_by_a_thread_is_never_changed():
    network, left, _ = two_and_a_stranger()
    before = left.anchor.standing
    network.run(1)
    assert before.revoked == frozenset()
    assert left.anchor.standing == replace(before, revoked=left.anchor.standing.revoked)
