"""httpx without its command line, which it imports wherever rich and pygments are installed: 4 MB.

None in `sys.modules` has an import fail as if there were no such module (importlib's reference);
httpx is made for that, since its command line is an extra.
"""

from __future__ import annotations

import sys

_COMMAND_LINE = "httpx._main"
_is_new = _COMMAND_LINE not in sys.modules
if _is_new:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # what the reference says

import httpx  # noqa: E402 (that is the point)

if _is_new:
    del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
