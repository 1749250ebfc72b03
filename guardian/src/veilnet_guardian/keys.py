"""The keys that Guardian keeps in its data folder, and what follows from them."""

from __future__ import annotations

import hmac
import os
import secrets
from functools import cache, cached_property

from conflux.anchor.identity import guardian_fingerprint
from conflux.api import CryptoDriver, Kind, Signer
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.natsjwt import MasterKeys
from veilnet_guardian.tokens import Tokens


def fresh_key() -> bytes:
    """32 random bytes: a plane key or a team key."""
    return secrets.token_bytes(32)


@cache
def crypto_driver() -> CryptoDriver:
    """The crypto driver of this process, chosen as a node chooses its own.

    It is asked to load a key from its seed, which not every driver can: `VEILNET_PLUGIN_CRYPTO`
    pins one that does. Raises UsageError.
    """
    from conflux.registry import Registry

    registry = Registry()
    registry.load()
    _, driver = registry.create(Kind.CRYPTO, {}, os.environ.get("VEILNET_PLUGIN_CRYPTO") or None)
    made: CryptoDriver = driver
    return made


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
