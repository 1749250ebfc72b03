"""What the plugin says of itself, and its pure parts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import ControlDriver, Unavailable
from conflux_control_nats import plugin
from conflux_control_nats.client import retry_delay


def test_describing_the_driver_does_not_import_nats():
    script = (
        "import sys; from conflux_control_nats import plugin; "
        "plugin.conflux_control_driver().probe(); "
        "print(sorted({'nats', 'nkeys', 'ssl', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_target_is_a_control_driver():
    module, _, name = plugin.conflux_control_driver().target.partition(":")
    driver = getattr(__import__(module, fromlist=[name]), name)
    assert issubclass(driver, ControlDriver)


def test_missing_library_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(plugin, "find_spec", lambda name: None if name == "nkeys" else object())
    with pytest.raises(Unavailable, match="pip install nkeys"):
        plugin.probe()


@given(st.integers(min_value=0))
def test_retries_start_quickly_grow_and_stay_below_two_seconds(attempts):
    longest = retry_delay(attempts, lambda low, high: high)
    assert longest <= 2.0
    assert longest >= retry_delay(max(0, attempts - 1), lambda low, high: high)
    assert retry_delay(0, lambda low, high: high) == 0.1
    assert retry_delay(attempts, lambda low, high: low) == 0
