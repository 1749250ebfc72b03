"""What the contract leaves to this plugin: its probe, its limit, and erased keys."""

from __future__ import annotations

import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from conflux.api import Unavailable
from conflux_crypto_pqcrypto.driver import MAX_CONTEXT_BYTES, PqcryptoCrypto
from conflux_crypto_pqcrypto.plugin import conflux_crypto_driver, probe


def test_description_names_this_driver() -> None:
    info = conflux_crypto_driver()
    assert (info.name, info.priority, info.api) == ("pqcrypto", 40, (1, 0))
    assert info.target == f"{PqcryptoCrypto.__module__}:{PqcryptoCrypto.__qualname__}"
    assert info.probe is not None
    info.probe()


def test_missing_package_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pqcrypto.sign", None)
    with pytest.raises(Unavailable, match="pip install"):
        probe()


@pytest.mark.parametrize("size", [MAX_CONTEXT_BYTES + 1, 255])
def test_two_greatest_context_lengths_are_beyond_this_library(size: int) -> None:
    """Fails on the day when pqcrypto takes them: then MAX_CONTEXT_BYTES can go."""
    crypto = PqcryptoCrypto({})
    with pytest.raises(ValueError, match="context"):
        crypto.generate_signer().sign(b"m", bytes(size))
    good = MLDSA65PrivateKey.generate()
    signature = good.sign(b"m", bytes(size))
    assert (
        crypto.verify(good.public_key().public_bytes_raw(), b"m", signature, bytes(size)) is False
    )


def test_erased_keys_are_of_no_use() -> None:
    crypto = PqcryptoCrypto({})
    key, signer = crypto.generate_kem(), crypto.generate_signer()
    _, ciphertext = crypto.encapsulate(key.public)
    key.erase()
    signer.erase()
    with pytest.raises(ValueError, match="erased"):
        key.decapsulate(ciphertext)
    with pytest.raises(ValueError, match="erased"):
        signer.sign(b"m", b"c")
