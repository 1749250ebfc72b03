"""A node starts no other program: it may run as root, and who knows what is on its PATH."""

from __future__ import annotations

import pytest

LISTENS = """
import os, sys
STARTS = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork")

def hear(event, arguments):
    if event in STARTS:
        with open(os.environ["STARTED"], "a") as file:
            file.write(f"{event} {arguments[:2]}\\n")

sys.addaudithook(hear)
"""


@pytest.mark.parametrize("tether", ["udp", "webrtc"])
def test_node_starts_no_other_program(machine, guardian, tether):
    started = machine.home / "started"
    (machine.home / "plugins" / "sitecustomize.py").write_text(LISTENS)
    words = ["register", "--foreground", "-t", guardian.tokens["good"], "-g", guardian.url]
    with machine.node(*words, STARTED=str(started), VEILNET_PLUGIN_TETHER=tether):
        pass
    assert not started.exists(), started.read_text()
