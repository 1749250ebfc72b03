"""What is measured, and of whom. A job takes a fresh world and a fresh start of one product."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benches.compare import meters, worlds
from benches.compare.channel import RawChannel
from benches.compare.conflux import Conflux
from benches.compare.figures import LOSSES, loss_key
from benches.compare.loads import Line
from benches.compare.products import Product, Tunnel
from benches.compare.worlds import Underlay
from conflux.lab import World

FLOWS = 8
COLD_GAP_MS = 20
COLD_S = 15.0
LOADED_GAP_US = 1_000
SMALL_BYTES, LARGE_BYTES = 64, 1_200
HELPS = 5

Figures = dict[str, float]


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
    run: Callable[[], Figures]
    """Returns figures by their key. Raises LabError."""


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
        if product.name in ("wireguard-go", "nebula", "conflux-udp", "conflux-webrtc"):
            yield Job(product, "loss", lambda: self._loss(product))
            yield Job(product, "rest", lambda: self._rest(product))
        if product.name in ("conflux-udp", "conflux-webrtc"):
            yield Job(product, "one relay", lambda: self._relayed(product, 1))
            yield Job(product, "two relays", lambda: self._relayed(product, 2))
        if isinstance(product, Conflux) and product.name == "conflux-udp":
            yield Job(product, "help", _help)

    def _whole(self, product: Product) -> Figures:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            underlay, folder = worlds.pair(world), Path(name)
            tunnel = product.start(underlay, folder)
            line = Line(self.load, underlay, tunnel, folder)
            cold = self._begin(line)
            figures = {"cold": cold["first_ms"], "cold_lost": cold["lost"]}
            if tunnel.nodes:
                figures["memory"] = _memory(tunnel)
            figures |= self._delays(line) | self._streams(line) | self._datagrams(line)
            if tunnel.nodes:
                figures["memory_loaded"] = _memory(tunnel)
            tunnel.settle()  # still the way that was to be measured
            return figures

    def _begin(self, line: Line) -> Figures:
        """The first packet, and then the way that is to be measured."""
        cold = line.cold(gap_ms=COLD_GAP_MS, seconds=COLD_S)
        line.tunnel.settle()
        return cold

    def _delays(self, line: Line) -> Figures:
        idle = line.echo(count=self.pace.echoes, seconds=self.pace.tcp_s)
        lasts = self.pace.warm_s + self.pace.tcp_s
        heard = line.start_echo(gap_us=LOADED_GAP_US, seconds=lasts)
        line.tcp(warm_s=self.pace.warm_s, seconds=self.pace.tcp_s)
        loaded = heard()
        return {
            "rtt_p50": idle["p50_us"],
            "rtt_p99": idle["p99_us"],
            "loaded_p50": loaded["p50_us"],
            "loaded_p99": loaded["p99_us"],
            "loaded_lost": loaded["lost"] / loaded["sent"] * 100,
        }

    def _streams(self, line: Line) -> Figures:
        figures = {}
        times = {"warm_s": self.pace.warm_s, "seconds": self.pace.tcp_s}
        processes = line.tunnel.processes
        cpu_s, machine_s = meters.cpu_s(processes), meters.machine_cpu_s()
        there = line.tcp(**times)
        gigabytes = there["bytes"] / 1e9
        figures["machine_cpu"] = (meters.machine_cpu_s() - machine_s) / gigabytes
        if processes:
            figures["cpu"] = (meters.cpu_s(processes) - cpu_s) / gigabytes
        figures["tcp1_there"] = there["mbit"]
        figures["tcp1_back"] = line.tcp(back=True, **times)["mbit"]
        figures["tcp8_there"] = line.tcp(flows=FLOWS, **times)["mbit"]
        figures["tcp8_back"] = line.tcp(flows=FLOWS, back=True, **times)["mbit"]
        return figures

    def _datagrams(self, line: Line) -> Figures:
        figures = {}
        for size in (SMALL_BYTES, LARGE_BYTES):
            took = line.udp(size, self.pace.udp_s)
            figures[f"udp{size}"] = took["pps"] / 1e3
            figures[f"udp{size}_sent"] = took["sent"] / self.pace.udp_s / 1e3
        return figures

    def _loss(self, product: Product) -> Figures:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            underlay, folder = worlds.pair(world), Path(name)
            worlds.make_lossy(underlay)
            line = Line(self.load, underlay, product.start(underlay, folder), folder)
            self._begin(line)
            figures = {}
            for share in LOSSES:
                worlds.lose(underlay, share)
                took = line.tcp(warm_s=self.pace.loss_warm_s, seconds=self.pace.loss_s)
                figures[loss_key(share)] = took["mbit"]
            return figures

    def _rest(self, product: Product) -> Figures:
        """Nodes that have just started and that nobody uses."""
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            tunnel = product.start(worlds.pair(world), Path(name))
            time.sleep(1.0)  # what is left of the start
            cpu_s, began = meters.cpu_s(tunnel.nodes), time.perf_counter()
            time.sleep(self.pace.rest_s)
            took = (meters.cpu_s(tunnel.nodes) - cpu_s) / len(tunnel.nodes)
            share = took / (time.perf_counter() - began)
            return {"rest_memory": _memory(tunnel), "rest_cpu": share * 100}

    def _relayed(self, product: Product, relays: int) -> Figures:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            underlay, folder = worlds.chain(world, relays), Path(name)
            line = Line(self.load, underlay, product.start(underlay, folder), folder)
            cold = self._begin(line)
            idle = line.echo(count=self.pace.echoes, seconds=self.pace.tcp_s)
            took = line.tcp(warm_s=self.pace.warm_s, seconds=self.pace.tcp_s)
            line.tunnel.settle()
            return {
                f"relay{relays}": took["mbit"],
                f"relay{relays}_rtt": idle["p50_us"],
                f"relay{relays}_cold": cold["first_ms"],
            }

    def _channel(self, product: RawChannel) -> Figures:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name, World() as world:
            underlay: Underlay = worlds.pair(world)
            mbit = product.measure(underlay, Path(name), self.pace.warm_s, self.pace.tcp_s)
            return {"channel": mbit}


PREFIX = "veilnet-bench-"


def _memory(tunnel: Tunnel) -> float:
    """Of one node, in MB: the mean of all."""
    return meters.resident_mb(tunnel.nodes) / len(tunnel.nodes)


def _help() -> Figures:
    """How long `veilnet-conflux --help` takes, in ms: the median of some."""
    argv = [str(Path(sys.executable).with_name("veilnet-conflux")), "--help"]
    times = []
    for _ in range(HELPS):
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return {"help": statistics.median(times) * 1e3}
