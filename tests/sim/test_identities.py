"""Keys and certificates that are not what they claim to be: wrong, forged, expired, downgraded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conflux.anchor import handshake
from conflux.anchor.handshake import ReceivedAsk, Standing
from conflux.anchor.identity import CLOCK_SKEW_S
from conflux.anchor.seal import seal
from conflux.testing.simnet import Insider, SimNetwork, SimNode
from conflux.testing.simnet.channel import ControlMessage
from conflux.wire.control import Ask, AuthLevel, Description, Kind, Target, TargetKind, envelope

HOUSEKEEPING_S = 5.0
"""How late a node may notice that a certificate ended."""


def dropped(node: SimNode, why: str) -> int:
    return node.anchor.counters[f"control: {why}"]


def never_met(network: SimNetwork, one: SimNode, other: SimNode) -> bool:
    return not one.anchor.sessions and not other.anchor.sessions and other.received == []


def with_key(insider: Insider, key: bytes) -> Insider:
    """*insider* with another key for his team."""
    (team,) = insider.standing.grant.teams
    insider.takes(replace(insider.standing.grant, teams=[replace(team, key=key)]))
    return insider


# Team keys


def test_an_ask_with_a_wrong_team_key_is_not_answered(pair):
    network, right = pair.network, pair.right
    outsider = with_key(network.add_insider("outsider", teams=["ops"]), bytes(32))
    outsider.listen()
    outsider.ask_address(right.address.packed)
    network.run(15)
    assert outsider.heard == []
    assert dropped(right, "Ask without a common team") == 1


def test_the_key_of_a_former_epoch_is_a_wrong_one(pair):
    network, right = pair.network, pair.right
    former = network.add_insider("former", teams=["ops"])
    network.guardian.detach("former", "ops")
    network.run(1)
    former.listen()
    former.ask_address(right.address.packed)
    network.run(15)
    assert former.heard == []
    assert dropped(right, "Ask without a common team") == 1


class Impostor:
    """Answers each Ask for streams that is published, whatever the standing that *stands* gives.

    He runs the Master: nobody else gets an Ask to see.
    """

    def __init__(self, network: SimNetwork, insider: Insider, stands: Standing) -> None:
        self.network, self.insider, self.stands = network, insider, stands
        self.answered = 0
        network.channel.tap = self._tap

    def _tap(self, message: ControlMessage) -> list[ControlMessage]:
        if message.kind is not Kind.ASK:
            return [message]
        ask = self.insider.read_ask(message.payload)
        # One after the other: while one is verified, no more than four others wait.
        for number, tags in enumerate([*([tag] for tag in ask.team_tags), sorted(ask.team_tags)]):
            self.network.clock.after(
                number / 50, lambda tags=tags: self._answer(message, ask, tags)
            )
        return []

    def _answer(self, message: ControlMessage, ask: Ask, tags: list[bytes]) -> None:
        """With *tags* of the Ask itself, which everybody in the plane can read."""
        received = ReceivedAsk(ask, message.payload, self.stands.grant.teams, tags)
        peer = self.stands.verify(ask, self.network.wall())
        pending = handshake.make_answer(
            self.stands,
            received,
            peer,
            tether=Description(),
            auth_level=AuthLevel.STRICT,
            features=0,
        )
        self.answered += 1
        self.network.channel.carry(
            replace(
                message, sender=self.insider.handle, tag=message.sender, payload=pending.message
            )
        )


def test_an_answer_without_the_team_key_is_refused_whichever_tags_it_repeats(pair):
    """Tags travel where the whole plane can read them: they prove nothing to whoever made them."""
    network, left = pair.network, pair.left
    insider = with_key(network.add_insider("impostor", teams=["ops"]), bytes(32))
    impostor = Impostor(network, insider, insider.standing)
    left.send_packet(str(insider.standing.grant.certificate.addresses[0].ip), b"for a friend")
    network.run(20)
    assert impostor.answered > 8
    assert not left.anchor.sessions
    assert dropped(left, "Answer without the teams that it claims") > 0
    assert dropped(left, "Answer with a team tag that was not asked with") > 0


# Certificates


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"portal": True}, "certificate was not signed by Guardian"),
        ({"serial": 99}, "certificate was not signed by Guardian"),
        ({"not_after": 1_900_000_000}, "certificate was not signed by Guardian"),
        ({"signature": bytes(3_309)}, "certificate was not signed by Guardian"),
        ({"plane_id": bytes(16)}, "certificate of another plane"),
    ],
)
def test_a_forged_certificate_in_an_ask_is_refused(pair, changes, why):
    network, right = pair.network, pair.right
    liar = network.add_insider("liar", teams=["ops"])
    liar.shows(replace(liar.standing.grant.certificate, **changes))
    liar.ask_address(right.address.packed)
    network.run(5)
    assert dropped(right, why) == 1
    assert network.channel.count(Kind.ANSWER) == 0


def test_a_certificate_of_another_guardian_is_refused(pair):
    """Signed whole and well, by a Guardian that this plane does not know."""
    network, right = pair.network, pair.right
    other = SimNetwork(seed=99)
    stranger = other.add_insider("stranger", teams=["ops"])
    liar = network.add_insider("liar", teams=["ops"])
    certificate = replace(
        stranger.standing.grant.certificate, plane_id=liar.standing.grant.certificate.plane_id
    )
    liar.standing = replace(liar.standing, identity=stranger.identity)
    liar.shows(certificate)
    liar.ask_address(right.address.packed)
    network.run(5)
    assert network.channel.count(Kind.ANSWER) == 0
    assert not right.anchor.sessions


@pytest.mark.parametrize(
    ("stands", "why"),
    [
        ("own", "Answer from a node that is not the one asked for"),
        ("forged", "certificate was not signed by Guardian"),
        ("stolen", "Answer with a false signature"),
    ],
)
def test_an_answer_in_another_ones_name_is_refused(pair, stands, why):
    """A team mate in the Master's place answers for *right*, whose certificate he knows."""
    network, left, right = pair.network, pair.left, pair.right
    insider = network.add_insider("impostor", teams=["ops"])
    own, theirs = insider.standing.grant.certificate, right.anchor.standing.grant.certificate
    shown = {"own": own, "forged": replace(own, addresses=theirs.addresses), "stolen": theirs}
    insider.shows(shown[stands])
    impostor = Impostor(network, insider, insider.standing)
    left.send_packet(right, b"for right")
    network.run(20)
    assert impostor.answered > 0
    assert dropped(left, why) > 0
    assert never_met(network, left, right)


