"""ML-KEM-768 and ML-DSA-65 of liboqs, through liboqs-python.

liboqs-python hands buffers of any length to C, cut or padded with zeros: every length is checked
here first. A C structure is only read after it was made and every call has its own buffers, so
calls may run side by side; what frees a structure runs when nobody can reach it any more.
"""

from __future__ import annotations

import ctypes
import weakref
from types import ModuleType
from typing import Any

from conflux.api import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    KEM_SHARED_BYTES,
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    CryptoDriver,
    KemPrivateKey,
    Settings,
    Signer,
    Unavailable,
    WireError,
)
from conflux_crypto_oqs.library import KEM, SIGNATURE, fault, import_oqs

MAX_CONTEXT_BYTES = 255


class OqsCrypto(CryptoDriver):
    """liboqs: many platforms, quick signatures, and secret keys that can be wiped."""

    def __init__(self, settings: Settings) -> None:
        """There is nothing to set: *settings* is ignored. Raises Unavailable without liboqs."""
        self._oqs = import_oqs()
        # Where several are installed, liboqs-python may have taken another than was looked at.
        if (reason := fault(self._oqs.native())) is not None:
            raise Unavailable(f"liboqs {self._oqs.oqs_version()}: {reason}")
        self._kem = self._oqs.KeyEncapsulation(KEM)
        self._signature = self._oqs.Signature(SIGNATURE)
        weakref.finalize(self, self._kem.free)
        weakref.finalize(self, self._signature.free)
        self._check_layout()

    def generate_kem(self) -> KemPrivateKey:
        return OqsKemKey(self._oqs)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        if len(public) != KEM_PUBLIC_BYTES:
            raise WireError("ML-KEM-768 encapsulation key of a wrong length")
        try:
            ciphertext, shared = self._kem.encap_secret(public)
        except RuntimeError:
            # liboqs refuses a key whose coefficients are not reduced (FIPS 203 §7.2).
            raise WireError("not an ML-KEM-768 encapsulation key") from None
        return shared, ciphertext

    def generate_signer(self) -> Signer:
        return OqsSigner(self._oqs)

    def load_signer(self, seed: bytes) -> Signer:
        """liboqs has no call for it: raises Unavailable, always."""
        raise Unavailable('liboqs cannot make an ML-DSA key from a seed: choose crypto "openssl"')

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        if len(public) != SIGN_PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        if len(context) > MAX_CONTEXT_BYTES:
            return False
        return bool(self._signature.verify_with_ctx_str(message, signature, context, public))

    def _check_layout(self) -> None:
        """liboqs-python reads C structures by the layout of its own version: look what it read."""
        kem, signature = self._kem.details, self._signature.details
        lengths = (
            kem["length_public_key"],
            kem["length_ciphertext"],
            kem["length_shared_secret"],
            signature["length_public_key"],
            signature["length_signature"],
        )
        expected = (
            KEM_PUBLIC_BYTES,
            KEM_CIPHERTEXT_BYTES,
            KEM_SHARED_BYTES,
            SIGN_PUBLIC_BYTES,
            SIGNATURE_BYTES,
        )
        if lengths != expected or not signature["sig_with_ctx_support"]:
            raise Unavailable(
                f"liboqs {self._oqs.oqs_version()} and liboqs-python "
                f"{self._oqs.oqs_python_version()} do not fit: install the same version of both"
            )


class OqsKemKey(KemPrivateKey):
    """An ML-KEM-768 pair in a buffer of this process, wiped by `erase` and when collected."""

    __slots__ = ("__weakref__", "_erased", "_kem", "_oqs", "public")

    def __init__(self, oqs: ModuleType) -> None:
        self._oqs = oqs
        self._kem = oqs.KeyEncapsulation(KEM)
        weakref.finalize(self, self._kem.free)
        self.public: bytes = self._kem.generate_keypair()
        self._erased = False

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """As the contract says. Raises ValueError once erased."""
        if len(ciphertext) != KEM_CIPHERTEXT_BYTES:
            raise WireError("ML-KEM-768 ciphertext of a wrong length")
        if self._erased:
            raise ValueError("this ML-KEM key was erased")
        shared: bytes = self._kem.decap_secret(ciphertext)
        return shared

    def erase(self) -> None:
        """Overwrite the private key. Shared secrets that it gave are the caller's."""
        self._erased = True
        _cleanse(self._oqs, self._kem.secret_key)


class OqsSigner(Signer):
    """An ML-DSA-65 pair in a buffer of this process, wiped by `erase` and when collected."""

    __slots__ = ("__weakref__", "_erased", "_oqs", "_signature", "public")

    def __init__(self, oqs: ModuleType) -> None:
        self._oqs = oqs
        self._signature = oqs.Signature(SIGNATURE)
        weakref.finalize(self, self._signature.free)
        self.public: bytes = self._signature.generate_keypair()
        self._erased = False

    def sign(self, message: bytes, context: bytes) -> bytes:
        """As the contract says. Raises ValueError for a longer context, and once erased."""
        if len(context) > MAX_CONTEXT_BYTES:
            raise ValueError(f"an ML-DSA context has at most {MAX_CONTEXT_BYTES} bytes")
        if self._erased:
            raise ValueError("this ML-DSA key was erased")
        signature: bytes = self._signature.sign_with_ctx_str(message, context)
        return signature

    def erase(self) -> None:
        """Overwrite the private key."""
        self._erased = True
        _cleanse(self._oqs, self._signature.secret_key)


def _cleanse(oqs: ModuleType, secret: ctypes.Array[Any]) -> None:
    # Not `free`: another thread may be inside liboqs with this very structure. Wiping under its
    # hands costs it its result and nothing else.
    oqs.native().OQS_MEM_cleanse(ctypes.byref(secret), ctypes.c_size_t(ctypes.sizeof(secret)))
