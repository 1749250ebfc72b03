"""Runs one target under atheris: `fuzz.py TARGET [libFuzzer's options and corpus folders]`.

Needs the environment that `make fuzz` makes; everything that decodes is instrumented.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(
    include=[
        "conflux.wire",
        "conflux.anchor",
        "conflux.runtime",
        "conflux_tether_webrtc.description",
        "conflux_tether_webrtc.inbound",
        "conflux_tether_webrtc.outbound",
        "conflux_auth_guardian",
        "aiortc.rtcsctptransport",
        "fuzz_targets",
    ]
):
    from fuzz_targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    options = [f"-max_len={target.max_bytes}", *options]
    # libFuzzer's merge starts what stands first once more, through a shell.
    again = shlex.join([sys.executable, __file__, name])
    atheris.Setup([again, *options], target.entry)
    atheris.Fuzz()


main()
