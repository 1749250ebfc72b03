"""What the plugin says of itself."""

from __future__ import annotations

import pytest

from conflux.api import Unavailable
from conflux_auth_guardian import plugin


def test_missing_httpx_is_named_with_what_to_do(monkeypatch):
    plugin.probe()
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="pip install httpx"):
        plugin.probe()
