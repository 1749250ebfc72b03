"""The demo, ended early: its folder holds tokens, keys and a large file, and must go with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conflux import lab
from conflux.with_parent import with_parent

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_that_is_ended_early_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    if lacking := lab.missing():
        pytest.skip("; ".join(lacking))
    demo = subprocess.Popen(
        with_parent([sys.executable, "-m", "conflux", "demo"]),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stdout is not None
        assert "firewalled from each other" in demo.stdout.readline()
        assert list(tmp_path.iterdir())
        demo.send_signal(number)
        assert demo.stdout.read().endswith("interrupted\n")
        assert demo.wait(30) == 1
    finally:
        demo.kill()
        demo.communicate()
    assert not list(tmp_path.iterdir())
