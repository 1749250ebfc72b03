"""Every crypto driver takes every other's keys, ciphertexts and signatures, and refuses the rest.

Each test runs for each pair of the drivers of this workspace, and against published vectors.
"""

from __future__ import annotations

import importlib
import itertools
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conflux.api import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    CryptoDriver,
    DriverInfo,
    Signer,
    Unavailable,
    WireError,
)

VECTORS = Path(__file__).parents[1] / "vectors"
NAMES = ("openssl", "oqs", "pqcrypto")
PAIRS = list(itertools.product(NAMES, NAMES))

COMMON_CONTEXT_BYTES = 253
"""What all of them take; pqcrypto 1.0 refuses the two greatest lengths of FIPS 204."""

Q = 3_329
"""ML-KEM's modulus (FIPS 203 §2.4)."""

# Making keys and signatures with the slowest driver takes 10 ms: few examples, no deadline.
few = settings(max_examples=15, deadline=None)


@cache
def load(name: str) -> CryptoDriver | str:
    """Return the driver, or why it cannot run here."""
    plugin = importlib.import_module(f"conflux_crypto_{name}.plugin")
    info: DriverInfo = plugin.conflux_crypto_driver()
    assert info.name == name
    assert info.probe is not None
    try:
        info.probe()
    except Unavailable as error:
        return str(error)
    module, _, attribute = info.target.partition(":")
    driver: CryptoDriver = getattr(importlib.import_module(module), attribute)({})
    return driver


def driver(name: str) -> CryptoDriver:
    found = load(name)
    if isinstance(found, str):
        pytest.skip(f"{name}: {found} (plugins/crypto_oqs/tools/build-liboqs builds liboqs)")
    return found


@cache
def signer(name: str) -> Signer:
    """One key pair per driver, since making and using them is what costs time here."""
    return driver(name).generate_signer()


def vectors(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / file).read_bytes())["vectors"]
    assert found
    return found


