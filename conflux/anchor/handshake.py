"""Ask, Answer, Open: three sealed messages key both directions and the tether between two nodes.

    A                                     B
    make_ask         ── Ask ──►           open_ask        cheap: plane key, clock, team tag
                                          make_answer     certificate, seal, signature
    open_answer      ◄── Answer ──                        certificate, signature, MAC
    make_open        ── Open ──►          open_open       signature
    Secrets                               Secrets

Everything here is a pure function of its arguments, so that the slow ones run in worker threads;
anchor/asking.py and answering.py hold the state, repeats and limits. docs/protocol/handshake.md has
the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag

from conflux.anchor import affinity
from conflux.anchor.identity import CLOCK_SKEW_S, GuardianKey, Identity, Peer
from conflux.anchor.seal import (
    PLANE_NONCE,
    Entropy,
    HybridKey,
    hkdf_expand,
    hkdf_expand_into,
    hkdf_extract,
    plane_aead,
    seal,
    wipe,
)
from conflux.api import CryptoDriver, NodeId, WireError
from conflux.wire.control import (
    REF_BYTES,
    Answer,
    Ask,
    AuthLevel,
    Description,
    Kind,
    Open,
    Purpose,
    Target,
    TargetKind,
    envelope,
)
from conflux.wire.credentials import HASH_BYTES, KEY_BYTES, Certificate, Grant, TeamKey
from conflux.wire.features import TAKES_VIRTIO

SUITE_1 = 1
"""X-Wing, ML-DSA-65, AES-256-GCM, HKDF-SHA-256."""
SUITES = (SUITE_1,)
SUITE_NAMES = {SUITE_1: "X-Wing+ML-DSA-65+AES-256-GCM"}

FEATURES = TAKES_VIRTIO
"""Bits for what every node can take beyond this version (wire/features.py)."""

_ASK_INFO = b"VeilNet/1 ask"
_ANSWER_INFO = b"VeilNet/1 answer seal"
_OPEN_INFO = b"VeilNet/1 open seal"
_ANSWER_CONTEXT = b"VeilNet/1 answer"
_OPEN_CONTEXT = b"VeilNet/1 open"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node is and holds right now. Replaced as a whole when Guardian says something new.

    `revoked` are serials of certificates that count no more.
    """

    crypto: CryptoDriver
    entropy: Entropy
    identity: Identity
    guardian: GuardianKey
    grant: Grant
    revoked: frozenset[int] = frozenset()

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    def verify(self, peer: Ask | Answer, wall: float) -> Peer:
        """Check the certificate that *peer* shows. Raises WireError."""
        if peer.certificate.serial in self.revoked:
            raise WireError("certificate was revoked")
        plane_id = self.grant.certificate.plane_id
        return self.guardian.verify_certificate(peer.certificate, plane_id=plane_id, wall=wall)


@dataclass(frozen=True, slots=True)
class PendingAsk:
    """What A keeps between Ask and Answer. `key` is erased with it."""

    ask: Ask
    key: HybridKey
    teams: Sequence[TeamKey]
    message: bytes

    @property
    def ref(self) -> bytes:
        return message_ref(self.message)


@dataclass(frozen=True, slots=True)
class ReceivedAsk:
    """An Ask that opened and passed every cheap check; nothing in it is certified yet."""

    ask: Ask
    message: bytes
    teams: Sequence[TeamKey]
    tags: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """What B keeps between Answer and Open. `key` is erased with it."""

    received: ReceivedAsk
    peer: Peer
    answer: Answer
    key: HybridKey
    message: bytes

    @property
    def ref(self) -> bytes:
        return message_ref(self.message)


@dataclass(frozen=True, slots=True)
class ReceivedAnswer:
    """An Answer that verified."""

    pending: PendingAsk
    peer: Peer
    answer: Answer
    teams: Sequence[TeamKey]
    message: bytes


