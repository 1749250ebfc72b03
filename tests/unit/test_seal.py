"""conflux/anchor/seal.py against published vectors, pyca's own HPKE, and hostile input."""

from __future__ import annotations

import json
import os
from hashlib import shake_256
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from conflux.anchor import seal as seal_module
from conflux.anchor.seal import (
    ENCAPSULATED_BYTES,
    SEAL_OVERHEAD_BYTES,
    HybridKey,
    encapsulate,
    hkdf_expand,
    hkdf_extract,
    seal,
)
from conflux.api import KEM_CIPHERTEXT_BYTES, KEM_PUBLIC_BYTES, WireError
from conflux.wire.credentials import HYBRID_PUBLIC_BYTES
from conflux_crypto_openssl.driver import OpenSslCrypto, OpenSslKemKey

VECTORS = Path(__file__).parents[1] / "vectors"
INFO = b"VeilNet/1 test"

CRYPTO = OpenSslCrypto({})

# The points of order 1, 2, 4 and 8 and their encodings that are not reduced: each gives an all-zero
# secret with every scalar (RFC 7748 §6.1).
P = 2**255 - 19
SMALL_ORDER = [
    value.to_bytes(32, "little")
    for value in (
        0,
        1,
        P - 1,
        P,
        P + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
]


class KeyOfSeed(OpenSslCrypto):
    """OpenSSL, save that its KEM key is that of a 64-byte seed (FIPS 203 §6.1, d and z)."""

    def __init__(self, seed: bytes) -> None:
        super().__init__({})
        self._seed = seed

    def generate_kem(self) -> OpenSslKemKey:
        return OpenSslKemKey(MLKEM768PrivateKey.from_seed_bytes(self._seed))


class KnownEncapsulation(OpenSslCrypto):
    """OpenSSL, save that encapsulation gives what a vector says."""

    def __init__(self, secret: bytes, ciphertext: bytes) -> None:
        super().__init__({})
        self._answer = secret, ciphertext

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return self._answer


def xwing_key(seed: bytes) -> HybridKey:
    """GenerateKeyPairDerand of the X-Wing draft, §5.2: SHAKE-256 makes 96 bytes of the seed."""
    expanded = shake_256(seed).digest(96)

    def entropy(size: int) -> bytes:
        assert size == 32
        return expanded[64:]

    return HybridKey(KeyOfSeed(expanded[:64]), entropy)


def vectors(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / file).read_bytes())["vectors"]
    assert found
    return found


def field(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


@pytest.fixture(scope="module")
def key() -> HybridKey:
    return HybridKey(CRYPTO, os.urandom)


# X-Wing


@pytest.mark.parametrize("vector", vectors("xwing.json"), ids=["1", "2", "3"])
def test_published_xwing_keys_decapsulate_to_the_published_secrets(vector: dict[str, Any]) -> None:
    own = xwing_key(field(vector, "seed"))
    assert own.public == field(vector, "pk")
    assert own.decapsulate(field(vector, "ct")) == field(vector, "ss")


@pytest.mark.parametrize("vector", vectors("xwing.json"), ids=["1", "2", "3"])
def test_xwing_encapsulation_gives_the_published_secrets(vector: dict[str, Any]) -> None:
    """No library makes ML-KEM's half from given randomness; that half comes from the vector."""
    expanded = shake_256(field(vector, "seed")).digest(64)
    ct_m = field(vector, "ct")[:KEM_CIPHERTEXT_BYTES]
    ss_m = MLKEM768PrivateKey.from_seed_bytes(expanded).decapsulate(ct_m)
    x25519_half = field(vector, "eseed")[32:]

    def entropy(size: int) -> bytes:
        assert size == 32
        return x25519_half

    secret, sent = encapsulate(KnownEncapsulation(ss_m, ct_m), field(vector, "pk"), entropy)
    assert sent == field(vector, "ct")
    assert secret == field(vector, "ss")


def test_flipped_encapsulated_key_gives_another_secret(key: HybridKey) -> None:
    secret, sent = encapsulate(CRYPTO, key.public, os.urandom)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, ENCAPSULATED_BYTES * 8 - 1))
    def check(bit: int) -> None:
        assert key.decapsulate(flipped(sent, bit)) != secret

    check()


