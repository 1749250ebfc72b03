"""What is measured, and of whom. A job takes a fresh world and a fresh start of one product."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.compare import meters, worlds
from benches.compare.channel import RawChannel
from benches.compare.figures import LOSSES, loss_key
from benches.compare.loads import Line
from benches.compare.products import Product, Tunnel
from conflux.lab import LabError, World

FLOWS = 8
COLD_GAP_MS = 20
COLD_S = 15.0
LOADED_GAP_US = 1_000
SMALL_BYTES, LARGE_BYTES = 64, 1_200
HELPS = 5

LOSSY = ("wireguard-go", "nebula", "conflux-udp", "conflux-webrtc")
"""Who is measured at rest and on a cable that loses, too."""
RELAYED = ("conflux-udp", "conflux-webrtc")

Figures = dict[str, float]
Measuring = Generator[Figures, None, None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part takes, in seconds."""

    tcp_s: float = 3.0
    warm_s: float = 0.5
    udp_s: float = 2.0
    echoes: int = 3_000
    loss_warm_s: float = 2.0
    """Tethers that measure loss need some time before they know it."""
    loss_s: float = 4.0
    rest_s: float = 10.0


QUICK = Pace(tcp_s=1.0, warm_s=0.3, udp_s=0.7, echoes=500, loss_warm_s=1.0, loss_s=1.0, rest_s=2.0)


