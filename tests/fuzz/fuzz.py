"""Runs one target under atheris: `fuzz.py TARGET [libFuzzer's options and corpus folders]`.

Needs the environment that `make fuzz` makes; everything that decodes is instrumented.
"""

from __future__ import annotations

import gc
import shlex
import sys
from functools import lru_cache
from pathlib import Path

import atheris
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(
    include=[
        "conflux.wire",
        "conflux.anchor",
        "conflux.runtime",
        "conflux_tether_webrtc.description",
        "conflux_tether_webrtc.inbound",
        "conflux_tether_webrtc.outbound",
        "conflux_tether_udp",
        "conflux_auth_guardian",
        "aiortc.rtcsctptransport",
        "fuzz_targets",
        "fuzz_plugins",
    ]
):
    from fuzz_targets import TARGETS

    from conflux.anchor import seal
    from conflux.testing.fakes import crypto


class RememberedX25519:
    """Stands for pyca's class where keys are made."""

    from_private_bytes = lru_cache(maxsize=4_096)(X25519PrivateKey.from_private_bytes)


def remember() -> None:
    """The same coins give the same keys in every program: compute what is not ours once."""
    crypto._expand = lru_cache(maxsize=4_096)(crypto._expand)
    seal._x25519 = lru_cache(maxsize=4_096)(seal._x25519)
    seal.X25519PrivateKey = RememberedX25519  # type: ignore[misc, assignment]


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    options = [f"-max_len={target.max_bytes}", *options]
    # libFuzzer's merge starts what stands first once more, through a shell.
    again = shlex.join([sys.executable, __file__, name])
    remember()
    gc.freeze()  # what stands now stays: each program's garbage is collected without a look at it
    atheris.Setup([again, *options], target.entry)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