def test_an_expired_certificate_is_refused_in_an_ask(pair):
    network, right = pair.network, pair.right
    late = network.add_insider("late", teams=["ops"])
    wall = int(network.wall())
    for not_before, not_after, good in (
        (wall - 100, wall, False),
        (wall - 100, wall - 50, False),
        (wall + CLOCK_SKEW_S + 2, wall + 1_000, False),
        (wall - 100, wall + 100, True),
    ):
        before = network.channel.count(Kind.ANSWER)
        late.shows(network.guardian.certificate("late", not_before=not_before, not_after=not_after))
        late.ask_address(right.address.packed)
        network.run(0.5)
        assert (network.channel.count(Kind.ANSWER) > before) is good
    assert dropped(right, "certificate is not valid now") == 3


def test_an_expired_certificate_is_refused_in_an_answer(pair):
    network, left, right = pair.network, pair.left, pair.right
    wall = int(network.wall())
    expired = network.guardian.certificate("right", not_before=wall - 100, not_after=wall)
    standing = right.anchor.standing
    right.anchor.grants.standing = replace(
        standing, grant=replace(standing.grant, certificate=expired)
    )
    left.send_packet(right, b"hello")
    network.run(8)
    assert network.channel.count(Kind.ANSWER) > 0
    assert dropped(left, "certificate is not valid now") > 0
    assert never_met(network, left, right)


