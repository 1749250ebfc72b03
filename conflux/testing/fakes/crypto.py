"""A crypto driver for simulations: repeatable, fast, and NOT SECURE AT ALL.

It has the sizes and the failures of ML-KEM-768 and ML-DSA-65 but hides nothing: whoever knows a
public key can forge its signatures and learn its secrets. Simulations need one thing that no real
driver can give: the same seed makes the same run, byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import threading

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
    WireError,
)

_HEDGE_BYTES = 32

# Every encoded coefficient (FIPS 203 §4.2.1, 12 bits) of a key masked so is below q = 3329, which
# lets one mask tell the fake's own keys from noise, in a microsecond.
_VALID_MASK = int.from_bytes(b"\x77" * KEM_PUBLIC_BYTES, "big")


class FakeCrypto(CryptoDriver):
    """INSECURE. Setting "seed" (an integer, 0 by default) fixes every key and every coin."""

    def __init__(self, settings: Settings | None = None) -> None:
        seed = (settings or {}).get("seed", 0)
        if not isinstance(seed, int):
            raise TypeError("the seed is an integer")
        self._coins = _Coins(seed)

    def generate_kem(self) -> KemPrivateKey:
        raw = _expand(b"kem", self._coins.draw(), size=KEM_PUBLIC_BYTES)
        valid = int.from_bytes(raw, "big") & _VALID_MASK
        return FakeKemPrivateKey(valid.to_bytes(KEM_PUBLIC_BYTES, "big"))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        if len(public) != KEM_PUBLIC_BYTES:
            raise WireError("encapsulation key of a wrong length")
        if int.from_bytes(public, "big") & ~_VALID_MASK:
            raise WireError("encapsulation key with a coefficient not below q")
        ciphertext = _expand(b"ciphertext", self._coins.draw(), size=KEM_CIPHERTEXT_BYTES)
        return _shared(public, ciphertext), ciphertext

    def generate_signer(self) -> Signer:
        return self.load_signer(self._coins.draw())

    def load_signer(self, seed: bytes) -> Signer:
        return FakeSigner(_expand(b"signer", seed, size=SIGN_PUBLIC_BYTES), self._coins)

    def verify(self, public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        if len(public) != SIGN_PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        hedge = signature[:_HEDGE_BYTES]
        return hmac.compare_digest(signature, _signature(public, hedge, message, context))


class FakeKemPrivateKey(KemPrivateKey):
    """INSECURE: the public key is all there is."""

    __slots__ = ("public",)

    def __init__(self, public: bytes) -> None:
        self.public = public

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != KEM_CIPHERTEXT_BYTES:
            raise WireError("KEM ciphertext of a wrong length")
        return _shared(self.public, ciphertext)


class FakeSigner(Signer):
    """INSECURE: signs with what everybody knows."""

    __slots__ = ("_coins", "public")

    def __init__(self, public: bytes, coins: _Coins) -> None:
        self.public = public
        self._coins = coins

    def sign(self, message: bytes, context: bytes) -> bytes:
        return _signature(self.public, self._coins.draw(), message, context)


class _Coins:
    """32 bytes a draw; thread safe, and repeatable as long as one thread draws."""

    def __init__(self, seed: int) -> None:
        self._seed = str(seed).encode()
        self._drawn = 0
        self._lock = threading.Lock()

    def draw(self) -> bytes:
        with self._lock:
            self._drawn += 1
            return _expand(b"coins", self._seed, self._drawn.to_bytes(8, "big"), size=_HEDGE_BYTES)


def _shared(public: bytes, ciphertext: bytes) -> bytes:
    return _expand(b"shared", public, ciphertext, size=KEM_SHARED_BYTES)


def _signature(public: bytes, hedge: bytes, message: bytes, context: bytes) -> bytes:
    body = _expand(b"sign", public, hedge, context, message, size=SIGNATURE_BYTES - _HEDGE_BYTES)
    return hedge + body


def _expand(*parts: bytes, size: int) -> bytes:
    """SHAKE256 over the parts, each behind its length, so that no two lists look alike."""
    xof = hashlib.shake_256()
    for part in parts:
        xof.update(len(part).to_bytes(8, "big"))
        xof.update(part)
    return xof.digest(size)
