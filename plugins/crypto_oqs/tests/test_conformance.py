from conflux.api import CryptoDriver
from conflux.testing import CryptoConformance
from conflux_crypto_oqs.driver import OqsCrypto


class TestOqsCrypto(CryptoConformance):
    """Skipped, by name, where liboqs is missing: `plugins/crypto_oqs/tools/build-liboqs`."""

    def make_driver(self) -> CryptoDriver:
        return OqsCrypto({})
