"""Describes the driver; imports nothing heavy."""

from __future__ import annotations

from conflux.api import DriverInfo, Unavailable, hookimpl


def probe() -> None:
    """Import pqcrypto: one compiled module, 10 ms. Raises Unavailable."""
    try:
        from pqcrypto.kem import ml_kem_768
        from pqcrypto.sign import ml_dsa_65
    except ImportError as error:
        raise Unavailable(
            f"pqcrypto 1.0 does not load ({error}): pip install 'pqcrypto>=1.0'"
        ) from error
    del ml_kem_768, ml_dsa_65


@hookimpl
def conflux_crypto_driver() -> DriverInfo:
    return DriverInfo(
        name="pqcrypto",
        target="conflux_crypto_pqcrypto.driver:PqcryptoCrypto",
        api=(1, 0),
        priority=40,
        probe=probe,
    )
