"""Conformance of crypto drivers."""

from __future__ import annotations

import abc
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from conflux.api import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    KEM_SHARED_BYTES,
    MAX_CONTEXT_BYTES,
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    CryptoDriver,
    Signer,
    Unavailable,
    WireError,
)
from conflux.testing.rig import not_here

SEED = bytes(range(32))
CONTEXT = b"conflux.testing"
MESSAGE = b"what was said"


class CryptoContract(abc.ABC):
    """What even a fake must keep. A driver's test subclasses `CryptoConformance`."""

    @abc.abstractmethod
    def make_driver(self) -> CryptoDriver:
        """Return a driver. Raise Unavailable to skip, with the reason."""

    @pytest.fixture
    def driver(self) -> CryptoDriver:
        try:
            return self.make_driver()
        except Unavailable as error:
            not_here(error)

    # ML-KEM-768

    def test_both_ends_share_a_secret(self, driver: CryptoDriver) -> None:
        key = driver.generate_kem()
        secret, ciphertext = driver.encapsulate(key.public)
        assert len(key.public) == KEM_PUBLIC_BYTES
        assert len(ciphertext) == KEM_CIPHERTEXT_BYTES
        assert len(secret) == KEM_SHARED_BYTES
        assert type(key.public) is type(secret) is type(ciphertext) is bytes
        assert key.decapsulate(ciphertext) == secret

    def test_every_key_and_every_encapsulation_is_fresh(self, driver: CryptoDriver) -> None:
        keys = [driver.generate_kem() for _ in range(4)]
        assert len({key.public for key in keys}) == 4
        sent = [driver.encapsulate(keys[0].public) for _ in range(4)]
        assert len({secret for secret, _ in sent}) == 4
        assert len({ciphertext for _, ciphertext in sent}) == 4

    def test_wrong_ciphertext_gives_another_secret_and_always_the_same(
        self, driver: CryptoDriver
    ) -> None:
        """Implicit rejection (FIPS 203 §6.3): no error that an attacker could learn from."""
        key = driver.generate_kem()
        secret, ciphertext = driver.encapsulate(key.public)
        for at in (0, len(ciphertext) // 2, len(ciphertext) - 1):
            wrong = _flipped(ciphertext, at)
            rejected = key.decapsulate(wrong)
            assert len(rejected) == KEM_SHARED_BYTES
            assert rejected != secret
            assert key.decapsulate(wrong) == rejected

    def test_another_key_gives_another_secret(self, driver: CryptoDriver) -> None:
        key, other = driver.generate_kem(), driver.generate_kem()
        secret, ciphertext = driver.encapsulate(key.public)
        assert other.decapsulate(ciphertext) != secret

    @pytest.mark.parametrize("size", [0, KEM_CIPHERTEXT_BYTES - 1, KEM_CIPHERTEXT_BYTES + 1])
    def test_ciphertext_of_a_wrong_length_is_a_wire_error(
        self, driver: CryptoDriver, size: int
    ) -> None:
        with pytest.raises(WireError):
            driver.generate_kem().decapsulate(bytes(size))

    @pytest.mark.parametrize(
        "public",
        [
            pytest.param(b"", id="empty"),
            pytest.param(bytes(KEM_PUBLIC_BYTES - 1), id="short"),
            pytest.param(bytes(KEM_PUBLIC_BYTES + 1), id="long"),
            pytest.param(b"\xff" * KEM_PUBLIC_BYTES, id="coefficients not below q"),
        ],
    )
    def test_invalid_encapsulation_key_is_a_wire_error(
        self, driver: CryptoDriver, public: bytes
    ) -> None:
        with pytest.raises(WireError):
            driver.encapsulate(public)

    # ML-DSA-65

    def test_signature_verifies(self, driver: CryptoDriver) -> None:
        signer = driver.generate_signer()
        assert len(signer.public) == SIGN_PUBLIC_BYTES
        assert type(signer.public) is bytes
        for message, context in [
            (MESSAGE, CONTEXT),
            (b"", b""),
            (bytes(50_000), bytes(MAX_CONTEXT_BYTES)),
        ]:
            signature = signer.sign(message, context)
            assert type(signature) is bytes
            assert len(signature) == SIGNATURE_BYTES
            assert driver.verify(signer.public, message, signature, context)

    def test_signing_is_hedged(self, driver: CryptoDriver) -> None:
        """FIPS 204 §3.4: fresh randomness in each signature, against fault attacks."""
        signer = driver.generate_signer()
        assert signer.sign(MESSAGE, CONTEXT) != signer.sign(MESSAGE, CONTEXT)

    def test_signature_holds_for_its_message_context_and_key_alone(
        self, driver: CryptoDriver
    ) -> None:
        signer, other = driver.generate_signer(), driver.generate_signer()
        signature = signer.sign(MESSAGE, CONTEXT)
        assert not driver.verify(signer.public, MESSAGE + b".", signature, CONTEXT)
        assert not driver.verify(signer.public, MESSAGE, signature, CONTEXT + b".")
        assert not driver.verify(signer.public, MESSAGE, signature, b"")
        assert not driver.verify(other.public, MESSAGE, signature, CONTEXT)
        assert not driver.verify(signer.public, CONTEXT + MESSAGE, signature, b"")

    def test_changed_signature_does_not_verify(self, driver: CryptoDriver) -> None:
        signer = driver.generate_signer()
        signature = signer.sign(MESSAGE, CONTEXT)
        for at in (0, 40, len(signature) // 2, len(signature) - 1):
            assert not driver.verify(signer.public, MESSAGE, _flipped(signature, at), CONTEXT)

    def test_malformed_keys_and_signatures_do_not_verify(self, driver: CryptoDriver) -> None:
        signer = driver.generate_signer()
        signature = signer.sign(MESSAGE, CONTEXT)
        for wrong in (b"", signature[:-1], signature + b"\0", b"\xff" * SIGNATURE_BYTES):
            assert driver.verify(signer.public, MESSAGE, wrong, CONTEXT) is False
        for wrong in (b"", signer.public[:-1], signer.public + b"\0", b"\xff" * SIGN_PUBLIC_BYTES):
            assert driver.verify(wrong, MESSAGE, signature, CONTEXT) is False

    def test_seed_gives_the_same_key_pair_every_time(self, driver: CryptoDriver) -> None:
        first, second = _seeded(driver, SEED), _seeded(driver, SEED)
        if first is None or second is None:
            return  # Unavailable, with a reason, is an allowed answer
        assert first.public == second.public
        assert driver.verify(first.public, MESSAGE, second.sign(MESSAGE, CONTEXT), CONTEXT)
        other = _seeded(driver, bytes(32))
        assert other is not None
        assert other.public != first.public

    # Both kinds of keys

    def test_calls_from_several_threads_do_not_disturb_each_other(
        self, driver: CryptoDriver
    ) -> None:
        key, signer = driver.generate_kem(), driver.generate_signer()

        def work(n: int) -> bool:
            message = n.to_bytes(2, "big")
            secret, ciphertext = driver.encapsulate(key.public)
            signature = signer.sign(message, CONTEXT)
            return key.decapsulate(ciphertext) == secret and driver.verify(
                signer.public, message, signature, CONTEXT
            )

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(32)))

    def test_keys_can_be_erased_twice(self, driver: CryptoDriver) -> None:
        for key in (driver.generate_kem(), driver.generate_signer()):
            key.erase()
            key.erase()


