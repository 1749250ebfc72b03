from conflux.api import CryptoDriver
from conflux.testing import CryptoConformance, PluginConformance
from conflux_crypto_openssl.driver import OpenSslCrypto


class TestPlugin(PluginConformance):
    plugin_name = "crypto-openssl"


class TestOpenSslCrypto(CryptoConformance):
    def make_driver(self) -> CryptoDriver:
        return OpenSslCrypto({})
