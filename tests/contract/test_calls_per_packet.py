"""A whole node calls its auth driver to log in and out, its service driver never: none a packet."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"


@pytest.fixture
def whole_nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the benchmarks of both contracts count with."""
    monkeypatch.syspath_prepend(str(BENCHES))
    return importlib.import_module("whole_nodes")


def test_no_packet_costs_a_call_of_the_auth_or_service_driver(whole_nodes: Any) -> None:
    carried = whole_nodes.carry(2_000)
    assert carried.at_start == {"auth.login": 2}
    assert carried.meanwhile == {}
    assert carried.at_end == {"auth.logout": 2, "auth.close": 2}
