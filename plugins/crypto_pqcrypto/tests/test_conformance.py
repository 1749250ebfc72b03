from conflux.api import CryptoDriver
from conflux.testing import CryptoConformance, PluginConformance
from conflux_crypto_pqcrypto.driver import PqcryptoCrypto


class TestPlugin(PluginConformance):
    plugin_name = "crypto-pqcrypto"


class TestPqcryptoCrypto(CryptoConformance):
    def make_driver(self) -> CryptoDriver:
        return PqcryptoCrypto({})
