"""conflux/anchor/identity.py: login and grant from end to end, and every lie about them refused."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conflux.anchor.identity import (
    CERTIFICATE_CONTEXT,
    CLOCK_SKEW_S,
    GRANT_CONTEXT,
    GRANT_INFO,
    LOGIN_CONTEXT,
    PUSH_BINDING,
    GuardianKey,
    Identity,
    Peer,
    address_tag,
    control_prefix,
    guardian_fingerprint,
    login_binding,
    node_id,
    node_tag,
    open_grant,
    relay_tag,
    seal_grant,
    sign_certificate,
    verify_login,
)
from conflux.anchor.seal import seal
from conflux.api import SIGN_PUBLIC_BYTES, SIGNATURE_BYTES, ControlCredentials, Signer, WireError
from conflux.wire.credentials import Certificate, Grant, LoginRequest, TeamKey
from conflux_crypto_openssl.driver import OpenSslCrypto

CRYPTO = OpenSslCrypto({})
TOKEN = "conflux-token"
NOW = 1_800_000_000
PLANE = bytes(range(16))
OTHER_PLANE = bytes(16)


@pytest.fixture(scope="module")
def guardian() -> Signer:
    return CRYPTO.load_signer(bytes(range(32)))


@pytest.fixture(scope="module")
def other_guardian() -> Signer:
    return CRYPTO.load_signer(bytes(32))


@pytest.fixture(scope="module")
def node() -> Identity:
    return Identity(CRYPTO, os.urandom)


@pytest.fixture(scope="module")
def other_node() -> Identity:
    return Identity(CRYPTO, os.urandom)


def certificate_of(node: Identity) -> Certificate:
    return Certificate(
        serial=1,
        conflux_id=bytes(16),
        plane_id=PLANE,
        sign_public=node.signer.public,
        kem_public=node.kem.public,
        addresses=(ip_interface("10.0.0.7/16"),),
        not_before=NOW,
        not_after=NOW + 86_400,
    )


def grant_of(certificate: Certificate) -> Grant:
    return Grant(
        revision=3,
        time_ms=NOW * 1_000,
        certificate=certificate,
        plane_name="prod",
        plane_key=bytes(32),
        teams=(TeamKey(team_id=bytes(16), epoch=1, key=bytes(range(32)), name="blue"),),
        control=ControlCredentials(
            urls=("nats://127.0.0.1:4222",),
            prefix="v1.00",
            handle=bytes(16),
            tags=(bytes(16),),
            shared_tag=bytes(16),
            jwt="jwt",
            seed="seed",
        ),
    )


def request_of(node: Identity, token: str = TOKEN) -> bytes:
    return node.login_request(token, time_ms=NOW * 1_000, entropy=os.urandom).encode()


# The whole way


def test_login_and_grant_go_there_and_back(guardian: Signer, node: Identity) -> None:
    data = request_of(node)
    request = verify_login(CRYPTO, data, conflux_token=TOKEN)
    assert request.sign_public == node.signer.public
    assert request.kem_public == node.kem.public
    assert request.time_ms == NOW * 1_000

    grant = grant_of(sign_certificate(guardian, certificate_of(node)))
    sealed = seal_grant(CRYPTO, guardian, grant, binding=login_binding(data), entropy=os.urandom)
    opened, key = open_grant(
        CRYPTO,
        node,
        sealed,
        binding=login_binding(data),
        fingerprint=guardian_fingerprint(guardian.public),
    )
    assert opened == grant
    assert key.public == guardian.public
    peer = key.verify_certificate(opened.certificate, plane_id=PLANE, wall=NOW)
    assert peer == Peer(node.node_id, opened.certificate)


def test_every_start_of_a_node_has_another_id(node: Identity, other_node: Identity) -> None:
    assert node.node_id == node_id(node.signer.public)
    assert len(node.node_id) == 32
    assert node.node_id != other_node.node_id


def test_two_requests_never_have_the_same_binding(node: Identity) -> None:
    assert login_binding(request_of(node)) != login_binding(request_of(node))


def test_token_itself_is_not_in_the_request(node: Identity) -> None:
    assert TOKEN.encode() not in request_of(node)


# Lies in a login request


def test_request_replayed_with_another_token_is_refused(node: Identity) -> None:
    with pytest.raises(WireError, match="another token"):
        verify_login(CRYPTO, request_of(node), conflux_token="somebody-else's")


def test_request_with_another_token_put_in_is_refused(node: Identity) -> None:
    stolen = LoginRequest.decode(request_of(node))
    mine = LoginRequest.decode(request_of(node, "mine"))
    forged = replace(stolen, token_digest=mine.token_digest)
    with pytest.raises(WireError, match="not signed"):
        verify_login(CRYPTO, forged.encode(), conflux_token="mine")


@pytest.mark.parametrize("field", ["nonce", "time_ms", "sign_public", "kem_public"])
def test_request_with_a_field_of_another_is_refused(
    node: Identity, other_node: Identity, field: str
) -> None:
    own = LoginRequest.decode(request_of(node))
    other = LoginRequest.decode(
        other_node.login_request(TOKEN, time_ms=1, entropy=os.urandom).encode()
    )
    forged = replace(own, **{field: getattr(other, field)})
    with pytest.raises(WireError, match="not signed"):
        verify_login(CRYPTO, forged.encode(), conflux_token=TOKEN)


def test_request_signed_for_another_purpose_is_refused(node: Identity) -> None:
    unsigned = LoginRequest.decode(request_of(node))
    for context in (b"", CERTIFICATE_CONTEXT, GRANT_CONTEXT, LOGIN_CONTEXT + b"."):
        forged = replace(unsigned, signature=node.signer.sign(unsigned.body(), context))
        with pytest.raises(WireError, match="not signed"):
            verify_login(CRYPTO, forged.encode(), conflux_token=TOKEN)


def test_request_with_any_bit_flipped_is_refused(node: Identity) -> None:
    data = request_of(node)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(data) * 8 - 1))
    def check(bit: int) -> None:
        with pytest.raises(WireError):
            verify_login(CRYPTO, flipped(data, bit), conflux_token=TOKEN)

    check()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_login_request(noise: bytes) -> None:
    with pytest.raises(WireError):
        verify_login(CRYPTO, noise, conflux_token=TOKEN)


# Lies in a grant

Opens = Callable[..., Grant]


@pytest.fixture
def opens(guardian: Signer, node: Identity) -> Opens:
    """Open as the node does that logged in with *binding* at the Guardian of its token."""

    def call(sealed: bytes, binding: bytes = b"b" * 32, fingerprint: bytes | None = None) -> Grant:
        grant, _ = open_grant(
            CRYPTO,
            node,
            sealed,
            binding=binding,
            fingerprint=fingerprint or guardian_fingerprint(guardian.public),
        )
        return grant

    return call


def sealed_by(guardian: Signer, grant: Grant, *, binding: bytes = b"b" * 32) -> bytes:
    return seal_grant(CRYPTO, guardian, grant, binding=binding, entropy=os.urandom)


def test_honest_grant_opens(guardian: Signer, node: Identity, opens: Opens) -> None:
    """The control of all the tests below: what they change is what is refused."""
    grant = grant_of(sign_certificate(guardian, certificate_of(node)))
    assert opens(sealed_by(guardian, grant)) == grant


def test_grant_of_another_guardian_is_refused(
    other_guardian: Signer, node: Identity, opens: Opens
) -> None:
    grant = grant_of(sign_certificate(other_guardian, certificate_of(node)))
    with pytest.raises(WireError, match="another Guardian"):
        opens(sealed_by(other_guardian, grant))


def test_grant_that_only_names_the_right_guardian_is_refused(
    guardian: Signer, other_guardian: Signer, node: Identity, opens: Opens
) -> None:
    class Impostor(Signer):
        public = guardian.public

        def sign(self, message: bytes, context: bytes) -> bytes:
            return other_guardian.sign(message, context)

    grant = grant_of(sign_certificate(guardian, certificate_of(node)))
    with pytest.raises(WireError, match="not signed"):
        opens(sealed_by(Impostor(), grant))


def test_grant_with_a_certificate_of_another_guardian_is_refused(
    guardian: Signer, other_guardian: Signer, node: Identity, opens: Opens
) -> None:
    grant = grant_of(sign_certificate(other_guardian, certificate_of(node)))
    with pytest.raises(WireError, match="certificate was not signed"):
        opens(sealed_by(guardian, grant))


def test_grant_sealed_to_another_node_does_not_open(
    guardian: Signer, other_node: Identity, opens: Opens
) -> None:
    grant = grant_of(sign_certificate(guardian, certificate_of(other_node)))
    with pytest.raises(WireError, match="does not open"):
        opens(sealed_by(guardian, grant))


def test_grant_of_another_node_sealed_anew_to_this_one_is_refused(
    guardian: Signer, node: Identity, other_node: Identity, opens: Opens
) -> None:
    """A node that got a grant must not be able to pass it on as somebody else's."""
    grant = grant_of(sign_certificate(guardian, certificate_of(other_node)))
    plain = other_node.kem.open(sealed_by(guardian, grant), info=GRANT_INFO, aad=b"b" * 32)
    passed_on = seal(
        CRYPTO, node.kem.public, plain, info=GRANT_INFO, aad=b"b" * 32, entropy=os.urandom
    )
    with pytest.raises(WireError, match="grant was not signed"):
        opens(passed_on)


