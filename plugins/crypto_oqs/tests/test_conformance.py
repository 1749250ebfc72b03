from conflux.api import CryptoDriver
from conflux.testing import CryptoConformance, PluginConformance
from conflux_crypto_oqs.driver import OqsCrypto


class TestPlugin(PluginConformance):
    plugin_name = "crypto-oqs"


class TestOqsCrypto(CryptoConformance):
    """Skipped, by name, where liboqs is missing: `plugins/crypto_oqs/tools/build-liboqs`."""

    def make_driver(self) -> CryptoDriver:
        return OqsCrypto({})
