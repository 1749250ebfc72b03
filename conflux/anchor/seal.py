"""Sealing to a key: HPKE base mode (RFC 9180) with X-Wing, HKDF-SHA256 and AES-256-GCM.

X-Wing (draft-connolly-cfrg-xwing-kem, KEM id 0x647A) joins ML-KEM-768 and X25519: broken only if
both are. ML-KEM comes from the crypto driver, the rest from pyca/cryptography. pyca's own HPKE is
tied to its own ML-KEM, so the short key schedule stands here; the tests open each with the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from conflux.api import KEM_CIPHERTEXT_BYTES, KEM_PUBLIC_BYTES, CryptoDriver, WireError
from conflux.wire.credentials import HYBRID_PUBLIC_BYTES

Entropy = Callable[[int], bytes]
"""Returns that many fresh random bytes."""

ENCAPSULATED_BYTES = KEM_CIPHERTEXT_BYTES + 32
SEAL_OVERHEAD_BYTES = ENCAPSULATED_BYTES + 16

PLANE_NONCE = bytes(12)

_XWING_LABEL = b"\\.//^\\"
_HPKE_SUITE = b"HPKE\x64\x7a\x00\x01\x00\x02"


class HybridKey:
    """An X-Wing key pair in memory. `erase` it when its one use or its node is over."""

    __slots__ = ("_kem", "_x25519", "public")

    def __init__(self, crypto: CryptoDriver, entropy: Entropy) -> None:
        self._kem = crypto.generate_kem()
        x25519 = X25519PrivateKey.from_private_bytes(entropy(32))
        self._x25519: X25519PrivateKey | None = x25519
        self.public = self._kem.public + x25519.public_key().public_bytes_raw()

    def decapsulate(self, encapsulated: bytes) -> bytes:
        """Return the X-Wing shared secret. Raises WireError for a wrong length or point.

        Raises ValueError once erased.
        """
        if self._x25519 is None:
            raise ValueError("this X-Wing key was erased")
        if len(encapsulated) != ENCAPSULATED_BYTES:
            raise WireError("encapsulated key of a wrong length")
        ct, ct_x = encapsulated[:KEM_CIPHERTEXT_BYTES], encapsulated[KEM_CIPHERTEXT_BYTES:]
        ss_x = _x25519(self._x25519, ct_x)
        return _combine(self._kem.decapsulate(ct), ss_x, ct_x, self.public[KEM_PUBLIC_BYTES:])

    def open(self, sealed: bytes, *, info: bytes, aad: bytes = b"") -> bytes:
        """Undo `seal`. Raises WireError if a byte is wrong, or info or aad differ."""
        if len(sealed) < SEAL_OVERHEAD_BYTES:
            raise WireError("sealed message shorter than its overhead")
        shared = self.decapsulate(sealed[:ENCAPSULATED_BYTES])
        key, nonce = _key_schedule(shared, info)
        try:
            return AESGCM(key).decrypt(nonce, sealed[ENCAPSULATED_BYTES:], aad)
        except InvalidTag:
            raise WireError("sealed message does not open") from None

    def erase(self) -> None:
        """Wipe what can be wiped and drop the rest. Twice is fine."""
        self._kem.erase()
        self._x25519 = None


def encapsulate(crypto: CryptoDriver, public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
    """X-Wing: return (shared secret, encapsulated key). Raises WireError for a bad *public*."""
    if len(public) != HYBRID_PUBLIC_BYTES:
        raise WireError("X-Wing key of a wrong length")
    ss, ct = crypto.encapsulate(public[:KEM_PUBLIC_BYTES])
    ephemeral = X25519PrivateKey.from_private_bytes(entropy(32))
    pk_x = public[KEM_PUBLIC_BYTES:]
    ct_x = ephemeral.public_key().public_bytes_raw()
    return _combine(ss, _x25519(ephemeral, pk_x), ct_x, pk_x), ct + ct_x


def seal(
    crypto: CryptoDriver,
    public: bytes,
    plaintext: bytes,
    *,
    info: bytes,
    aad: bytes = b"",
    entropy: Entropy,
) -> bytes:
    """RFC 9180 §6.1 SealBase: encapsulated key, then ciphertext. Raises WireError for a bad key."""
    shared, encapsulated = encapsulate(crypto, public, entropy)
    key, nonce = _key_schedule(shared, info)
    return encapsulated + AESGCM(key).encrypt(nonce, plaintext, aad)


def plane_aead(plane_key: bytes, salt: bytes, info: bytes) -> AESGCM:
    """What all of a plane can open. A fresh random *salt* makes a fresh key, so PLANE_NONCE is used
    once under each."""
    return AESGCM(hkdf_expand(hkdf_extract(salt, plane_key), info, 32))


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """RFC 5869 §2.2 with SHA-256."""
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 §2.3 with SHA-256."""
    return HKDFExpand(hashes.SHA256(), size, info).derive(prk)


def hkdf_expand_into(prk: bytes, info: bytes, out: bytearray) -> None:
    """The same, into a buffer of the caller's, which can be wiped."""
    HKDFExpand(hashes.SHA256(), len(out), info).derive_into(prk, out)


def wipe(buffer: bytearray) -> None:
    """Overwrite *buffer* with zeros, where it stands."""
    buffer[:] = bytes(len(buffer))


def _combine(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + _XWING_LABEL).digest()


def _x25519(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        # RFC 7748 §6.1: a small-order point gives zero, which proves nothing.
        raise WireError("X25519 point of small order") from None


def _key_schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    # RFC 9180 §5.1, mode_base: psk and psk_id are empty.
    psk_id_hash = hkdf_extract(b"", b"HPKE-v1" + _HPKE_SUITE + b"psk_id_hash")
    info_hash = hkdf_extract(b"", b"HPKE-v1" + _HPKE_SUITE + b"info_hash" + info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = hkdf_extract(shared, b"HPKE-v1" + _HPKE_SUITE + b"secret")
    return (
        hkdf_expand(secret, b"\x00\x20HPKE-v1" + _HPKE_SUITE + b"key" + context, 32),
        hkdf_expand(secret, b"\x00\x0cHPKE-v1" + _HPKE_SUITE + b"base_nonce" + context, 12),
    )
