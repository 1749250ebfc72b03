"""conflux/anchor/handshake.py: the three messages, and every lie in them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conflux.anchor import handshake
from conflux.anchor.handshake import (
    Standing,
    make_answer,
    make_ask,
    make_open,
    open_answer,
    open_ask,
    open_open,
)
from conflux.anchor.identity import CLOCK_SKEW_S, Identity
from conflux.api import WireError
from conflux.testing import FakeCrypto
from conflux.testing.simnet import SimGuardian
from conflux.wire.control import AuthLevel, Description, Purpose, Target, TargetKind

WALL = 1_800_000_000.0


class World:
    def __init__(self, seed: int = 1) -> None:
        self.crypto = FakeCrypto({"seed": seed})
        self.entropy = random.Random(seed).randbytes
        self.guardian = SimGuardian(
            self.crypto, self.entropy, lambda: WALL, lambda tag, payload: None
        )

    def standing(self, name: str, *teams: str) -> Standing:
        self.guardian.enrol(name, addresses=[f"10.0.0.{ord(name[0])}/8"], teams=teams)
        identity = Identity(self.crypto, self.entropy)
        grant = self.guardian.admit(name, identity)
        return Standing(self.crypto, self.entropy, identity, self.guardian.key, grant)


@dataclass
class Both:
    a: Standing
    b: Standing

    def ask(self, **changes):
        arguments = {
            "purpose": Purpose.STREAM, "auth_level": AuthLevel.HANDSHAKE,
            "tether_kinds": ("sim",), "avoid": (), "wall": WALL,
        }  # fmt: skip
        target = changes.pop("target", Target(TargetKind.ADDRESS, address(self.b)))
        return make_ask(changes.pop("me", self.a), target, **{**arguments, **changes})

    def received(self, pending):
        return open_ask(self.b, pending.message[2:], wall=WALL)

    def answer(self, pending, *, me: Standing | None = None):
        received = self.received(pending)
        peer = self.b.verify(received.ask, WALL)
        offer = Description("sim", b"offer")
        level = AuthLevel.HANDSHAKE
        return make_answer(me or self.b, received, peer, tether=offer, auth_level=level)

    def whole(self):
        asked = self.ask()
        answered = self.answer(asked)
        received = open_answer(self.a, asked, answered.message[2:], wall=WALL)
        message, ours = make_open(self.a, received, tether=Description("sim", b"answer"))
        return asked, answered, received, message, ours


def address(standing: Standing) -> bytes:
    return standing.grant.certificate.addresses[0].packed


@pytest.fixture
def both() -> Both:
    world = World()
    return Both(world.standing("a", "red", "blue"), world.standing("b", "blue", "green", "red"))


def test_both_ends_derive_the_same_keys_from_all_common_teams(both):
    _, answered, received, message, ours = both.whole()
    opening, theirs = open_open(both.b, answered, message[2:])
    assert ours == theirs
    assert opening.tether == Description("sim", b"answer")
    assert sorted(team.name for team in received.teams) == ["blue", "red"]
    keys = {bytes(ours.ask_to_answer.key), bytes(ours.answer_to_ask.key), ours.tether}
    assert len(keys) == 3
    assert ours.ask_to_answer.stream_id != ours.answer_to_ask.stream_id


def test_messages_stay_within_the_limit_of_the_channel(both):
    asked, answered, _, message, _ = both.whole()
    assert len(asked.message) < 10_000
    assert len(answered.message) < 14_000
    assert len(message) < 6_000


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_bit_of_any_message_is_refused(data):
    world = World(seed=data.draw(st.integers(0, 3)))
    both = Both(world.standing("a", "red"), world.standing("b", "red"))
    asked, answered, _, message, _ = both.whole()
    which = data.draw(st.sampled_from(["ask", "answer", "open"]))
    whole = {"ask": asked.message, "answer": answered.message, "open": message}[which]
    body = bytearray(whole[2:])
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << bit % 8
    take = {
        "ask": lambda body: open_ask(both.b, body, wall=WALL),
        "answer": lambda body: open_answer(both.a, asked, body, wall=WALL),
        "open": lambda body: open_open(both.b, answered, body),
    }[which]
    with pytest.raises(WireError):
        take(bytes(body))


@given(st.binary(max_size=2_000))
def test_noise_gives_wire_error_and_nothing_else(noise):
    world = World()
    both = Both(world.standing("a", "red"), world.standing("b", "red"))
    asked, answered, *_ = both.whole()
    for refuse in (
        lambda: open_ask(both.b, noise, wall=WALL),
        lambda: open_answer(both.a, asked, noise, wall=WALL),
        lambda: open_open(both.b, answered, noise),
    ):
        with pytest.raises(WireError):
            refuse()


def test_messages_of_two_handshakes_do_not_mix(both):
    one, other = both.ask(), both.ask()
    answered = both.answer(one)
    with pytest.raises(WireError):
        open_answer(both.a, other, answered.message[2:], wall=WALL)
    received = open_answer(both.a, one, answered.message[2:], wall=WALL)
    message, _ = make_open(both.a, received, tether=Description())
    with pytest.raises(WireError):
        open_open(both.b, both.answer(one), message[2:])


def test_two_handshakes_never_share_a_key(both):
    *_, ours = both.whole()
    *_, again = both.whole()
    assert ours.ask_to_answer.key != again.ask_to_answer.key
    assert ours.tether != again.tether


@pytest.mark.parametrize("late_s", [-CLOCK_SKEW_S - 1, CLOCK_SKEW_S + 1])
def test_ask_from_another_time_is_refused(both, late_s):
    with pytest.raises(WireError, match="another time"):
        both.received(both.ask(wall=WALL + late_s))


def test_ask_of_another_plane_does_not_open(both):
    stranger = World(seed=9).standing("b", "red")
    with pytest.raises(WireError, match="plane key"):
        open_ask(stranger, both.ask().message[2:], wall=WALL)


def test_ask_without_a_common_team_is_refused_before_anything_is_verified(both, monkeypatch):
    poor = replace(both.b, grant=replace(both.b.grant, teams=()))
    monkeypatch.setattr(both.b.crypto, "verify", lambda *_: pytest.fail("a signature was checked"))
    with pytest.raises(WireError, match="common team"):
        open_ask(poor, both.ask().message[2:], wall=WALL)


def test_ask_for_another_address_or_node_is_refused(both):
    for target in (
        Target(TargetKind.ADDRESS, bytes([10, 0, 0, 77])),
        Target(TargetKind.NODE, both.a.node_id),
    ):
        with pytest.raises(WireError, match="another"):
            both.received(both.ask(target=target))


def test_ask_to_any_relay_is_refused_by_whom_it_avoids_and_for_streams(both):
    anybody = Target(TargetKind.ANY_RELAY)
    assert both.received(both.ask(target=anybody, purpose=Purpose.TETHER)).teams == []
    with pytest.raises(WireError, match="not meant"):
        both.received(both.ask(target=anybody, purpose=Purpose.TETHER, avoid=[both.b.node_id]))
    with pytest.raises(WireError, match="in particular"):
        both.received(both.ask(target=anybody))


def test_own_ask_is_refused(both):
    pending = both.ask(target=Target(TargetKind.ADDRESS, address(both.a)))
    with pytest.raises(WireError, match="not meant"):
        open_ask(both.a, pending.message[2:], wall=WALL)


def test_ask_without_a_common_suite_is_refused(both, monkeypatch):
    monkeypatch.setattr(handshake, "SUITES", (2,))
    pending = both.ask()
    monkeypatch.undo()
    with pytest.raises(WireError, match="suite"):
        both.received(pending)


def lying(both: Both, monkeypatch, **changes):
    """B signs an Answer with *changes*; return the Ask and what A must refuse."""
    honest = handshake.Answer
    asked = both.ask(auth_level=AuthLevel.STRICT)

    def lie(**fields):
        return honest(**{**fields, **changes})

    lie.decode = honest.decode
    with monkeypatch.context() as patched:
        patched.setattr(handshake, "Answer", lie)
        answered = both.answer(asked)
    return asked, answered.message[2:]


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": 7},
        {"auth_level": AuthLevel.CHECKPOINT},
        {"ask_hash": bytes(32)},
        {"team_tags": []},
        {"team_tags": [b"x" * 16]},
    ],
)
def test_properly_signed_lies_in_an_answer_are_refused(both, monkeypatch, changes):
    asked, body = lying(both, monkeypatch, **changes)
    with pytest.raises(WireError):
        open_answer(both.a, asked, body, wall=WALL)


def test_answer_that_leaves_out_a_common_team_is_bound_to_the_rest(both, monkeypatch):
    """B may know fewer teams than A hoped; the keys then hang on those that it named."""
    world_b = replace(both.b, grant=replace(both.b.grant, teams=both.b.grant.teams[:1]))
    asked = both.ask()
    received = open_ask(world_b, asked.message[2:], wall=WALL)
    answered = make_answer(
        world_b, received, both.b.verify(received.ask, WALL), tether=Description(),
        auth_level=AuthLevel.HANDSHAKE,
    )  # fmt: skip
    got = open_answer(both.a, asked, answered.message[2:], wall=WALL)
    assert [team.name for team in got.teams] == ["blue"]


def test_answer_from_a_node_that_is_not_the_one_asked_for_is_refused():
    world = World()
    both = Both(world.standing("a", "red"), world.standing("b", "red"))
    other = world.standing("c", "red")
    asked = both.ask()
    answered = both.answer(asked, me=other)
    with pytest.raises(WireError, match="not the one asked for"):
        open_answer(both.a, asked, answered.message[2:], wall=WALL)


def test_answer_is_refused_once_the_certificate_ended(both):
    asked = both.ask()
    answered = both.answer(asked)
    with pytest.raises(WireError, match="not valid now"):
        open_answer(both.a, asked, answered.message[2:], wall=WALL + 86_401)


def test_stricter_end_decides_the_auth_level(both):
    answered = both.answer(both.ask(auth_level=AuthLevel.STRICT))
    assert answered.answer.auth_level is AuthLevel.STRICT


def test_open_signed_by_somebody_else_is_refused(both):
    asked, answered, received, _, _ = both.whole()
    thief = replace(both.a, identity=both.b.identity)
    message, _ = make_open(thief, received, tether=Description())
    with pytest.raises(WireError, match="false signature"):
        open_open(both.b, answered, message[2:])
    assert asked


def test_secrets_do_not_show_in_reprs(both):
    *_, ours = both.whole()
    assert repr(ours) == "Secrets()"
