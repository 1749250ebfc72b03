"""Describes the driver; imports nothing heavy, liboqs-python least of all (see `library`)."""

from __future__ import annotations

from conflux.api import DriverInfo, hookimpl
from conflux_crypto_oqs.library import locate


def probe() -> None:
    """Look for liboqs itself and ask it for both algorithms. Raises Unavailable."""
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
