"""Who a node is: its keys, Guardian's certificate, and the pseudonyms under which it is found."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from cryptography.exceptions import InvalidTag

from conflux.anchor.seal import PLANE_NONCE, Entropy, HybridKey, plane_aead, seal
from conflux.api import SIGN_PUBLIC_BYTES, SIGNATURE_BYTES, CryptoDriver, NodeId, Signer, WireError
from conflux.wire.codec import Reader, Writer
from conflux.wire.control import Kind, envelope
from conflux.wire.credentials import (
    KEY_BYTES,
    Certificate,
    Grant,
    LoginRequest,
    Revocations,
    Revoked,
)

CERTIFICATE_CONTEXT = b"VeilNet/1 certificate"
LOGIN_CONTEXT = b"VeilNet/1 login"
GRANT_CONTEXT = b"VeilNet/1 grant"
GRANT_INFO = b"VeilNet/1 grant seal"

REVOCATIONS_CONTEXT = b"VeilNet/1 revocations"
REVOCATIONS_INFO = b"VeilNet/1 revocations"

PUSH_BINDING = bytes(32)
"""Binds a grant that answers no login: one that Guardian sends on its own."""

CLOCK_SKEW_S = 60
"""How far two honest clocks may differ."""


def due_from(certificate: Certificate) -> float:
    """From when on peers look for the certificate that follows this one, Unix seconds.

    Its owner renews at half of its life, and has an eighth of it for that.
    """
    return certificate.not_after - (certificate.not_after - certificate.not_before) * 3 / 8


def due_again_s(certificate: Certificate) -> float:
    """How long peers wait between two looks, while the owner has no other one."""
    return (certificate.not_after - certificate.not_before) / 32


def node_id(sign_public: bytes) -> NodeId:
    return NodeId(hashlib.sha3_256(sign_public).digest())


def guardian_fingerprint(guardian_public: bytes) -> bytes:
    """32 bytes: what tokens carry of Guardian's ML-DSA key."""
    return hashlib.sha3_256(guardian_public).digest()


class Identity:
    """A node's own keys, made at start, in memory only, erased at the end."""

    __slots__ = ("kem", "node_id", "signer")

    def __init__(self, crypto: CryptoDriver, entropy: Entropy) -> None:
        self.signer: Signer = crypto.generate_signer()
        self.kem = HybridKey(crypto, entropy)
        self.node_id = node_id(self.signer.public)

    def login_request(self, conflux_token: str, *, time_ms: int, entropy: Entropy) -> LoginRequest:
        """Make and sign a request; takes a millisecond. *time_ms* is this machine's clock."""
        request = LoginRequest(
            token_digest=hashlib.sha256(conflux_token.encode()).digest(),
            nonce=entropy(32),
            time_ms=time_ms,
            sign_public=self.signer.public,
            kem_public=self.kem.public,
        )
        return replace(request, signature=self.signer.sign(request.body(), LOGIN_CONTEXT))

    def erase(self) -> None:
        self.signer.erase()
        self.kem.erase()


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified certificate and the NodeId that follows from it."""

    node_id: NodeId
    certificate: Certificate

    def covers(self, address: bytes) -> bool:
        """Tell whether *address* (4 or 16 bytes) is one of the peer's own or in its networks."""
        for own in self.certificate.addresses:
            if own.packed == address:
                return True
        if not self.certificate.networks:
            return False
        kind = IPv4Address if len(address) == 4 else IPv6Address
        return any(kind(address) in network for network in self.certificate.networks)


class GuardianKey:
    """Guardian's ML-DSA public key: what everything that Guardian says is checked with."""

    __slots__ = ("_crypto", "public")

    def __init__(self, crypto: CryptoDriver, public: bytes) -> None:
        self._crypto = crypto
        self.public = public

    def verify_certificate(self, certificate: Certificate, *, plane_id: bytes, wall: float) -> Peer:
        """Check signature, plane and validity at *wall*, Unix seconds. Raises WireError."""
        if not hmac.compare_digest(certificate.plane_id, plane_id):
            raise WireError("certificate of another plane")
        if not certificate.not_before - CLOCK_SKEW_S <= wall < certificate.not_after:
            raise WireError("certificate is not valid now")
        good = self._crypto.verify(
            self.public, certificate.body(), certificate.signature, CERTIFICATE_CONTEXT
        )
        if not good:
            raise WireError("certificate was not signed by Guardian")
        return Peer(node_id(certificate.sign_public), certificate)

    def open_revocations(self, body: bytes, *, plane_id: bytes, plane_key: bytes) -> Revocations:
        """Open what `seal_revocations` made. Raises WireError if a byte of it is wrong."""
        salt = body[:KEY_BYTES]
        head = envelope(Kind.REVOCATIONS, salt)
        try:
            plain = plane_aead(plane_key, salt, REVOCATIONS_INFO).decrypt(
                PLANE_NONCE, body[KEY_BYTES:], head
            )
        except InvalidTag:
            raise WireError("revocations do not open under the plane key") from None
        revocations = Revocations.decode(plain)
        if not hmac.compare_digest(revocations.plane_id, plane_id):
            raise WireError("revocations of another plane")
        signature = revocations.signature
        if not self._crypto.verify(self.public, revocations.body(), signature, REVOCATIONS_CONTEXT):
            raise WireError("revocations were not signed by Guardian")
        return revocations


