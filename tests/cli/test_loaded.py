"""What a running node has imported: nothing that it does not use."""

from __future__ import annotations

from pathlib import Path

TELLING = """
import os, sys
from pathlib import Path
from conflux.api import hookimpl

@hookimpl
def conflux_node_started(node):
    Path(os.environ["LOADED"]).write_text(" ".join(sys.modules))
"""

HEAVY = {
    "a fallback that nobody fell back to": {"aiortc", "aioice", "av", "pylibsrtp", "OpenSSL"},
    "a cipher library that was not chosen": {"oqs", "pqcrypto"},
    "the command line of a library": {"rich", "httpx._main"},
    "the plugins of a service manager": {"conflux_service_systemd.driver"},
}


def loaded(machine, *words: str, **variables: str) -> set[str]:
    """The modules of a node that *words* started, once it runs."""
    plugins, told = machine.home / "plugins", machine.home / "loaded"
    info = plugins / "telling-1.0.dist-info"
    info.mkdir()
    (plugins / "telling.py").write_text(TELLING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[conflux.plugins]\ntelling = telling\n")
    with machine.node(*words, LOADED=str(told), **variables):
        return set(Path(told).read_text().split())


def test_node_at_rest_has_imported_only_what_it_uses(machine, guardian):
    found = loaded(machine, "register", "-d", "-g", guardian.url, "-t", guardian.tokens["good"])
    assert {"conflux_tether_udp.driver", "conflux_crypto_openssl.driver", "httpx"} <= found
    assert {why: sorted(names & found) for why, names in HEAVY.items() if names & found} == {}


def test_node_told_to_use_webrtc_has_imported_it(machine, guardian):
    found = loaded(
        machine, "register", "-d", "-g", guardian.url, "-t", guardian.tokens["good"],
        VEILNET_PLUGIN_TETHER="webrtc",
    )  # fmt: skip
    assert "aiortc" in found  # else the test above could not fail
    assert "conflux_tether_udp.driver" not in found
