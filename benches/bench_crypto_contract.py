"""What the crypto contract costs over the bare library call, and what each operation costs.

Prints one line per driver and operation: median microseconds through the driver, through the
library, their ratio. Rounds of the two are interleaved, so that a slow moment hits both.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from pqcrypto.kem import ml_kem_768
from pqcrypto.sign import ml_dsa_65

from conflux.anchor.seal import HybridKey, seal
from conflux.api import CryptoDriver, Unavailable
from conflux_crypto_openssl.driver import OpenSslCrypto
from conflux_crypto_oqs.driver import OqsCrypto
from conflux_crypto_oqs.library import KEM, SIGNATURE, import_oqs
from conflux_crypto_pqcrypto.driver import PqcryptoCrypto

ROUNDS = 25
ROUND_S = 0.004
MESSAGE = bytes(8_500)  # an Ask
CONTEXT = b"VeilNet/1 bench"

Call = Callable[[], object]
Raw = dict[str, Call]


def main() -> None:
    print(f"{'driver':<10}{'operation':<14}{'driver µs':>11}{'library µs':>12}{'ratio':>8}")
    for name, make in (("openssl", openssl), ("oqs", oqs), ("pqcrypto", pqcrypto)):
        try:
            driver, raw = make()
        except Unavailable as error:
            print(f"{name:<10}not measured: {error}")
            continue
        for operation, through, bare in operations(driver, raw):
            ours, theirs = compare(through, bare)
            print(f"{name:<10}{operation:<14}{ours:>11.1f}{theirs:>12.1f}{ours / theirs:>8.2f}")
        for operation, call in sealing(driver):
            print(f"{name:<10}{operation:<14}{compare(call, call)[0]:>11.1f}")


def operations(driver: CryptoDriver, raw: Raw) -> Iterator[tuple[str, Call, Call]]:
    key, signer = driver.generate_kem(), driver.generate_signer()
    _, ciphertext = driver.encapsulate(key.public)
    signature = signer.sign(MESSAGE, CONTEXT)
    yield "kem key", driver.generate_kem, raw["kem key"]
    yield "encapsulate", lambda: driver.encapsulate(key.public), raw["encapsulate"]
    yield "decapsulate", lambda: key.decapsulate(ciphertext), raw["decapsulate"]
    yield "sign key", driver.generate_signer, raw["sign key"]
    yield "sign", lambda: signer.sign(MESSAGE, CONTEXT), raw["sign"]
    yield (
        "verify",
        lambda: driver.verify(signer.public, MESSAGE, signature, CONTEXT),
        raw["verify"],
    )


def sealing(driver: CryptoDriver) -> Iterator[tuple[str, Call]]:
    key = HybridKey(driver, os.urandom)
    sealed = seal(driver, key.public, MESSAGE, info=CONTEXT, entropy=os.urandom)
    yield (
        "seal 8.5 kB",
        lambda: seal(driver, key.public, MESSAGE, info=CONTEXT, entropy=os.urandom),
    )
    yield "open 8.5 kB", lambda: key.open(sealed, info=CONTEXT)


def compare(ours: Call, theirs: Call) -> tuple[float, float]:
    """Return the median time of each in microseconds."""
    repeat = max(1, round(ROUND_S / max(timed(theirs, 3), 1e-7)))
    ours_s: list[float] = []
    theirs_s: list[float] = []
    for turn in range(ROUNDS):
        for call, into in ((ours, ours_s), (theirs, theirs_s))[:: 1 if turn % 2 else -1]:
            into.append(timed(call, repeat))
    return statistics.median(ours_s) * 1e6, statistics.median(theirs_s) * 1e6


def timed(call: Call, repeat: int) -> float:
    start = perf_counter()
    for _ in range(repeat):
        call()
    return (perf_counter() - start) / repeat


def openssl() -> tuple[CryptoDriver, Raw]:
    kem, key = MLKEM768PrivateKey.generate(), MLDSA65PrivateKey.generate()
    kem_public, public = kem.public_key().public_bytes_raw(), key.public_key().public_bytes_raw()
    _, ciphertext = kem.public_key().encapsulate()
    signature = key.sign(MESSAGE, CONTEXT)
    return OpenSslCrypto({}), {
        # A key that nobody can be told of is of no use: its public half belongs to it.
        "kem key": lambda: MLKEM768PrivateKey.generate().public_key().public_bytes_raw(),
        "encapsulate": lambda: MLKEM768PublicKey.from_public_bytes(kem_public).encapsulate(),
        "decapsulate": lambda: kem.decapsulate(ciphertext),
        "sign key": lambda: MLDSA65PrivateKey.generate().public_key().public_bytes_raw(),
        "sign": lambda: key.sign(MESSAGE, CONTEXT),
        "verify": lambda: MLDSA65PublicKey.from_public_bytes(public).verify(
            signature, MESSAGE, CONTEXT
        ),
    }


def oqs() -> tuple[CryptoDriver, Raw]:
    driver, module = OqsCrypto({}), import_oqs()
    kem, key = module.KeyEncapsulation(KEM), module.Signature(SIGNATURE)
    kem_public, public = kem.generate_keypair(), key.generate_keypair()
    ciphertext, _ = kem.encap_secret(kem_public)
    signature = key.sign_with_ctx_str(MESSAGE, CONTEXT)

    def new(kind: Callable[[str], Any], name: str) -> None:
        with kind(name) as made:
            made.generate_keypair()

    return driver, {
        "kem key": lambda: new(module.KeyEncapsulation, KEM),
        "encapsulate": lambda: kem.encap_secret(kem_public),
        "decapsulate": lambda: kem.decap_secret(ciphertext),
        "sign key": lambda: new(module.Signature, SIGNATURE),
        "sign": lambda: key.sign_with_ctx_str(MESSAGE, CONTEXT),
        "verify": lambda: key.verify_with_ctx_str(MESSAGE, signature, CONTEXT, public),
    }


def pqcrypto() -> tuple[CryptoDriver, Raw]:
    kem_public, kem_private = ml_kem_768.keygen()
    public, private = ml_dsa_65.keygen()
    ciphertext, _ = ml_kem_768.encaps(kem_public)
    signature = ml_dsa_65.sign(private, MESSAGE, CONTEXT)
    return PqcryptoCrypto({}), {
        "kem key": ml_kem_768.keygen,
        "encapsulate": lambda: ml_kem_768.encaps(kem_public),
        "decapsulate": lambda: ml_kem_768.decaps(kem_private, ciphertext),
        "sign key": ml_dsa_65.keygen,
        "sign": lambda: ml_dsa_65.sign(private, MESSAGE, CONTEXT),
        "verify": lambda: ml_dsa_65.verify(public, MESSAGE, signature, CONTEXT),
    }


if __name__ == "__main__":
    main()
