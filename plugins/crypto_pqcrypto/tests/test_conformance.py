from conflux.api import SIGNATURE_BYTES, CryptoDriver
from conflux.testing import CryptoConformance, PluginConformance
from conflux_crypto_pqcrypto.driver import MAX_CONTEXT_BYTES, PqcryptoCrypto


class TestPlugin(PluginConformance):
    plugin_name = "crypto-pqcrypto"


class TestPqcryptoCrypto(CryptoConformance):
    def make_driver(self) -> CryptoDriver:
        return PqcryptoCrypto({})

    def test_signature_verifies(self, driver: CryptoDriver) -> None:
        """In place of the kit's check, which signs under the greatest context, 255 bytes."""
        signer = driver.generate_signer()
        for message, context in [(b"", b""), (bytes(50_000), bytes(MAX_CONTEXT_BYTES))]:
            signature = signer.sign(message, context)
            assert len(signature) == SIGNATURE_BYTES
            assert driver.verify(signer.public, message, signature, context)
