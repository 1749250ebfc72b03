"""A third party's plugin, installed with pip, routes the packets of running nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "conflux-plugin-xyz"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip installed the example: no other program sees it."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    done = subprocess.run(
        [*pip, *options, str(EXAMPLE)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_its_router_is_used_by_a_running_node(overlay, installed):
    overlay.start_guardian()
    variables = {"PYTHONPATH": str(installed), "VEILNET_PLUGIN_ROUTER": "xyz"}
    token = overlay.tokens["alice"]
    london = overlay.host("london").register(token, **variables)
    tokyo = overlay.host("tokyo").register(token)
    relay = overlay.host("relay").register(token)
    overlay.internet.block(london.host, tokyo.host)
    for conflux in (london, tokyo, relay):
        conflux.ready()
    assert london.status()["plugins"]["router"] == "xyz"
    assert tokyo.status()["plugins"]["router"] == "static"
    assert london.ping(tokyo)
    assert london.paths_to(tokyo) == [["london", "relay", "tokyo"]]
    end = overlay.serve_stream(london, 4 << 20)
    got = overlay.fetch_stream(london, tokyo).wait()
    assert got["sha256"] in overlay.sent_digests()
    end()
