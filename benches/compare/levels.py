"""What packet authentication costs one TCP flow over the UDP tether: `handshake` and `checkpoint`.

    python -m benches.compare.levels [ROUNDS [CHECKOUT]]

CHECKOUT is another working copy, with its environment in .venv: then both are measured, to see what
a change has done. All tunnels are up at once, each on a cable of its own, and take turns: what else
the machine does hits all of them. Prints, as Markdown, medians of all rounds: CPU seconds of both
nodes and of the whole machine for a gigabyte, Mbit/s, and ratios to `handshake` of the same copy in
the same round.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benches.compare import meters, programs, worlds
from benches.compare.conflux import Conflux
from benches.compare.loads import Line
from conflux.lab import World, missing

ROUNDS = 10
WARM_S = 0.5
SECONDS = 1.5
LEVELS = ("handshake", "checkpoint")

Row = tuple[float, float, float]
"""CPU seconds a gigabyte of the nodes and of the machine, Mbit/s."""


def main() -> None:
    if lacking := missing():
        print("levels: left out, it needs " + "; ".join(lacking))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    copies = {"": Path(sys.executable).parent}
    if len(sys.argv) > 2:
        copies = {" before": Path(sys.argv[2]).resolve() / ".venv/bin", " now": copies[""]}
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as name, ExitStack() as stack:
        lines = dict(_lines(copies, Path(name), stack))
        measured: dict[str, list[Row]] = {title: [] for title in lines}
        for line in lines.values():
            _measure(line)  # once unseen: tethers find out what their path carries
        for _ in range(rounds):
            for title, line in lines.items():
                measured[title].append(_measure(line))
    for copy in copies:
        show([level + copy for level in LEVELS], measured)


def _lines(copies: dict[str, Path], folder: Path, stack: ExitStack) -> Iterator[tuple[str, Line]]:
    """Every copy at every level, started."""
    load = programs.load_generator()
    for copy, commands in copies.items():
        for level in LEVELS:
            title = level + copy
            product = Conflux(title, title, "udp", level, folder / "accounts", commands)
            print(f"{title}: {product.prepare()}", flush=True)
            own = folder / title.replace(" ", "-")
            own.mkdir()
            underlay = worlds.pair(stack.enter_context(World()))
            line = Line(load, underlay, product.start(underlay, own), own)
            line.cold(gap_ms=20, seconds=15.0)
            line.tunnel.settle()
            yield title, line


def _measure(line: Line) -> Row:
    nodes = line.tunnel.nodes
    before, machine_s = meters.cpu_s(nodes), meters.machine_cpu_s()
    took = line.tcp(warm_s=WARM_S, seconds=SECONDS)
    gigabytes = took["bytes"] / 1e9
    cpu_s = meters.cpu_s(nodes) - before
    return cpu_s / gigabytes, (meters.machine_cpu_s() - machine_s) / gigabytes, took["mbit"]


def show(titles: list[str], measured: dict[str, list[Row]]) -> None:
    """A row for each title, with ratios to the first."""
    print("\n| | nodes, s/GB | machine, s/GB | Mbit/s | CPU, ratio | throughput, ratio |")
    print("|---|---|---|---|---|---|")
    first = measured[titles[0]]
    for title in titles:
        rows = measured[title]
        nodes, machine, mbit = (statistics.median(column) for column in zip(*rows, strict=True))
        cpu = statistics.median(a[0] / b[0] for a, b in zip(rows, first, strict=True))
        rate = statistics.median(a[2] / b[2] for a, b in zip(rows, first, strict=True))
        cells = f"{nodes:.2f} | {machine:.2f} | {mbit:,.0f} | {cpu:.2f} | {rate:.2f}"
        print(f"| {title} | {cells} |")


if __name__ == "__main__":
    main()
