"""What the contract leaves to this plugin: its probe, and what is left of an erased key."""

from __future__ import annotations

import gc
import sys

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from conflux.api import Unavailable
from conflux_crypto_openssl.driver import OpenSslCrypto
from conflux_crypto_openssl.plugin import conflux_crypto_driver, probe


def test_description_names_this_driver() -> None:
    info = conflux_crypto_driver()
    assert (info.name, info.priority, info.api) == ("openssl", 80, (1, 0))
    assert info.target == f"{OpenSslCrypto.__module__}:{OpenSslCrypto.__qualname__}"
    assert info.probe is not None
    info.probe()


@pytest.mark.parametrize("key", [MLKEM768PrivateKey, MLDSA65PrivateKey])
def test_openssl_without_an_algorithm_is_unavailable(
    key: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported() -> None:
        raise UnsupportedAlgorithm("not in this OpenSSL")

    monkeypatch.setattr(key, "generate", unsupported)
    with pytest.raises(Unavailable, match=r"OpenSSL 3\.5"):
        probe()


@pytest.mark.parametrize("module", ["mlkem", "mldsa"])
def test_cryptography_without_the_modules_is_unavailable(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"cryptography.hazmat.primitives.asymmetric.{module}", None)
    with pytest.raises(Unavailable, match="cryptography 48"):
        probe()


def test_erased_keys_are_of_no_use_and_let_openssl_go() -> None:
    crypto = OpenSslCrypto({})
    key, signer = crypto.generate_kem(), crypto.generate_signer()
    _, ciphertext = crypto.encapsulate(key.public)
    key.erase()
    signer.erase()
    with pytest.raises(ValueError, match="erased"):
        key.decapsulate(ciphertext)
    with pytest.raises(ValueError, match="erased"):
        signer.sign(b"m", b"c")
    for erased in (key, signer):
        assert not any("PrivateKey" in type(held).__name__ for held in gc.get_referents(erased))


def test_seed_of_a_wrong_length_is_a_value_error() -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32"):
            OpenSslCrypto({}).load_signer(bytes(size))
