"""The keys that Guardian keeps in its data folder, and what follows from them."""

from __future__ import annotations

import hmac
import secrets
from functools import cached_property

from conflux.anchor.identity import guardian_fingerprint
from conflux.api import CryptoDriver, Signer
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.natsjwt import MasterKeys
from veilnet_guardian.tokens import Tokens


def fresh_key() -> bytes:
    """32 random bytes: a plane key or a team key."""
    return secrets.token_bytes(32)


def crypto_driver() -> CryptoDriver:
    """The driver under Guardian's key: the one that can start from a seed, pyca's."""
    from conflux_crypto_openssl.driver import OpenSslCrypto

    return OpenSslCrypto({})


class Keys:
    """Guardian's own keys, each loaded when it is first needed."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir

    @cached_property
    def crypto(self) -> CryptoDriver:
        return crypto_driver()

    @cached_property
    def signer(self) -> Signer:
        """Guardian's ML-DSA-65 key: what nodes know Guardian by."""
        return self.crypto.load_signer(self._data_dir.secret("guardian.key"))

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes that every token carries."""
        return guardian_fingerprint(self.signer.public)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self._data_dir.secret("token.key"), self.fingerprint)

    @cached_property
    def master(self) -> MasterKeys:
        return MasterKeys(self._derive)

    def _derive(self, label: str) -> bytes:
        root = self._data_dir.secret("master.key")
        return hmac.digest(root, b"VeilNet Guardian/1 " + label.encode(), "sha256")
