"""What the demo shows: one line a step, and a small live picture where there is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


class Picture:
    """Prints steps as they end; between them redraws who reaches whom, if a person is watching."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._live = sys.stdout.isatty()
        self._drawn = 0

    def say(self, line: str) -> None:
        """Print *line* for good, with the seconds since the start."""
        self._wipe()
        print(f"[{time.monotonic() - self._started:5.1f} s] {line}", flush=True)

    def draw(self, lines: Sequence[str]) -> None:
        """Replace the live part by *lines*; nothing without a terminal."""
        if not self._live:
            return
        self._wipe()
        print("\n".join(lines), flush=True)
        self._drawn = len(lines)

    def _wipe(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
            self._drawn = 0


def rows(statuses: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """Return one line for each pair that talks: who, which path, round trip, cipher suite."""
    lines = []
    for host, table in statuses.items():
        for peer in table["peers"]:
            path = [names.get(node, node[:8]) for node in peer["path"]]
            rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"
            lines.append(
                f"    {' > '.join(path) or f'{host} > ?':<30} rtt {rtt:<9} "
                f"{peer['tether']}  {peer['cipher_suite']}  {peer['packet_auth']}"
            )
    return lines


def bar(share: float, width: int = 30) -> str:
    full = int(share * width)
    return "#" * full + "." * (width - full)
