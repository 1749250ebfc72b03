"""What `awake_us` gives and costs: two whole nodes that sleep, beside two that look again.

Interleaved, on hosts of the lab: round trips one after the other and with gaps between them, TCP,
beside a program that would use every processor, and on one processor. CPU is both nodes' together.

    sudo .venv/bin/python -m benches.compare.awake [ROUNDS [µs]]
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benches.compare import jobs, meters, programs
from benches.compare.conflux import products
from benches.compare.loads import Line

PACE = jobs.Pace(tcp_s=1.5, warm_s=0.3, udp_s=0.5, echoes=3000)
GAPS_US = (200, 1_000, 10_000)
LASTS_S = 1.0
BUSY = "import time\ne = time.time() + {}\nn = 0\nwhile time.time() < e: n += 1\nprint(n)"
Figures = dict[str, float]


def echoes(line: Line, name: str, gap_us: int, seconds: float = LASTS_S) -> Figures:
    """p50, and CPU of both nodes an echo, of echoes *gap_us* after the answer to the one before."""
    began = meters.cpu_s(line.tunnel.nodes)
    heard = line.start_echo(gap_us=gap_us, seconds=seconds)()
    cpu_us = (meters.cpu_s(line.tunnel.nodes) - began) / heard["sent"] * 1e6
    return {f"{name}: p50, µs": heard["p50_us"], f"{name}: CPU µs an echo": cpu_us}


def beside_busy(line: Line) -> Figures:
    """As `echoes`, while a busy program runs on each processor; and what these get done."""
    words = [sys.executable, "-c", BUSY.format(LASTS_S + 0.5)]
    busy = [
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in os.sched_getaffinity(0)
    ]
    figures = echoes(line, "beside busy programs", 0)
    done = sum(int(program.communicate()[0]) for program in busy)
    return {**figures, "beside busy programs: their rounds, k": done / 1e3}


def tcp(line: Line) -> Figures:
    """One flow."""
    began = meters.cpu_s(line.tunnel.nodes)
    heard = line.tcp(flows=1, back=False, warm_s=PACE.warm_s, seconds=PACE.tcp_s)
    cpu_s = meters.cpu_s(line.tunnel.nodes) - began
    return {"TCP: Mbit/s": heard["mbit"], "TCP: CPU s a GB": cpu_s / heard["bytes"] * 1e9}


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """All that is started meanwhile runs on one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measured(bench: jobs.Bench, folder: Path) -> Figures:
    product = next(p for p in products(folder) if p.name == "conflux-udp")
    product.prepare()
    figures: Figures = {}
    with bench.line(product) as line:
        bench.begin(line)
        began = meters.cpu_s(line.tunnel.nodes)
        time.sleep(2)
        figures["at rest: CPU, %"] = (meters.cpu_s(line.tunnel.nodes) - began) / 2 * 100
        figures |= echoes(line, "one after the other", 0)
        for gap_us in GAPS_US:
            figures |= echoes(line, f"gaps of {gap_us} µs", gap_us)
        figures |= beside_busy(line)
        figures |= tcp(line)
    with one_processor(), bench.line(product) as line:
        bench.begin(line)
        figures |= echoes(line, "one processor", 0)
    return figures


def main(rounds: int = 3, us: int = 150) -> None:
    bench = jobs.Bench(programs.load_generator(), PACE)
    heard: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-awake") as folder:
        for number in range(rounds * 2):
            awake_us = (0, us)[(number + number // 2) % 2]
            os.environ["VEILNET_AWAKE_US"] = str(awake_us)
            for name, figure in measured(bench, Path(folder) / str(number)).items():
                heard[name][awake_us].append(figure)
    print(f"| | asleep | awake {us} µs | ratio |\n|---|---|---|---|")
    for name, by_us in heard.items():
        asleep, awake = median(by_us[0]), median(by_us[us])
        ratio = f"{awake / asleep:.2f}" if asleep else ""
        print(f"| {name} | {asleep:.1f} | {awake:.1f} | {ratio} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
