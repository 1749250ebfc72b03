"""The tests in `windows/` run on Windows, or in its own Python under Wine: test_under_wine.py."""

from __future__ import annotations

import sys

collect_ignore = [] if sys.platform == "win32" else ["windows"]