@dataclass(frozen=True, slots=True)
class Job:
    """One start of one product, and what is measured of it."""

    product: Product
    kind: str
    run: Callable[[], Measuring]
    """Yields figures by their key as they are measured; those stand if it then raises LabError."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What jobs have in common."""

    load: str
    pace: Pace

    def jobs(self, product: Product) -> Iterator[Job]:
        """All jobs of one product, in order."""
        if isinstance(product, RawChannel):
            yield Job(product, "channel", lambda: self._channel(product))
            return
        yield Job(product, "whole", lambda: self._whole(product))
        if product.name in LOSSY:
            yield Job(product, "loss", lambda: self._loss(product))
            yield Job(product, "rest", lambda: self._rest(product))
        if product.name in RELAYED:
            yield Job(product, "one relay", lambda: self._relayed(product, 1))
            yield Job(product, "two relays", lambda: self._relayed(product, 2))
        if product.name == "conflux-udp":
            yield Job(product, "help", _help)

    def _whole(self, product: Product) -> Measuring:
        with self.line(product) as line:
            tunnel = line.tunnel
            cold = self.begin(line)
            yield {"cold": cold["first_ms"], "cold_lost": cold["lost"]}
            if tunnel.nodes:
                yield {"memory": _memory(tunnel)}
            yield self._idle(line)
            yield self._loaded(line)
            yield from self._streams(line)
            yield from self._datagrams(line)
            if tunnel.nodes:
                yield {"memory_loaded": _memory(tunnel)}
            tunnel.settle()  # still the way that was to be measured

    @contextmanager
    def line(self, product: Product, *, relays: int = 0) -> Iterator[Line]:
        """A tunnel on a world of its own, and the load generator at its ends."""
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            underlay = worlds.chain(world, relays) if relays else worlds.pair(world)
            folder = Path(name)
            yield Line(self.load, underlay, product.start(underlay, folder), folder)

    def begin(self, line: Line) -> Figures:
        """The first packet, and then the way that is to be measured."""
        cold = line.cold(gap_ms=COLD_GAP_MS, seconds=COLD_S)
        line.tunnel.settle()
        return cold

    def _idle(self, line: Line) -> Figures:
        heard = line.echo(count=self.pace.echoes, seconds=self.pace.tcp_s)
        return {"rtt_p50": heard["p50_us"], "rtt_p99": heard["p99_us"]}

    def _loaded(self, line: Line) -> Figures:
        lasts = self.pace.warm_s + self.pace.tcp_s
        hear = line.start_echo(gap_us=LOADED_GAP_US, seconds=lasts)
        self._tcp(line)
        heard = hear()
        return {
            "loaded_p50": heard["p50_us"],
            "loaded_p99": heard["p99_us"],
            "loaded_lost": heard["lost"] / heard["sent"] * 100,
        }

    def _tcp(self, line: Line, *, flows: int = 1, back: bool = False) -> Figures:
        pace = self.pace
        return line.tcp(flows=flows, back=back, warm_s=pace.warm_s, seconds=pace.tcp_s)

    def _streams(self, line: Line) -> Measuring:
        processes = line.tunnel.processes
        cpu_s, machine_s = meters.cpu_s(processes), meters.machine_cpu_s()
        there = self._tcp(line)
        gigabytes = there["bytes"] / 1e9
        yield {"machine_cpu": (meters.machine_cpu_s() - machine_s) / gigabytes}
        if processes:
            yield {"cpu": (meters.cpu_s(processes) - cpu_s) / gigabytes}
        yield {"tcp1_there": there["mbit"]}
        yield {"tcp1_back": self._tcp(line, back=True)["mbit"]}
        yield {"tcp8_there": self._tcp(line, flows=FLOWS)["mbit"]}
        yield {"tcp8_back": self._tcp(line, flows=FLOWS, back=True)["mbit"]}

    def _datagrams(self, line: Line) -> Measuring:
        for size in (SMALL_BYTES, LARGE_BYTES):
            took = line.udp(size, self.pace.udp_s)
            yield {
                f"udp{size}": took["pps"] / 1e3,
                f"udp{size}_sent": took["sent"] / self.pace.udp_s / 1e3,
            }

    def _loss(self, product: Product) -> Measuring:
        with self.line(product) as line:
            worlds.make_lossy(line.underlay)
            self.begin(line)
            for share in LOSSES:
                worlds.lose(line.underlay, share)
                took = line.tcp(warm_s=self.pace.loss_warm_s, seconds=self.pace.loss_s)
                yield {loss_key(share): took["mbit"]}

    def _rest(self, product: Product) -> Measuring:
        """Nodes that have just started and that nobody uses."""
        with self.line(product) as line:
            nodes = line.tunnel.nodes
            time.sleep(1.0)  # what is left of the start
            cpu_s, began = meters.cpu_s(nodes), time.perf_counter()
            time.sleep(self.pace.rest_s)
            share = (meters.cpu_s(nodes) - cpu_s) / len(nodes) / (time.perf_counter() - began)
            yield {"rest_memory": _memory(line.tunnel), "rest_cpu": share * 100}

    def _relayed(self, product: Product, relays: int) -> Measuring:
        with self.line(product, relays=relays) as line:
            yield {f"relay{relays}_cold": self.begin(line)["first_ms"]}
            yield {f"relay{relays}_rtt": self._idle(line)["rtt_p50"]}
            mbit = self._tcp(line)["mbit"]
            line.tunnel.settle()  # still over all relays
            yield {f"relay{relays}": mbit}

    def _channel(self, product: RawChannel) -> Measuring:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            times = (self.pace.warm_s, self.pace.tcp_s)
            yield {"channel": product.measure(worlds.pair(world), Path(name), *times)}


PREFIX = "veilnet-bench-"


def _memory(tunnel: Tunnel) -> float:
    """Of one node, in MB: the mean of all."""
    return meters.resident_mb(tunnel.nodes) / len(tunnel.nodes)


def _help() -> Measuring:
    """How long `veilnet-conflux --help` takes, in ms: the median of some."""
    argv = [str(Path(sys.executable).with_name("veilnet-conflux")), "--help"]
    times = []
    for _ in range(HELPS):
        began = time.perf_counter()
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"--help: {done.stderr}")
        times.append(time.perf_counter() - began)
    yield {"help": statistics.median(times) * 1e3}
