"""Describes the driver; imports nothing heavy (docs/decisions/0030)."""

from __future__ import annotations

from conflux.api import DriverInfo, Unavailable, hookimpl

_ADVICE = "install cryptography 48 or newer from a wheel, or build it on OpenSSL 3.5 or newer"


def probe() -> None:
    """Make one key of each kind: 0.2 ms, and no version number has to be believed.

    Raises Unavailable. The kernel itself imports pyca/cryptography, so its import is no burden.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    except ImportError as error:
        raise Unavailable(f"pyca/cryptography has no ML-KEM or ML-DSA: {_ADVICE}") from error
    try:
        MLKEM768PrivateKey.generate()
        MLDSA65PrivateKey.generate()
    except UnsupportedAlgorithm as error:
        raise Unavailable(
            f"cryptography's OpenSSL has no ML-KEM-768 or ML-DSA-65: {_ADVICE}"
        ) from error


@hookimpl
def conflux_crypto_driver() -> DriverInfo:
    return DriverInfo(
        name="openssl",
        target="conflux_crypto_openssl.driver:OpenSslCrypto",
        api=(1, 0),
        priority=80,
        probe=probe,
    )
