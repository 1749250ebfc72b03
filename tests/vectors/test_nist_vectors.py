"""The drivers, and the streams, on the vectors that pyca/cryptography itself is tested with.

PyPI's `cryptography_vectors` holds them: NIST's for AES-GCM, known answers for ML-KEM-768 and
ML-DSA-65. A driver's contract makes keys and loads none but Guardian's, so a private key of a
vector is put where the driver keeps its own.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor.handshake import StreamKeys
from conflux.anchor.stream import InStream, OutStream
from conflux.api import SIGNATURE_BYTES, CryptoDriver, KemPrivateKey, Unavailable, WireError
from conflux.wire.frame import HEADER_BYTES

cryptography_vectors = pytest.importorskip(
    "cryptography_vectors",
    reason="the vectors are PyPI's cryptography_vectors: install the version of cryptography",
)

NAMES = ("openssl", "oqs", "pqcrypto")
Case = Mapping[str, str]


@cache
def cases(file: str) -> list[Case]:
    """Cases of a response file; `[Name = value]` holds for all cases below it."""
    found: list[Case] = []
    common: dict[str, str] = {}
    current: dict[str, str] = {}
    with cryptography_vectors.open_vector_file(file, "r") as lines:
        for line in map(str.strip, lines):
            name, equals, value = (part.strip() for part in line.strip("[]").partition("="))
            if line.startswith("["):
                common[name] = value
            elif name.lower() == "count":
                current = {**common}
                found.append(current)
            elif line == "FAIL":
                current["FAIL"] = ""
            elif equals:
                current[name] = value
    assert found
    return found


def unhex(case: Case, name: str) -> bytes:
    return bytes.fromhex(case[name])


@cache
def driver(name: str) -> CryptoDriver | str:
    plugin = importlib.import_module(f"conflux_crypto_{name}.plugin")
    info = plugin.conflux_crypto_driver()
    try:
        info.probe()
    except Unavailable as error:
        return str(error)
    module, _, attribute = info.target.partition(":")
    made: CryptoDriver = getattr(importlib.import_module(module), attribute)({})
    return made


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found = driver(request.param)
    if isinstance(found, str):
        pytest.skip(f"{request.param}: {found} (plugins/crypto_oqs/tools/build-liboqs builds it)")
    chosen: str = request.param
    return chosen


@pytest.fixture
def crypto(name: str) -> CryptoDriver:
    found = driver(name)
    assert isinstance(found, CryptoDriver)
    return found


# ML-KEM-768


def openssl_kem(crypto: CryptoDriver, case: Case) -> KemPrivateKey:
    from conflux_crypto_openssl.driver import OpenSslKemKey

    return OpenSslKemKey(MLKEM768PrivateKey.from_seed_bytes(unhex(case, "d") + unhex(case, "z")))


def oqs_kem(crypto: CryptoDriver, case: Case) -> KemPrivateKey:
    key, secret = crypto.generate_kem(), unhex(case, "sk")
    buffer = key._kem.secret_key
    assert ctypes.sizeof(buffer) == len(secret)
    ctypes.memmove(buffer, secret, len(secret))
    return key


def pqcrypto_kem(crypto: CryptoDriver, case: Case) -> KemPrivateKey:
    key = crypto.generate_kem()
    key._private = unhex(case, "sk")
    return key


KEM_KEYS: Mapping[str, Callable[[CryptoDriver, Case], KemPrivateKey]] = {
    "openssl": openssl_kem,
    "oqs": oqs_kem,
    "pqcrypto": pqcrypto_kem,
}


def kem_cases() -> list[Case]:
    found = cases("asymmetric/MLKEM/kat_MLKEM_768.rsp")
    assert len(found) == 1_000
    return found


def test_ml_kem_ciphertexts_give_the_published_secrets(crypto, name):
    for case in kem_cases():
        key = KEM_KEYS[name](crypto, case)
        assert key.decapsulate(unhex(case, "ct")) == unhex(case, "ss"), case["seed"]


def test_ml_kem_false_ciphertexts_give_the_published_other_secrets(crypto, name):
    """FIPS 203 §6.3, implicit rejection: the secret is pseudorandom, and which one is fixed."""
    for case in kem_cases():
        key = KEM_KEYS[name](crypto, case)
        assert key.decapsulate(unhex(case, "ct_n")) == unhex(case, "ss_n"), case["seed"]


def test_ml_kem_published_keys_are_taken_and_open_what_is_sent_to_them(crypto, name):
    for case in kem_cases()[::10]:
        secret, ciphertext = crypto.encapsulate(unhex(case, "pk"))
        assert KEM_KEYS[name](crypto, case).decapsulate(ciphertext) == secret


def test_ml_kem_seeds_give_the_published_keys_with_openssl():
    for case in kem_cases():
        assert openssl_kem(None, case).public == unhex(case, "pk")


# ML-DSA-65


def dsa_cases() -> list[Case]:
    found = cases("asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp")
    assert len(found) == 100
    return found


def signed(case: Case) -> tuple[bytes, bytes, bytes, bytes]:
    """(public key, message, signature, context)"""
    whole = unhex(case, "sm")
    assert whole[SIGNATURE_BYTES:] == unhex(case, "msg")
    return unhex(case, "pk"), unhex(case, "msg"), whole[:SIGNATURE_BYTES], unhex(case, "ctx")


def test_ml_dsa_published_signatures_verify(crypto):
    for case in dsa_cases():
        public, message, signature, context = signed(case)
        assert crypto.verify(public, message, signature, context), case["count"]


def test_ml_dsa_published_signatures_verify_for_nothing_else(crypto):
    for at, case in enumerate(dsa_cases()):
        public, message, signature, context = signed(case)
        forged = bytearray(signature)
        forged[at * 33] ^= 1 << at % 8
        assert not crypto.verify(public, message, bytes(forged), context)
        assert not crypto.verify(public, message + b"\x00", signature, context)
        assert not crypto.verify(public, message, signature, context[:-1])


def test_ml_dsa_seeds_give_the_published_keys_or_the_driver_says_that_it_cannot(crypto, name):
    for case in dsa_cases():
        seed = unhex(case, "xi")
        if name != "openssl":
            with pytest.raises(Unavailable, match="seed"):
                crypto.load_signer(seed)
            continue
        signer = crypto.load_signer(seed)
        assert signer.public == unhex(case, "pk")
        assert crypto.verify(signer.public, b"m", signer.sign(b"m", b"c"), b"c")


# AES-256-GCM


def gcm_cases(file: str) -> Iterator[Case]:
    """Those with a nonce and a tag of our lengths."""
    for case in cases(f"ciphers/AES/GCM/{file}256.rsp"):
        if case["IVlen"] == "96" and case["Taglen"] == "128":
            yield case


def stream_cases(file: str) -> list[tuple[Case, StreamKeys, int]]:
    """Those that a frame can be: 16 bytes of additional data are a stream id and a counter."""
    found = []
    for case in gcm_cases(file):
        if case["AADlen"] == "128" and case["PTlen"] != "0":
            aad, iv = unhex(case, "AAD"), unhex(case, "IV")
            counter = int.from_bytes(aad[8:], "big")
            static = (int.from_bytes(iv, "big") ^ counter).to_bytes(12, "big")
            keys = StreamKeys(unhex(case, "Key"), static, int.from_bytes(aad[:8], "big"))
            found.append((case, keys, counter))
    assert len(found) == 60
    return found


def test_aes_gcm_of_pyca_seals_the_published_ciphertexts():
    for case in gcm_cases("gcmEncryptExtIV"):
        sealed = AESGCM(unhex(case, "Key")).encrypt(
            unhex(case, "IV"), unhex(case, "PT"), unhex(case, "AAD")
        )
        assert sealed == unhex(case, "CT") + unhex(case, "Tag")


def test_aes_gcm_of_pyca_opens_the_published_ciphertexts_and_refuses_the_forged():
    forged = 0
    for case in gcm_cases("gcmDecrypt"):
        cipher = AESGCM(unhex(case, "Key"))
        sealed = unhex(case, "CT") + unhex(case, "Tag")
        if "FAIL" in case:
            forged += 1
            with pytest.raises(InvalidTag):
                cipher.decrypt(unhex(case, "IV"), sealed, unhex(case, "AAD"))
        else:
            opened = cipher.decrypt(unhex(case, "IV"), sealed, unhex(case, "AAD"))
            assert opened == unhex(case, "PT")
    assert forged > 50


def test_out_stream_seals_the_published_ciphertexts():
    for case, keys, counter in stream_cases("gcmEncryptExtIV"):
        stream = OutStream(keys, now=0.0)
        stream._counter = counter - 1
        frame = stream.seal(memoryview(unhex(case, "PT")), now=0.0)
        assert frame[HEADER_BYTES:] == unhex(case, "CT") + unhex(case, "Tag")
        assert frame[8:HEADER_BYTES] == unhex(case, "AAD")


def test_in_stream_opens_the_published_ciphertexts_and_refuses_the_forged():
    room = memoryview(bytearray(1_024))
    for case, keys, counter in stream_cases("gcmDecrypt"):
        frame = bytes(8) + unhex(case, "AAD") + unhex(case, "CT") + unhex(case, "Tag")
        stream = InStream(keys, None)
        if "FAIL" in case:
            with pytest.raises(WireError, match="forged"):
                stream.open(memoryview(frame), counter, room)
            assert not stream.replay.seen(counter)
        else:
            assert stream.open(memoryview(frame), counter, room) == unhex(case, "PT")
