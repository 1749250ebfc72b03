from conflux.api import CryptoDriver
from conflux.testing import CryptoConformance
from conflux_crypto_openssl.driver import OpenSslCrypto


class TestOpenSslCrypto(CryptoConformance):
    def make_driver(self) -> CryptoDriver:
        return OpenSslCrypto({})
