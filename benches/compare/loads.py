"""Drives `load.c` through a tunnel and gives back what it counted, once all of it was right."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benches.compare.products import Tunnel
from benches.compare.worlds import Host, Underlay
from conflux.lab import LabError, until

READY_S = 10.0
ENDED_S = 90.0
SLACK_S = 0.3
"""How much longer a sender sends than its receiver looks."""


@dataclass(slots=True)
class Line:
    """The load generator at both ends of one tunnel."""

    load: str
    underlay: Underlay
    tunnel: Tunnel
    folder: Path
    _port: int = 9_000
    _number: int = 0
    _out: Path = field(init=False)

    def tcp(
        self, *, flows: int = 1, back: bool = False, warm_s: float, seconds: float
    ) -> dict[str, float]:
        """Send streams there, or *back*; return "mbit" per second after *warm_s*, and "bytes".

        Raises LabError unless every byte that was sent has arrived in its place.
        """
        giver, taker, address = self._ends(back=back)
        taken = self._taking(taker, "tcp-take", address, flows, warm_s, seconds)
        lasts = warm_s + seconds + SLACK_S
        sent = self._run(giver, "tcp-give", address, self._port, flows, lasts)
        received = taken()
        if sent["bytes"] != received["bytes"] or sent["wrong"] or received["wrong"]:
            raise LabError(f"TCP broke: sent {sent}, received {received}")
        mbit = received["window_bytes"] * 8 / received["window_s"] / 1e6
        return {"mbit": mbit, "bytes": received["bytes"]}

    def udp(self, size: int, seconds: float) -> dict[str, float]:
        """Send datagrams of *size* bytes as fast as one socket takes them; return "pps" delivered.

        Counted are different ones, of which every byte is right. Also "sent" and "late", those that
        were overtaken. Raises LabError if one arrives changed, or twice.
        """
        giver, taker, address = self._ends(back=False)
        taken = self._taking(taker, "udp-take", address, size)
        sent = self._run(giver, "udp-give", address, self._port, size, seconds)
        received = taken()
        if received["wrong"] or received["doubled"] or received["delivered"] > sent["sent"]:
            raise LabError(f"UDP broke: sent {sent}, received {received}")
        pps = received["delivered"] / max(received["seconds"], 1e-9)
        return {"pps": pps, "sent": sent["sent"], "late": received["late"]}

    def echo(self, *, count: int, gap_us: int = 0, seconds: float) -> dict[str, float]:
        """Echo one by one; return "p50_us", "p99_us", "sent" and "lost".

        Raises LabError if all are lost.
        """
        address = self.tunnel.far_address
        heard = self._run(self.underlay.near, "echo", address, count, gap_us, seconds)
        if heard["lost"] == heard["sent"]:
            raise LabError(f"no echo was answered: {heard}")
        return heard

    def start_echo(self, *, gap_us: int, seconds: float) -> Callable[[], dict[str, float]]:
        """Start what `echo` runs, for *seconds*; return what waits for its end, and its answer."""
        address = self.tunnel.far_address
        return self._start(self.underlay.near, "echo", address, 100_000, gap_us, seconds)

    def cold(self, *, gap_ms: int, seconds: float) -> dict[str, float]:
        """Send a packet, and more until one is answered; return "first_ms", "sent", "lost"."""
        return self._run(self.underlay.near, "cold", self.tunnel.far_address, gap_ms, seconds)

    # Programs

    def _ends(self, *, back: bool) -> tuple[Host, Host, str]:
        """Who sends, who receives, and at which address."""
        near, far = self.underlay.near, self.underlay.far
        if back:
            return far, near, self.tunnel.near_address
        return near, far, self.tunnel.far_address

    def _taking(
        self, host: Host, what: str, address: str, *words: object
    ) -> Callable[[], dict[str, float]]:
        """Start a receiver on a new port, wait until it listens; return what waits for its end."""
        self._port += 1
        taken = self._start(host, what, address, self._port, *words)
        until(lambda: "ready" in self._out.read_text(), deadline_s=READY_S, what=what)
        return taken

    def _run(self, host: Host, *words: object) -> dict[str, float]:
        return self._start(host, *words)()

    def _start(self, host: Host, *words: object) -> Callable[[], dict[str, float]]:
        self._number += 1
        out = self._out = self.folder / f"load{self._number}.out"
        err = out.with_suffix(".err")
        with out.open("w") as printed, err.open("w") as said:
            argv = [self.load, *map(str, words)]
            process = host.place.popen(argv, stdout=printed, stderr=said)

        def wait() -> dict[str, float]:
            until(lambda: process.poll() is not None, deadline_s=ENDED_S, what=shlex.join(argv))
            if process.returncode:
                raise LabError(f"{words[0]}: {err.read_text().strip() or process.returncode}")
            answer: dict[str, float] = json.loads(out.read_text().splitlines()[-1])
            return answer

        return wait