@pytest.fixture(params=PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    for name in request.param:
        driver(name)
    names: tuple[str, str] = request.param
    return names


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    driver(request.param)
    found: str = request.param
    return found


# ML-KEM-768


def test_secret_sent_by_one_driver_is_received_by_the_other(pair: tuple[str, str]) -> None:
    sender, receiver = driver(pair[0]), driver(pair[1])
    key = receiver.generate_kem()
    secret, ciphertext = sender.encapsulate(key.public)
    assert key.decapsulate(ciphertext) == secret


def test_ciphertext_with_any_bit_flipped_gives_another_secret(pair: tuple[str, str]) -> None:
    key = driver(pair[1]).generate_kem()
    secret, ciphertext = driver(pair[0]).encapsulate(key.public)

    @few
    @given(st.integers(0, KEM_CIPHERTEXT_BYTES * 8 - 1))
    def check(bit: int) -> None:
        assert key.decapsulate(flipped(ciphertext, bit)) != secret

    check()


def test_ciphertext_for_another_key_gives_another_secret(pair: tuple[str, str]) -> None:
    receiver = driver(pair[1])
    key, other = receiver.generate_kem(), receiver.generate_kem()
    secret, ciphertext = driver(pair[0]).encapsulate(key.public)
    assert other.decapsulate(ciphertext) != secret


def test_ciphertext_of_every_wrong_length_is_a_wire_error(name: str) -> None:
    key = driver(name).generate_kem()
    for size in (0, 1, 32, KEM_CIPHERTEXT_BYTES - 1, KEM_CIPHERTEXT_BYTES + 1, 70_000):
        with pytest.raises(WireError):
            key.decapsulate(bytes(size))


def test_any_reduced_key_is_taken_and_any_other_refused(name: str) -> None:
    """FIPS 203 §7.2: a coefficient of q or more makes an encapsulation key invalid."""
    crypto = driver(name)

    @few
    @given(
        st.lists(st.integers(0, Q - 1), min_size=768, max_size=768),
        st.binary(min_size=32, max_size=32),
        st.integers(0, 767),
        st.integers(Q, 4_095),
    )
    def check(coefficients: list[int], rho: bytes, at: int, too_large: int) -> None:
        secret, ciphertext = crypto.encapsulate(packed(coefficients) + rho)
        assert (len(secret), len(ciphertext)) == (32, KEM_CIPHERTEXT_BYTES)
        coefficients[at] = too_large
        with pytest.raises(WireError):
            crypto.encapsulate(packed(coefficients) + rho)

    check()


def test_key_of_a_wrong_length_is_a_wire_error(name: str) -> None:
    crypto = driver(name)

    @few
    @given(near(KEM_PUBLIC_BYTES))
    def check(public: bytes) -> None:
        assume(len(public) != KEM_PUBLIC_BYTES)
        with pytest.raises(WireError):
            crypto.encapsulate(public)

    check()


def test_published_encapsulation_keys_are_judged_rightly(name: str) -> None:
    crypto = driver(name)
    wrong = []
    for case in vectors("wycheproof_mlkem768_ek.json"):
        try:
            crypto.encapsulate(bytes.fromhex(case["ek"]))
            taken = True
        except WireError:
            taken = False
        if taken != case["valid"]:
            wrong.append(case["tcId"])
    assert not wrong


# ML-DSA-65


def test_signature_by_one_driver_is_taken_by_the_other(pair: tuple[str, str]) -> None:
    signs, verifies = signer(pair[0]), driver(pair[1])

    @few
    @given(st.binary(max_size=300), st.binary(max_size=COMMON_CONTEXT_BYTES))
    def check(message: bytes, context: bytes) -> None:
        signature = signs.sign(message, context)
        assert len(signature) == SIGNATURE_BYTES
        assert verifies.verify(signs.public, message, signature, context)

    check()


def test_signature_is_refused_under_any_other_context_message_or_key(
    pair: tuple[str, str],
) -> None:
    signs, verifies = signer(pair[0]), driver(pair[1])
    other = verifies.generate_signer().public
    message, context = b"the message", b"VeilNet/1 test"
    signature = signs.sign(message, context)

    @few
    @given(st.binary(max_size=40), st.binary(max_size=COMMON_CONTEXT_BYTES))
    def check(another_message: bytes, another_context: bytes) -> None:
        taken = verifies.verify(signs.public, another_message, signature, another_context)
        assert taken == ((another_message, another_context) == (message, context))

    check()
    assert verifies.verify(signs.public, message, signature, context)
    # Where the context ends and the message begins must not be a matter of taste.
    assert not verifies.verify(signs.public, context + message, signature, b"")
    assert not verifies.verify(signs.public, message[1:], signature, context + message[:1])
    assert not verifies.verify(other, message, signature, context)


def test_signature_with_any_bit_flipped_is_refused(pair: tuple[str, str]) -> None:
    signs, verifies = signer(pair[0]), driver(pair[1])
    signature = signs.sign(b"m", b"c")

    @few
    @given(st.integers(0, SIGNATURE_BYTES * 8 - 1))
    def check(bit: int) -> None:
        assert not verifies.verify(signs.public, b"m", flipped(signature, bit), b"c")

    check()


def test_public_key_with_any_bit_flipped_is_refused(pair: tuple[str, str]) -> None:
    signs, verifies = signer(pair[0]), driver(pair[1])
    signature = signs.sign(b"m", b"c")

    @few
    @given(st.integers(0, SIGN_PUBLIC_BYTES * 8 - 1))
    def check(bit: int) -> None:
        assert not verifies.verify(flipped(signs.public, bit), b"m", signature, b"c")

    check()


def test_noise_never_verifies_and_never_raises(name: str) -> None:
    crypto = driver(name)

    @few
    @given(
        near(SIGN_PUBLIC_BYTES),
        st.binary(max_size=20),
        near(SIGNATURE_BYTES),
        st.binary(max_size=300),
    )
    def check(public: bytes, message: bytes, signature: bytes, context: bytes) -> None:
        assert crypto.verify(public, message, signature, context) is False

    check()


def test_context_that_is_too_long_cannot_be_signed_and_does_not_verify(name: str) -> None:
    with pytest.raises(ValueError, match=r"[Cc]ontext"):
        signer(name).sign(b"m", bytes(256))
    signature = signer(name).sign(b"m", b"")
    assert driver(name).verify(signer(name).public, b"m", signature, bytes(256)) is False


def test_published_signatures_are_judged_rightly(name: str) -> None:
    crypto = driver(name)
    longest = 255 if name != "pqcrypto" else COMMON_CONTEXT_BYTES
    wrong, judged = [], 0
    for case in vectors("wycheproof_mldsa65_verify.json"):
        public, message, context, signature = (
            bytes.fromhex(case[field]) for field in ("public", "msg", "ctx", "sig")
        )
        valid = case["valid"] and len(context) <= longest
        judged += valid
        if crypto.verify(public, message, signature, context) is not valid:
            wrong.append((case["tcId"], case["comment"]))
    assert not wrong
    assert judged >= 14


def test_published_seeds_give_the_published_keys(name: str) -> None:
    crypto = driver(name)
    for case in vectors("wycheproof_mldsa65_seed.json"):
        seed, public = bytes.fromhex(case["seed"]), bytes.fromhex(case["public"])
        if name != "openssl":
            with pytest.raises(Unavailable, match="seed"):
                crypto.load_signer(seed)
            continue
        loaded = crypto.load_signer(seed)
        assert loaded.public == public
        assert crypto.verify(public, b"m", loaded.sign(b"m", b"c"), b"c")


def near(size: int) -> st.SearchStrategy[bytes]:
    """Noise of the right length, of lengths near it, and of any other."""
    sizes = st.one_of(st.just(size), st.integers(size - 2, size + 2), st.integers(0, 2 * size))
    # From a seed: as hypothesis's own draw so much data would exceed its budget.
    return st.builds(lambda length, seed: Random(seed).randbytes(length), sizes, st.integers(0))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def packed(coefficients: list[int]) -> bytes:
    """ByteEncode12 (FIPS 203 §4.2.1): 12 bits each, the least significant first."""
    number = sum(value << 12 * at for at, value in enumerate(coefficients))
    return number.to_bytes(1_152, "little")