@pytest.mark.parametrize("field", ["sign_public", "kem_public"])
def test_grant_with_another_nodes_key_in_its_certificate_is_refused(
    guardian: Signer, node: Identity, other_node: Identity, opens: Opens, field: str
) -> None:
    """Even Guardian's own mistake must not give a node a certificate that it has no key for."""
    mixed = replace(certificate_of(node), **{field: getattr(certificate_of(other_node), field)})
    grant = grant_of(sign_certificate(guardian, mixed))
    plain = guardian.public + signed_grant(guardian, grant, node) + grant.encode()
    sealed = seal(
        CRYPTO, node.kem.public, plain, info=GRANT_INFO, aad=b"b" * 32, entropy=os.urandom
    )
    with pytest.raises(WireError, match="another node"):
        opens(sealed)


def test_grant_with_another_binding_does_not_open(
    guardian: Signer, node: Identity, opens: Opens
) -> None:
    """An answer to one login is none to the next, and neither is what Guardian pushed."""
    grant = grant_of(sign_certificate(guardian, certificate_of(node)))
    for binding in (b"a" * 32, PUSH_BINDING):
        with pytest.raises(WireError, match="does not open"):
            opens(sealed_by(guardian, grant, binding=binding))


def test_grant_rebound_by_a_relayer_is_refused(
    guardian: Signer, node: Identity, opens: Opens
) -> None:
    """The binding is signed too, not only sealed: whoever knows the text cannot bind it anew."""
    grant = grant_of(sign_certificate(guardian, certificate_of(node)))
    plain = node.kem.open(
        sealed_by(guardian, grant, binding=PUSH_BINDING), info=GRANT_INFO, aad=PUSH_BINDING
    )
    rebound = seal(
        CRYPTO, node.kem.public, plain, info=GRANT_INFO, aad=b"b" * 32, entropy=os.urandom
    )
    with pytest.raises(WireError, match="grant was not signed"):
        opens(rebound)