@pytest.mark.parametrize("size", [0, 1, ENCAPSULATED_BYTES - 1, ENCAPSULATED_BYTES + 1])
def test_encapsulated_key_of_a_wrong_length_is_a_wire_error(key: HybridKey, size: int) -> None:
    with pytest.raises(WireError):
        key.decapsulate(bytes(size))


@pytest.mark.parametrize("size", [0, 1, HYBRID_PUBLIC_BYTES - 1, HYBRID_PUBLIC_BYTES + 1])
def test_public_key_of_a_wrong_length_is_a_wire_error(size: int) -> None:
    with pytest.raises(WireError):
        seal(CRYPTO, bytes(size), b"", info=INFO, entropy=os.urandom)


def test_public_key_with_unreduced_coefficients_is_a_wire_error(key: HybridKey) -> None:
    public = b"\xff" * KEM_PUBLIC_BYTES + key.public[KEM_PUBLIC_BYTES:]
    with pytest.raises(WireError):
        seal(CRYPTO, public, b"", info=INFO, entropy=os.urandom)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_x25519_point_of_small_order_is_a_wire_error(key: HybridKey, point: bytes) -> None:
    with pytest.raises(WireError):
        seal(CRYPTO, key.public[:KEM_PUBLIC_BYTES] + point, b"", info=INFO, entropy=os.urandom)
    _, sent = encapsulate(CRYPTO, key.public, os.urandom)
    with pytest.raises(WireError):
        key.decapsulate(sent[:KEM_CIPHERTEXT_BYTES] + point)
    with pytest.raises(WireError):
        key.open(sent[:KEM_CIPHERTEXT_BYTES] + point + bytes(16), info=INFO)


# HPKE


@pytest.mark.parametrize("vector", vectors("hpke_xwing.json"), ids=["HKDF-SHA256"])
def test_hpke_key_schedule_gives_the_published_key_and_nonce(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published case is of ChaCha20-Poly1305: only the suite's name differs from ours."""
    suite = field(vector, "suite_id")
    assert suite[:-2] == seal_module._HPKE_SUITE[:-2]
    monkeypatch.setattr(seal_module, "_HPKE_SUITE", suite)

    own = xwing_key(field(vector, "skRm"))
    assert own.public == field(vector, "pkRm")
    shared = own.decapsulate(field(vector, "enc"))
    assert shared == field(vector, "shared_secret")
    assert seal_module._key_schedule(shared, field(vector, "info")) == (
        field(vector, "key"),
        field(vector, "base_nonce"),
    )


PYCA = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=2_000), st.binary(max_size=100))
def test_pyca_opens_what_was_sealed_here(plaintext: bytes, info: bytes) -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    sealed = seal(CRYPTO, public, plaintext, info=info, entropy=os.urandom)
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD_BYTES
    assert PYCA.decrypt(sealed, MLKEM768X25519PrivateKey(mlkem, x25519), info) == plaintext


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=2_000), st.binary(max_size=100))
def test_what_pyca_sealed_opens_here(plaintext: bytes, info: bytes) -> None:
    own = HybridKey(CRYPTO, os.urandom)
    public = MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(own.public[:KEM_PUBLIC_BYTES]),
        X25519PublicKey.from_public_bytes(own.public[KEM_PUBLIC_BYTES:]),
    )
    assert own.open(PYCA.encrypt(plaintext, public, info), info=info) == plaintext


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=50), st.binary(max_size=50))
def test_sealed_message_opens_with_its_own_info_and_aad_alone(
    plaintext: bytes, info: bytes, aad: bytes
) -> None:
    own = HybridKey(CRYPTO, os.urandom)
    sealed = seal(CRYPTO, own.public, plaintext, info=info, aad=aad, entropy=os.urandom)
    assert own.open(sealed, info=info, aad=aad) == plaintext
    for wrong_info, wrong_aad in ((info + b".", aad), (info, aad + b"."), (aad + b"!", info)):
        with pytest.raises(WireError):
            own.open(sealed, info=wrong_info, aad=wrong_aad)