@dataclass(frozen=True, slots=True)
class StreamKeys:
    """One direction: 32-byte AES-256 key, 12-byte IV, 8-byte stream id.

    Those of a handshake own their buffers: whoever has made streams of them erases them.
    """

    key: bytes | bytearray
    iv: bytes | bytearray
    stream_id: int

    def erase(self) -> None:
        for buffer in (self.key, self.iv):
            if isinstance(buffer, bytearray):
                wipe(buffer)

    def __repr__(self) -> str:
        return "StreamKeys()"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What both ends derive: A's stream to B, B's to A, and 32 bytes for the tether.

    `transcript` is no secret: the hash of the three messages that it was derived from.
    """

    ask_to_answer: StreamKeys
    answer_to_ask: StreamKeys
    tether: bytes
    transcript: bytes

    def erase(self) -> None:
        """Wipe the streams' keys. What `tether` was handed to has its own copy of it."""
        self.ask_to_answer.erase()
        self.answer_to_ask.erase()

    def __repr__(self) -> str:
        return "Secrets()"


class NoCommonTeam(WireError):
    """An Ask for streams of somebody with whom no team is shared. Nothing in it is certified."""

    def __init__(self, ask: Ask, core_hash: bytes) -> None:
        super().__init__("Ask without a common team")
        self.ask = ask
        self.core_hash = core_hash


def message_ref(message: bytes) -> bytes:
    """16 bytes by which the next message names this one in the clear."""
    return hashlib.sha256(message).digest()[:REF_BYTES]


def make_ask(
    me: Standing,
    target: Target,
    *,
    purpose: Purpose,
    auth_level: AuthLevel,
    tether_kinds: Sequence[str],
    avoid: Sequence[bytes],
    wall: float,
    features: int = FEATURES,
) -> PendingAsk:
    """Begin: a fresh X-Wing key, tags for every team, sealed under the plane key."""
    key = HybridKey(me.crypto, me.entropy)
    bare = Ask(
        nonce=me.entropy(REF_BYTES),
        time_ms=int(wall * 1000),
        purpose=purpose,
        target=target,
        certificate=_shown(me, purpose),
        kem_public=key.public,
        suites=SUITES,
        auth_level=auth_level,
        features=features,
        tether_kinds=tether_kinds,
        avoid=avoid,
    )
    teams = list(me.grant.teams) if purpose is Purpose.STREAM else []
    tags = affinity.make_tags(teams, hashlib.sha256(bare.core()).digest(), me.entropy)
    ask = replace(bare, team_tags=tags)
    salt = me.entropy(KEY_BYTES)
    head = envelope(Kind.ASK, salt)
    body = plane_aead(me.grant.plane_key, salt, _ASK_INFO).encrypt(PLANE_NONCE, ask.encode(), head)
    return PendingAsk(ask, key, teams, head + body)


def open_ask(me: Standing, body: bytes, *, wall: float) -> ReceivedAsk:
    """Open an Ask and make the checks that cost microseconds, strangers' Asks ending here.

    Raises WireError: sealed under another plane key, clocks apart, no common suite, a target that
    is not this node; NoCommonTeam.
    """
    head = envelope(Kind.ASK, body[:KEY_BYTES])
    try:
        plain = plane_aead(me.grant.plane_key, body[:KEY_BYTES], _ASK_INFO).decrypt(
            PLANE_NONCE, body[KEY_BYTES:], head
        )
    except InvalidTag:
        raise WireError("Ask does not open under the plane key") from None
    ask = Ask.decode(plain)
    if abs(ask.time_ms / 1000 - wall) > CLOCK_SKEW_S:
        raise WireError("Ask from another time")
    if not set(SUITES) & set(ask.suites):
        raise WireError("Ask without a common suite")
    if ask.certificate.sign_public == me.identity.signer.public or me.node_id in ask.avoid:
        raise WireError("Ask that is not meant for this node")
    if ask.purpose is Purpose.STREAM and ask.certificate.hidden:
        raise WireError("Ask for streams without the addresses that they are for")
    _check_target(me, ask)
    core_hash = hashlib.sha256(ask.core()).digest()
    common = affinity.common_teams(me.grant.teams, core_hash, ask.team_tags)
    if ask.purpose is Purpose.STREAM and not common:
        raise NoCommonTeam(ask, core_hash)
    if ask.purpose is Purpose.TETHER:
        common = {}
    return ReceivedAsk(ask, envelope(Kind.ASK, body), list(common.values()), sorted(common))


