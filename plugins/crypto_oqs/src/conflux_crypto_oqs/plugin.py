"""Describes the driver; imports nothing heavy, liboqs-python least of all (see `library`)."""

from __future__ import annotations

from conflux.api import DriverInfo, hookimpl


def probe() -> None:
    """Look for liboqs itself and hold its verifier against two cases. Raises Unavailable."""
    from conflux_crypto_oqs.library import locate

    locate()


@hookimpl
def conflux_crypto_driver() -> DriverInfo:
    return DriverInfo(
        name="oqs",
        target="conflux_crypto_oqs.driver:OqsCrypto",
        api=(1, 0),
        priority=60,
        probe=probe,
    )