class CryptoConformance(CryptoContract):
    """Subclass, return a driver from `make_driver`, run pytest.

    Beside the contract every driver is held against pyca/cryptography, so that two drivers that
    pass also take each other's keys, ciphertexts and signatures.
    """

    def test_speaks_fips_203(self, driver: CryptoDriver) -> None:
        key, reference = driver.generate_kem(), MLKEM768PrivateKey.generate()
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(key.public).encapsulate()
        assert key.decapsulate(ciphertext) == secret
        secret, ciphertext = driver.encapsulate(reference.public_key().public_bytes_raw())
        assert reference.decapsulate(ciphertext) == secret

    def test_speaks_fips_204(self, driver: CryptoDriver) -> None:
        signer, reference = driver.generate_signer(), MLDSA65PrivateKey.generate()
        public = MLDSA65PublicKey.from_public_bytes(signer.public)
        try:
            public.verify(signer.sign(MESSAGE, CONTEXT), MESSAGE, CONTEXT)
        except InvalidSignature:
            pytest.fail("pyca/cryptography does not take this driver's signature")
        signature = reference.sign(MESSAGE, CONTEXT)
        assert driver.verify(reference.public_key().public_bytes_raw(), MESSAGE, signature, CONTEXT)

    def test_seed_gives_the_key_pair_of_fips_204(self, driver: CryptoDriver) -> None:
        signer = _seeded(driver, SEED)
        if signer is not None:
            reference = MLDSA65PrivateKey.from_seed_bytes(SEED)
            assert signer.public == reference.public_key().public_bytes_raw()


def _seeded(driver: CryptoDriver, seed: bytes) -> Signer | None:
    """None where the driver's library cannot start from a seed, which the contract allows."""
    try:
        return driver.load_signer(seed)
    except Unavailable:
        return None


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