def make_answer(
    me: Standing,
    received: ReceivedAsk,
    peer: Peer,
    *,
    tether: Description,
    auth_level: AuthLevel,
    features: int = FEATURES,
) -> PendingAnswer:
    """Answer a verified Ask: seal, sign. Takes about a millisecond. Raises WireError."""
    key = HybridKey(me.crypto, me.entropy)
    bare = Answer(
        ask_hash=_hash(received.ask),
        suite=next(suite for suite in SUITES if suite in received.ask.suites),
        auth_level=max(auth_level, received.ask.auth_level),
        features=features,
        certificate=_shown(me, received.ask.purpose),
        kem_public=key.public,
        random=me.entropy(KEY_BYTES),
        team_tags=received.tags,
        mac=bytes(HASH_BYTES),
        tether=tether,
    )
    bare = replace(bare, mac=_team_mac(received.teams, bare))
    signature = me.identity.signer.sign(bare.ask_hash + bare.body(), _ANSWER_CONTEXT)
    answer = replace(bare, signature=signature)
    sealed = seal(
        me.crypto,
        received.ask.kem_public,
        answer.encode(),
        info=_ANSWER_INFO,
        aad=message_ref(received.message),
        entropy=me.entropy,
    )
    message = envelope(Kind.ANSWER, message_ref(received.message) + sealed)
    return PendingAnswer(received, peer, answer, key, message)


def open_answer(me: Standing, pending: PendingAsk, body: bytes, *, wall: float) -> ReceivedAnswer:
    """Open and verify an Answer: seal, certificate, signature, teams. Raises WireError."""
    ref, sealed = body[:REF_BYTES], body[REF_BYTES:]
    answer = Answer.decode(pending.key.open(sealed, info=_ANSWER_INFO, aad=ref))
    if not hmac.compare_digest(answer.ask_hash, _hash(pending.ask)):
        raise WireError("Answer to another Ask")
    if answer.suite not in pending.ask.suites or answer.auth_level < pending.ask.auth_level:
        raise WireError("Answer that lowers what was asked for")
    if pending.ask.purpose is Purpose.STREAM and answer.certificate.hidden:
        raise WireError("Answer for streams without the addresses that they are for")
    peer = me.verify(answer, wall)
    if not _covers(peer, pending.ask.target):
        raise WireError("Answer from a node that is not the one asked for")
    signed = answer.ask_hash + answer.body()
    if not me.crypto.verify(
        peer.certificate.sign_public, signed, answer.signature, _ANSWER_CONTEXT
    ):
        raise WireError("Answer with a false signature")
    teams = _answered_teams(pending, answer)
    if not hmac.compare_digest(answer.mac, _team_mac(teams, answer)):
        raise WireError("Answer without the teams that it claims")
    return ReceivedAnswer(pending, peer, answer, teams, envelope(Kind.ANSWER, body))


def make_open(
    me: Standing, received: ReceivedAnswer, *, tether: Description
) -> tuple[bytes, Secrets]:
    """Finish at A: return the Open to send and the secrets. Takes about a millisecond."""
    bare = Open(
        answer_hash=hashlib.sha256(received.answer.encode()).digest(),
        random=me.entropy(KEY_BYTES),
        tether=tether,
    )
    signed = received.answer.ask_hash + bare.body()
    opening = replace(bare, signature=me.identity.signer.sign(signed, _OPEN_CONTEXT))
    ref = message_ref(received.message)
    sealed = seal(
        me.crypto,
        received.answer.kem_public,
        opening.encode(),
        info=_OPEN_INFO,
        aad=ref,
        entropy=me.entropy,
    )
    secrets = _derive(received.teams, received.answer, opening)
    return envelope(Kind.OPEN, ref + sealed), secrets


