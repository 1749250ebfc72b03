"""ML-KEM-768 and ML-DSA-65 of OpenSSL, through pyca/cryptography.

pyca checks lengths and encodings (FIPS 203 §7.2, FIPS 204 §7.2) and answers with ValueError; this
module turns what a peer may have caused into WireError or False. pyca releases the GIL while it
signs, and its key objects may be used by several threads at once.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from conflux.api import CryptoDriver, KemPrivateKey, Settings, Signer, WireError


class OpenSslCrypto(CryptoDriver):
    """The preferred crypto driver: OpenSSL comes inside the wheel that the kernel needs anyway."""

    def __init__(self, settings: Settings) -> None:
        """There is nothing to set: *settings* is ignored."""

    def generate_kem(self) -> KemPrivateKey:
        return OpenSslKemKey(MLKEM768PrivateKey.generate())

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        try:
            return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        except ValueError:
            raise WireError("not an ML-KEM-768 encapsulation key") from None

    def generate_signer(self) -> Signer:
        return OpenSslSigner(MLDSA65PrivateKey.generate())

    def load_signer(self, seed: bytes) -> Signer:
        """As the contract says. Raises ValueError if *seed* has not 32 bytes."""
        return OpenSslSigner(MLDSA65PrivateKey.from_seed_bytes(seed))

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        try:
            MLDSA65PublicKey.from_public_bytes(public).verify(signature, message, context)
        except (ValueError, InvalidSignature):
            return False
        return True


class OpenSslKemKey(KemPrivateKey):
    """An ML-KEM-768 pair inside OpenSSL."""

    __slots__ = ("_private", "public")

    def __init__(self, private: MLKEM768PrivateKey) -> None:
        self._private: MLKEM768PrivateKey | None = private
        self.public = private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """As the contract says. Raises ValueError once erased."""
        if self._private is None:
            raise ValueError("this ML-KEM key was erased")
        try:
            return self._private.decapsulate(ciphertext)
        except ValueError:
            raise WireError("ML-KEM-768 ciphertext of a wrong length") from None

    def erase(self) -> None:
        """Drop the key. pyca has no call that wipes it: OpenSSL clears it when it frees it, which
        is now unless another thread is still using it."""
        self._private = None


class OpenSslSigner(Signer):
    """An ML-DSA-65 pair inside OpenSSL."""

    __slots__ = ("_private", "public")

    def __init__(self, private: MLDSA65PrivateKey) -> None:
        self._private: MLDSA65PrivateKey | None = private
        self.public = private.public_key().public_bytes_raw()

    def sign(self, message: bytes, context: bytes) -> bytes:
        """As the contract says. Raises ValueError for a longer context, and once erased."""
        if self._private is None:
            raise ValueError("this ML-DSA key was erased")
        return self._private.sign(message, context)

    def erase(self) -> None:
        """Drop the key. pyca has no call that wipes it: OpenSSL clears it when it frees it, which
        is now unless another thread is still using it."""
        self._private = None
