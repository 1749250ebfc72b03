"""One TCP flow over a cable that loses: conflux by UDP beside wireguard-go and the bare cable.

    python -m benches.compare.loss [ROUNDS]

For each congestion control that the kernel has of cubic and bbr, and each share of lost packets.
All three products are up at once, each on a cable of its own, and take turns at every share: what
else the machine does hits all of them. Prints medians and ranges as Markdown, in Mbit/s, the CPU
seconds that a gigabyte costs the product's processes, and how busy the processors were before each
round.

Losses are nftables' at both ends, of single packets; there is no delay but the machine's own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benches.compare import conflux, machine, meters, programs, worlds
from benches.compare.figures import LOSSES
from benches.compare.kernel import Veth
from benches.compare.loads import Line
from benches.compare.peers import WireguardGo
from benches.compare.products import Product
from conflux.lab import World, missing

ROUNDS = 3
WARM_S = 1.5
"""Estimates of loss settle, and TCP's first seconds pass."""
SECONDS = 3.0
ALGORITHMS = ("cubic", "bbr")

Measured = dict[tuple[str, float, str], list[tuple[float, float]]]
"""Mbit/s and CPU seconds a gigabyte, one a round, by algorithm, share and product."""


def main() -> None:
    if lacking := missing():
        print("loss: left out, it needs " + "; ".join(lacking))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    load = programs.load_generator()
    measured: Measured = defaultdict(list)
    busy = []
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        lines = dict(_lines(load, folder, stack))
        algorithms = [each for each in ALGORITHMS if _has(lines["veth"], each)]
        for _ in range(rounds):
            busy.append(machine.busy())
            for algorithm in algorithms:
                _round(lines, algorithm, measured)
    print(f"\nbusy before each round: {', '.join(f'{share:.0%}' for share in busy)}")
    for algorithm in algorithms:
        show(algorithm, list(lines), measured)


def _lines(load: str, folder: Path, stack: ExitStack) -> Iterator[tuple[str, Line]]:
    """Every product, started on a cable that carries single packets."""
    accounts = folder / "accounts"
    udp = next(each for each in conflux.products(accounts) if each.name == "conflux-udp")
    products: tuple[Product, ...] = (Veth(), WireguardGo(), udp)
    for product in products:
        print(f"{product.name} {product.prepare()}", flush=True)
        own = folder / product.name
        own.mkdir()
        underlay = worlds.pair(stack.enter_context(World()))
        line = Line(load, underlay, product.start(underlay, own), own)
        worlds.make_lossy(underlay)
        line.cold(gap_ms=20, seconds=15.0)
        line.tunnel.settle()
        yield product.name, line


def _has(line: Line, algorithm: str) -> bool:
    has = line.underlay.near.place.run(
        ["sysctl", "-n", "net.ipv4.tcp_available_congestion_control"]
    )
    return algorithm in has.stdout.split()


def _choose(line: Line, algorithm: str) -> None:
    """Have the sender's way through the tunnel choose it: the system's own setting stays."""
    place, far = line.underlay.near.place, line.tunnel.far_address
    device = place.run(["ip", "-o", "route", "get", far]).stdout.partition(" dev ")[2].split()[0]
    way = ["dev", device, "src", line.tunnel.near_address, "congctl", algorithm]
    place.run(["ip", "route", "replace", f"{far}/32", *way])


def _round(lines: dict[str, Line], algorithm: str, measured: Measured) -> None:
    for line in lines.values():
        _choose(line, algorithm)
    for share in LOSSES:
        for name, line in lines.items():
            worlds.lose(line.underlay, share)
            before = meters.cpu_s(line.tunnel.processes)
            took = line.tcp(warm_s=WARM_S, seconds=SECONDS)
            cpu_s = meters.cpu_s(line.tunnel.processes) - before
            measured[algorithm, share, name].append((took["mbit"], cpu_s / took["bytes"] * 1e9))
            print(f"{algorithm} {share:.1%} {name} {took['mbit']:,.0f} Mbit/s", flush=True)


def show(algorithm: str, names: list[str], measured: Measured) -> None:
    print(f"\n| {algorithm}, Mbit/s (range); CPU s/GB | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for share in LOSSES:
        cells = []
        for name in names:
            mbit, cpu = zip(*measured[algorithm, share, name], strict=True)
            cell = f"{statistics.median(mbit):,.0f} ({min(mbit):,.0f} to {max(mbit):,.0f})"
            cells.append(f"{cell}; {statistics.median(cpu):.1f}" if any(cpu) else cell)
        print(f"| {share * 100:g} % | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
