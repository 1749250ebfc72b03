"""Contract of crypto drivers: ML-KEM-768 (FIPS 203) and ML-DSA-65 (FIPS 204), nothing else.

Keys, ciphertexts and signatures are the encodings of the FIPS documents, so every driver takes
every other driver's. Private keys never leave the objects that hold them. AES-GCM, X25519, HKDF
and hashes always come from pyca/cryptography and are no driver's business. All calls are thread
safe: the kernel calls the slow ones in worker threads.
"""

from __future__ import annotations

import abc

from conflux.api.types import Settings

KEM_PUBLIC_BYTES = 1_184
KEM_CIPHERTEXT_BYTES = 1_088
KEM_SHARED_BYTES = 32
SIGN_PUBLIC_BYTES = 1_952
SIGNATURE_BYTES = 3_309
MAX_CONTEXT_BYTES = 64


class KemPrivateKey(abc.ABC):
    """An ML-KEM-768 decapsulation key in memory."""

    __slots__ = ()

    public: bytes
    """The encapsulation key, KEM_PUBLIC_BYTES."""

    @abc.abstractmethod
    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte shared secret; for a wrong ciphertext another one (FIPS 203 §6.3).

        Raises WireError if *ciphertext* has not KEM_CIPHERTEXT_BYTES.
        """

    def erase(self) -> None:
        """Wipe what the driver can wipe; the key is of no use afterwards. Twice is fine."""


class Signer(abc.ABC):
    """An ML-DSA-65 private key in memory."""

    __slots__ = ()

    public: bytes
    """SIGN_PUBLIC_BYTES."""

    @abc.abstractmethod
    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return a hedged, pure ML-DSA signature (FIPS 204 §5.2) under *context*.

        At most MAX_CONTEXT_BYTES of context: not every library takes the 255 of FIPS 204.
        Takes about a millisecond or more: not for the packet loop.
        """

    def erase(self) -> None:
        """Wipe what the driver can wipe; the key is of no use afterwards. Twice is fine."""


class CryptoDriver(abc.ABC):
    """Makes keys, encapsulates, verifies. Holds no state between calls."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abc.abstractmethod
    def generate_kem(self) -> KemPrivateKey:
        """Make a fresh ML-KEM-768 key pair from the system's random source."""

    @abc.abstractmethod
    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (shared secret, ciphertext) for *public*.

        Raises WireError if *public* is no valid encapsulation key (FIPS 203 §7.2).
        """

    @abc.abstractmethod
    def generate_signer(self) -> Signer:
        """Make a fresh ML-DSA-65 key pair from the system's random source."""

    @abc.abstractmethod
    def load_signer(self, seed: bytes) -> Signer:
        """Make the key pair of a 32-byte *seed* (FIPS 204 §6.1, ξ): Guardian's key is kept so.

        Raises Unavailable if the driver's library cannot start from a seed.
        """

    @abc.abstractmethod
    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        """Tell whether *signature* is good; False for wrong lengths and malformed keys too."""