def seal_revocations(
    guardian: Signer,
    revoked: Sequence[Revoked],
    *,
    plane_id: bytes,
    plane_key: bytes,
    entropy: Entropy,
) -> bytes:
    """Guardian's side: the body of a message that every node of the plane can open and check."""
    bare = Revocations(plane_id=plane_id, revoked=revoked)
    signed = replace(bare, signature=guardian.sign(bare.body(), REVOCATIONS_CONTEXT))
    salt = entropy(KEY_BYTES)
    sealed = plane_aead(plane_key, salt, REVOCATIONS_INFO).encrypt(
        PLANE_NONCE, signed.encode(), envelope(Kind.REVOCATIONS, salt)
    )
    return salt + sealed


def login_binding(request: bytes) -> bytes:
    """32 bytes that tie a grant to the encoded login request that it answers."""
    return hashlib.sha256(request).digest()


def verify_login(crypto: CryptoDriver, data: bytes, *, conflux_token: str) -> LoginRequest:
    """Guardian's side: decode and check token digest and signature. Raises WireError."""
    request = LoginRequest.decode(data)
    digest = hashlib.sha256(conflux_token.encode()).digest()
    if not hmac.compare_digest(request.token_digest, digest):
        raise WireError("login request made for another token")
    if not crypto.verify(request.sign_public, request.body(), request.signature, LOGIN_CONTEXT):
        raise WireError("login request was not signed by its own key")
    return request


def seal_grant(
    crypto: CryptoDriver, guardian: Signer, grant: Grant, *, binding: bytes, entropy: Entropy
) -> bytes:
    """Guardian's side: sign *grant* with *binding*, seal it to the certified node's key."""
    kem_public = grant.certificate.kem_public
    body = grant.encode()
    signature = guardian.sign(_grant_message(binding, kem_public, body), GRANT_CONTEXT)
    plain = Writer().raw(guardian.public).raw(signature).raw(body).done()
    return seal(crypto, kem_public, plain, info=GRANT_INFO, aad=binding, entropy=entropy)


def open_grant(
    crypto: CryptoDriver, identity: Identity, sealed: bytes, *, binding: bytes, fingerprint: bytes
) -> tuple[Grant, GuardianKey]:
    """Open a grant and check that it is this node's own and from the Guardian of *fingerprint*.

    The certificate's own signature and validity are checked too, by the grant's time. Raises
    WireError.
    """
    take = Reader(identity.kem.open(sealed, info=GRANT_INFO, aad=binding))
    public, signature = take.raw(SIGN_PUBLIC_BYTES), take.raw(SIGNATURE_BYTES)
    body = take.rest()
    if not hmac.compare_digest(guardian_fingerprint(public), fingerprint):
        raise WireError("grant from another Guardian than the token names")
    message = _grant_message(binding, identity.kem.public, body)
    if not crypto.verify(public, message, signature, GRANT_CONTEXT):
        raise WireError("grant was not signed by Guardian")
    grant, key = Grant.decode(body), GuardianKey(crypto, public)
    if grant.certificate.hidden:
        raise WireError("grant that hides the node's addresses from itself")
    peer = key.verify_certificate(
        grant.certificate, plane_id=grant.certificate.plane_id, wall=grant.time_ms / 1000
    )
    if peer.node_id != identity.node_id or grant.certificate.kem_public != identity.kem.public:
        raise WireError("grant for another node")
    return grant, key


def sign_certificate(guardian: Signer, certificate: Certificate) -> Certificate:
    """Guardian's side: return *certificate* with its signature."""
    signature = guardian.sign(certificate.body(), CERTIFICATE_CONTEXT)
    return replace(certificate, signature=signature)


def control_prefix(plane_key: bytes) -> str:
    """The plane's own first tokens on the control channel."""
    return "v1." + hmac.digest(plane_key, b"VeilNet/1 plane", "sha256")[:8].hex()


def address_tag(plane_key: bytes, address: bytes) -> bytes:
    """The 16-byte pseudonym of *address* (4 or 16 bytes)."""
    return hmac.digest(plane_key, b"VeilNet/1 address\x00" + address, "sha256")[:16]


def node_tag(plane_key: bytes, node: NodeId) -> bytes:
    """The 16-byte pseudonym of a node: its handle, and where answers to it go."""
    return hmac.digest(plane_key, b"VeilNet/1 node\x00" + node, "sha256")[:16]


def relay_tag(plane_key: bytes) -> bytes:
    """The 16-byte tag that every node of the plane that relays listens to."""
    return hmac.digest(plane_key, b"VeilNet/1 relay", "sha256")[:16]


def _grant_message(binding: bytes, kem_public: bytes, body: bytes) -> bytes:
    return binding + hashlib.sha256(kem_public).digest() + body