def test_aad_is_authenticated_as_rfc_9180_says(key: HybridKey) -> None:
    """pyca's HPKE takes no aad: its half of the proof is AES-256-GCM under the same schedule."""
    sealed = seal(CRYPTO, key.public, b"text", info=INFO, aad=b"aad", entropy=os.urandom)
    shared = key.decapsulate(sealed[:ENCAPSULATED_BYTES])
    aes, nonce = seal_module._key_schedule(shared, INFO)
    assert AESGCM(aes).decrypt(nonce, sealed[ENCAPSULATED_BYTES:], b"aad") == b"text"
    with pytest.raises(InvalidTag):
        AESGCM(aes).decrypt(nonce, sealed[ENCAPSULATED_BYTES:], b"")


def test_every_flipped_bit_is_a_wire_error(key: HybridKey) -> None:
    sealed = seal(CRYPTO, key.public, b"the text", info=INFO, aad=b"aad", entropy=os.urandom)

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(sealed) * 8 - 1))
    def check(bit: int) -> None:
        # X25519 ignores the point's highest bit (RFC 7748 §5); X-Wing hashes it all the same.
        with pytest.raises(WireError):
            key.open(flipped(sealed, bit), info=INFO, aad=b"aad")

    check()
    with pytest.raises(WireError):
        key.open(flipped(sealed, ENCAPSULATED_BYTES * 8 - 1), info=INFO, aad=b"aad")


def test_every_truncation_and_every_tail_is_a_wire_error(key: HybridKey) -> None:
    sealed = seal(CRYPTO, key.public, b"the text", info=INFO, entropy=os.urandom)
    for size in range(len(sealed)):
        with pytest.raises(WireError):
            key.open(sealed[:size], info=INFO)
    with pytest.raises(WireError):
        key.open(sealed + b"\0", info=INFO)


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=SEAL_OVERHEAD_BYTES + 100))
def test_noise_is_a_wire_error(key: HybridKey, noise: bytes) -> None:
    with pytest.raises(WireError):
        key.open(noise, info=INFO)


def test_message_for_another_key_is_a_wire_error(key: HybridKey) -> None:
    sealed = seal(CRYPTO, key.public, b"the text", info=INFO, entropy=os.urandom)
    with pytest.raises(WireError):
        HybridKey(CRYPTO, os.urandom).open(sealed, info=INFO)


def test_both_halves_of_the_hybrid_protect_the_message(key: HybridKey) -> None:
    """Whoever holds one half's private key only does not get the secret."""
    secret, sent = encapsulate(CRYPTO, key.public, os.urandom)
    assert secret != key._kem.decapsulate(sent[:KEM_CIPHERTEXT_BYTES])
    for half in ("_kem", "_x25519"):
        thief = HybridKey(CRYPTO, os.urandom)
        thief.public = key.public
        setattr(thief, half, getattr(key, half))
        assert thief.decapsulate(sent) != secret


def test_erased_key_opens_nothing_any_more() -> None:
    own = HybridKey(CRYPTO, os.urandom)
    sealed = seal(CRYPTO, own.public, b"the text", info=INFO, entropy=os.urandom)
    own.erase()
    own.erase()
    assert own._x25519 is None
    with pytest.raises(ValueError, match="erased"):
        own.open(sealed, info=INFO)


# HKDF


@pytest.mark.parametrize("vector", vectors("rfc5869_sha256.json"), ids=["A.1", "A.2", "A.3"])
def test_hkdf_gives_the_output_of_rfc_5869(vector: dict[str, Any]) -> None:
    prk = hkdf_extract(field(vector, "salt"), field(vector, "IKM"))
    assert prk == field(vector, "PRK")
    assert hkdf_expand(prk, field(vector, "info"), vector["L"]) == field(vector, "OKM")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