@pytest.mark.parametrize("time_ms", [0, (NOW - CLOCK_SKEW_S - 1) * 1_000, (NOW + 86_400) * 1_000])
def test_grant_whose_certificate_is_not_valid_at_its_time_is_refused(
    guardian: Signer, node: Identity, opens: Opens, time_ms: int
) -> None:
    grant = replace(grant_of(sign_certificate(guardian, certificate_of(node))), time_ms=time_ms)
    with pytest.raises(WireError, match="not valid now"):
        opens(sealed_by(guardian, grant))


def test_grant_with_any_bit_flipped_is_refused(
    guardian: Signer, node: Identity, opens: Opens
) -> None:
    sealed = sealed_by(guardian, grant_of(sign_certificate(guardian, certificate_of(node))))

    @settings(max_examples=80, deadline=None)
    @given(st.integers(0, len(sealed) * 8 - 1))
    def check(bit: int) -> None:
        with pytest.raises(WireError):
            opens(flipped(sealed, bit))

    check()


def test_anything_else_sealed_to_the_node_is_refused(node: Identity, opens: Opens) -> None:
    """The node's key is public: anybody can seal any bytes to it."""

    @settings(max_examples=80, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=100),
            st.integers(0, 7_000).map(bytes),
            st.just(bytes(SIGN_PUBLIC_BYTES + SIGNATURE_BYTES)),
        )
    )
    def check(plain: bytes) -> None:
        sealed = seal(
            CRYPTO, node.kem.public, plain, info=GRANT_INFO, aad=b"b" * 32, entropy=os.urandom
        )
        with pytest.raises(WireError):
            opens(sealed)

    check()


def test_malformed_grant_that_guardian_signed_is_a_wire_error(
    guardian: Signer, node: Identity, opens: Opens
) -> None:
    body = grant_of(sign_certificate(guardian, certificate_of(node))).encode()[:-1]
    message = b"b" * 32 + kem_digest(node) + body
    plain = guardian.public + guardian.sign(message, GRANT_CONTEXT) + body
    sealed = seal(
        CRYPTO, node.kem.public, plain, info=GRANT_INFO, aad=b"b" * 32, entropy=os.urandom
    )
    with pytest.raises(WireError, match="shorter"):
        opens(sealed)


def test_erased_identity_opens_and_signs_nothing(guardian: Signer) -> None:
    node = Identity(CRYPTO, os.urandom)
    sealed = sealed_by(guardian, grant_of(sign_certificate(guardian, certificate_of(node))))
    node.erase()
    node.erase()
    with pytest.raises(ValueError, match="erased"):
        request_of(node)
    with pytest.raises(ValueError, match="erased"):
        open_grant(CRYPTO, node, sealed, binding=b"b" * 32, fingerprint=bytes(32))


# Lies in a certificate


