"""ML-KEM-768 and ML-DSA-65 of the pqcrypto package: portable code, compiled, in one wheel.

pqcrypto 1.0 takes and returns `bytes`, private keys too. It checks lengths and encodings and
answers every fault with ValueError, of which its InvalidSignatureError is one; this module turns
what a peer may have caused into WireError or False. Its functions keep no state.
"""

from __future__ import annotations

from pqcrypto.kem import ml_kem_768
from pqcrypto.sign import ml_dsa_65

from conflux.api import CryptoDriver, KemPrivateKey, Settings, Signer, Unavailable, WireError

MAX_CONTEXT_BYTES = 253
"""pqcrypto 1.0 refuses contexts of 254 and 255 bytes, which FIPS 204 §5.2 allows."""


class PqcryptoCrypto(CryptoDriver):
    """A third, independent implementation. Signing takes several milliseconds."""

    def __init__(self, settings: Settings) -> None:
        """There is nothing to set: *settings* is ignored."""

    def generate_kem(self) -> KemPrivateKey:
        return PqcryptoKemKey()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        try:
            ciphertext, shared = ml_kem_768.encaps(public)
        except ValueError:
            raise WireError("not an ML-KEM-768 encapsulation key") from None
        return shared, ciphertext

    def generate_signer(self) -> Signer:
        return PqcryptoSigner()

    def load_signer(self, seed: bytes) -> Signer:
        """pqcrypto has no call for it: raises Unavailable, always."""
        raise Unavailable('pqcrypto cannot make an ML-DSA key from a seed: choose crypto "openssl"')

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        """As the contract says; False for every context over MAX_CONTEXT_BYTES."""
        try:
            ml_dsa_65.verify(public, message, signature, context)
        except ValueError:
            return False
        return True


class PqcryptoKemKey(KemPrivateKey):
    """An ML-KEM-768 pair. The private key is a `bytes` object, which nobody can wipe."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self.public: bytes
        self._private: bytes | None
        self.public, self._private = ml_kem_768.keygen()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """As the contract says. Raises ValueError once erased."""
        if self._private is None:
            raise ValueError("this ML-KEM key was erased")
        try:
            shared: bytes = ml_kem_768.decaps(self._private, ciphertext)
        except ValueError:
            raise WireError("ML-KEM-768 ciphertext of a wrong length") from None
        return shared

    def erase(self) -> None:
        """Drop the key. Its bytes stay in freed memory until something else is written there."""
        self._private = None


class PqcryptoSigner(Signer):
    """An ML-DSA-65 pair. The private key is a `bytes` object, which nobody can wipe."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self.public: bytes
        self._private: bytes | None
        self.public, self._private = ml_dsa_65.keygen()

    def sign(self, message: bytes, context: bytes) -> bytes:
        """As the contract says. Raises ValueError over MAX_CONTEXT_BYTES, and once erased."""
        if self._private is None:
            raise ValueError("this ML-DSA key was erased")
        signature: bytes = ml_dsa_65.sign(self._private, message, context)
        return signature

    def erase(self) -> None:
        """Drop the key. Its bytes stay in freed memory until something else is written there."""
        self._private = None