def test_a_live_session_ends_with_the_certificate_and_delivers_nothing_more(pair):
    network, left, right = pair.network, pair.left, pair.right
    network.guardian.valid_s = 60
    for node in (left, right):
        network.guardian.renew(node.name)
    network.run(1)
    network.channel.tap = lambda message: () if message.kind is Kind.GRANT else (message,)
    ends_at = 61.0
    while network.now() < ends_at + HOUSEKEEPING_S + 30:
        left.send_packet(right, b"%f" % network.now())
        network.run(0.5)
    sent_at = [float(payload) for payload in right.payloads()]
    assert max(sent_at) > 50
    assert max(sent_at) < ends_at + HOUSEKEEPING_S
    assert not right.anchor.sessions
    assert right.anchor.neighbours.get(left.node_id) is None


# Downgrade


class Downgrader:
    """A member of the plane in the Master's place, who changes each Ask before B sees it."""

    def __init__(self, insider: Insider, **changes: object) -> None:
        self.insider, self.changes = insider, changes
        self.changed = 0
        insider.network.channel.tap = self._tap

    def _tap(self, message: ControlMessage) -> list[ControlMessage]:
        if message.kind is not Kind.ASK:
            return [message]
        self.changed += 1
        ask = replace(self.insider.read_ask(message.payload), **self.changes)
        if self.insider.standing.grant.teams:
            ask = self.insider.tagged(ask)
        return [replace(message, payload=self.insider.seal_ask(ask))]


LOWERED = [{"auth_level": AuthLevel.HANDSHAKE}, {"suites": [1, 2]}, {"features": 0xFFFF}]


@pytest.mark.parametrize("changes", LOWERED, ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("teams", [[], ["ops"]], ids=["stranger", "team mate"])
def test_downgrade_of_an_ask_on_its_way_is_noticed_at_one_end_or_the_other(teams, changes):
    network = SimNetwork(seed=1, packet_auth=AuthLevel.STRICT)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    downgrader = Downgrader(network.add_insider("downgrader", teams=teams), **changes)
    left.send_packet(right, b"hello")
    network.run(20)
    assert downgrader.changed > 0
    assert never_met(network, left, right)
    if teams:
        assert left.anchor.counters["answer_unexpected"] > 0
    else:
        assert dropped(right, "Ask without a common team") > 0


def test_a_team_mate_who_runs_the_master_cannot_stand_in_the_middle(pair):
    """He puts his own key into the Ask, opens the Answer and seals it anew, to the asker's key."""
    network, left, right = pair.network, pair.left, pair.right
    insider = network.add_insider("middle", teams=["ops"])
    asks: list[bytes] = []

    def tap(message: ControlMessage) -> list[ControlMessage]:
        if message.kind is Kind.ASK and message.sender != insider.handle:
            asks.append(message.payload)
            ask = replace(insider.read_ask(message.payload), kem_public=insider.identity.kem.public)
            return [replace(message, payload=insider.seal_ask(insider.tagged(ask)))]
        if message.kind is Kind.ANSWER:
            ref, sealed = message.payload[2:18], message.payload[18:]
            info = b"VeilNet/1 answer seal"
            plain = insider.identity.kem.open(sealed, info=info, aad=ref)
            ref = handshake.message_ref(asks[-1])
            key = insider.read_ask(asks[-1]).kem_public
            again = seal(network.crypto, key, plain, info=info, aad=ref, entropy=network.entropy)
            return [replace(message, payload=envelope(Kind.ANSWER, ref + again))]
        return [message]

    network.channel.tap = tap
    left.send_packet(right, b"hello")
    network.run(20)
    assert asks
    assert dropped(left, "Answer to another Ask") > 0
    assert never_met(network, left, right)


def test_a_suite_that_nobody_here_knows_is_passed_over_and_alone_it_is_refused(pair):
    network, right = pair.network, pair.right
    newer = network.add_insider("newer", teams=["ops"])
    newer.listen()
    target = Target(TargetKind.ADDRESS, right.address.packed)
    for suites in ([7, 1], [7]):
        ask = newer.tagged(replace(newer.ask(target).ask, suites=suites))
        newer.publish(newer.tag_of(right.address.packed), newer.seal_ask(ask))
        network.run(1)
    assert dropped(right, "Ask without a common suite") == 1
    assert len(newer.heard) == 1