def open_open(me: Standing, pending: PendingAnswer, body: bytes) -> tuple[Open, Secrets]:
    """Finish at B: verify Open and derive the secrets. Raises WireError."""
    ref, sealed = body[:REF_BYTES], body[REF_BYTES:]
    opening = Open.decode(pending.key.open(sealed, info=_OPEN_INFO, aad=ref))
    expected = hashlib.sha256(pending.answer.encode()).digest()
    if not hmac.compare_digest(opening.answer_hash, expected):
        raise WireError("Open for another Answer")
    signed = pending.answer.ask_hash + opening.body()
    public = pending.peer.certificate.sign_public
    if not me.crypto.verify(public, signed, opening.signature, _OPEN_CONTEXT):
        raise WireError("Open with a false signature")
    return opening, _derive(pending.received.teams, pending.answer, opening)


def _check_target(me: Standing, ask: Ask) -> None:
    kind, value = ask.target.kind, ask.target.value
    if kind is TargetKind.ANY_RELAY:
        if ask.purpose is not Purpose.TETHER:
            raise WireError("streams go to somebody in particular")
    elif kind is TargetKind.ADDRESS and ask.purpose is not Purpose.STREAM:
        # Without a team tag nobody may learn who has an address, nor whether anybody has.
        raise WireError("addresses are asked for streams only")
    elif not _covers(Peer(me.node_id, me.grant.certificate), ask.target):
        raise WireError(f"Ask for another {kind.name.lower()} of {len(value)} bytes")


def _shown(me: Standing, purpose: Purpose) -> Certificate:
    """Who only relays for us, or we for him, learns nothing of our addresses."""
    certificate = me.grant.certificate
    return certificate if purpose is Purpose.STREAM else certificate.bare()


def _covers(peer: Peer, target: Target) -> bool:
    if target.kind is TargetKind.ADDRESS:
        return peer.covers(target.value)
    if target.kind is TargetKind.NODE:
        return hmac.compare_digest(peer.node_id, target.value)
    return True


def _answered_teams(pending: PendingAsk, answer: Answer) -> list[TeamKey]:
    core_hash = hashlib.sha256(pending.ask.core()).digest()
    common = affinity.common_teams(pending.teams, core_hash, answer.team_tags)
    if len(common) != len(answer.team_tags) or list(answer.team_tags) != sorted(common):
        raise WireError("Answer with a team tag that was not asked with")
    if pending.ask.purpose is Purpose.STREAM and not common:
        raise WireError("Answer without a common team")
    return list(common.values())


def _team_mac(teams: Sequence[TeamKey], answer: Answer) -> bytes:
    key = affinity.team_salt(teams)
    return hmac.digest(key, b"VeilNet/1 answer mac\x00" + answer.claims(), "sha256")


def _hash(ask: Ask) -> bytes:
    return hashlib.sha256(ask.encode()).digest()


def _derive(teams: Sequence[TeamKey], answer: Answer, opening: Open) -> Secrets:
    # The Answer holds the Ask's hash, the Open the Answer's: their chain is the transcript.
    transcript = hashlib.sha256(
        answer.ask_hash + opening.answer_hash + hashlib.sha256(opening.encode()).digest()
    ).digest()
    prk = hkdf_extract(affinity.team_salt(teams), opening.random + answer.random + transcript)

    def expand(label: bytes, size: int) -> bytes:
        return hkdf_expand(prk, b"VeilNet/1 " + label + b"\x00" + transcript, size)

    def expand_own(label: bytes, size: int) -> bytearray:
        out = bytearray(size)
        hkdf_expand_into(prk, b"VeilNet/1 " + label + b"\x00" + transcript, out)
        return out

    def stream(direction: bytes) -> StreamKeys:
        return StreamKeys(
            key=expand_own(direction + b" key", 32),
            iv=expand_own(direction + b" iv", 12),
            stream_id=int.from_bytes(expand(direction + b" stream id", 8), "big"),
        )

    return Secrets(
        stream(b"ask to answer"), stream(b"answer to ask"), expand(b"tether", 32), transcript
    )