@pytest.mark.parametrize(
    ("wall", "valid"),
    [
        (NOW - CLOCK_SKEW_S - 0.001, False),
        (NOW - CLOCK_SKEW_S, True),
        (NOW + 86_399.999, True),
        (NOW + 86_400, False),
    ],
)
def test_certificate_is_valid_from_a_skew_before_its_start_to_its_end(
    guardian: Signer, node: Identity, wall: float, valid: bool
) -> None:
    key = GuardianKey(CRYPTO, guardian.public)
    certificate = sign_certificate(guardian, certificate_of(node))
    if valid:
        assert key.verify_certificate(certificate, plane_id=PLANE, wall=wall)
        return
    with pytest.raises(WireError, match="not valid now"):
        key.verify_certificate(certificate, plane_id=PLANE, wall=wall)


def test_certificate_of_another_plane_is_refused(guardian: Signer, node: Identity) -> None:
    certificate = sign_certificate(guardian, certificate_of(node))
    with pytest.raises(WireError, match="another plane"):
        GuardianKey(CRYPTO, guardian.public).verify_certificate(
            certificate, plane_id=OTHER_PLANE, wall=NOW
        )


@pytest.mark.parametrize(
    "lie",
    [
        {"serial": 2},
        {"conflux_id": b"x" * 16},
        {"portal": True},
        {"not_after": NOW + 90_000},
        {"addresses": (ip_interface("10.0.0.8/16"),)},
        {"addresses": (ip_interface("10.0.0.7/24"),)},
        {"networks": (ip_network("0.0.0.0/0"),)},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_certificate_changed_after_it_was_signed_is_refused(
    guardian: Signer, node: Identity, lie: dict[str, object]
) -> None:
    certificate = sign_certificate(guardian, certificate_of(node))
    forged = replace(certificate, **lie)
    with pytest.raises(WireError, match="not signed"):
        GuardianKey(CRYPTO, guardian.public).verify_certificate(forged, plane_id=PLANE, wall=NOW)


def test_certificate_signed_as_something_else_is_refused(guardian: Signer, node: Identity) -> None:
    unsigned = certificate_of(node)
    for context in (b"", LOGIN_CONTEXT, GRANT_CONTEXT):
        forged = replace(unsigned, signature=guardian.sign(unsigned.body(), context))
        with pytest.raises(WireError, match="not signed"):
            GuardianKey(CRYPTO, guardian.public).verify_certificate(
                forged, plane_id=PLANE, wall=NOW
            )


def test_peer_covers_its_addresses_and_networks_and_nothing_else(node: Identity) -> None:
    certificate = replace(
        certificate_of(node),
        addresses=(ip_interface("10.0.0.7/16"), ip_interface("fd00::7/64")),
        networks=(ip_network("192.168.4.0/24"), ip_network("fd01::/32")),
    )
    peer = Peer(node.node_id, certificate)
    for text in ("10.0.0.7", "fd00::7", "192.168.4.200", "fd01::1"):
        assert peer.covers(ip_address(text).packed)
    for text in ("10.0.0.8", "fd00::8", "192.168.5.1", "fd02::1", "::a00:7", "::ffff:10.0.0.7"):
        assert not peer.covers(ip_address(text).packed)
    assert not Peer(node.node_id, certificate_of(node)).covers(ip_address("10.0.0.8").packed)


# Pseudonyms


def test_tags_differ_by_purpose_plane_and_subject(node: Identity, other_node: Identity) -> None:
    """An address of 16 bytes, a NodeId and "any relay" must never share a tag."""
    tags = [
        tag
        for key in (bytes(32), b"k" * 32)
        for tag in (
            address_tag(key, b"\x0a\x00\x00\x07"),
            address_tag(key, bytes(16)),
            address_tag(key, node.node_id),
            node_tag(key, node.node_id),
            node_tag(key, other_node.node_id),
            relay_tag(key),
        )
    ]
    assert {len(tag) for tag in tags} == {16}
    assert len(set(tags)) == len(tags)


def test_pseudonyms_are_those_of_the_protocol_page() -> None:
    """docs/protocol/control.md §1, computed here once by the words of the page."""
    key = bytes(range(32))

    def mac(message: bytes) -> bytes:
        return hmac.new(key, message, hashlib.sha256).digest()

    assert control_prefix(key) == "v1." + mac(b"VeilNet/1 plane")[:8].hex()
    assert address_tag(key, b"\x0a\x00\x00\x01") == mac(b"VeilNet/1 address\0\x0a\0\0\x01")[:16]
    assert relay_tag(key) == mac(b"VeilNet/1 relay")[:16]


def kem_digest(node: Identity) -> bytes:
    return hashlib.sha256(node.kem.public).digest()


def signed_grant(guardian: Signer, grant: Grant, node: Identity) -> bytes:
    return guardian.sign(b"b" * 32 + kem_digest(node) + grant.encode(), GRANT_CONTEXT)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
