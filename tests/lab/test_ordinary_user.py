"""`veilnet-conflux demo` for somebody who is not root."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.lab


def test_demo_holds_for_an_ordinary_user(as_nobody):
    demo = as_nobody([sys.executable, "-m", "conflux", "demo", "--megabytes", "8"], timeout_s=150)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "SHA-256" in demo.stdout
    assert "every step held" in demo.stdout
