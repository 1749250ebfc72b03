"""Runs the comparison: `python -m benches.compare`, which is what `make bench` does.

    ROUNDS=5                   how often each is measured, in turn
    ONLY=veth,conflux-udp      these products alone, by name
    QUICK=1                    short parts and one round: figures that say little
    python -m benches.compare report [FILE]     makes the page anew from results

A whole run (no ONLY, no QUICK, five rounds or more) goes to docs/performance.md, .json and .svg;
any other, and one that was interrupted, to build/bench/results/. Needs root, or the right to make
namespaces and TUN devices.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from benches.compare import programs, run
from benches.compare.figures import Results
from benches.compare.jobs import QUICK, Pace
from benches.compare.picture import draw
from benches.compare.report import put_into, render
from conflux.lab import missing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/performance.md"
PARTIAL = ROOT / "build/bench/results"
LINKS = (
    "![Throughput, delay and CPU of all products](performance.svg)\n\n"
    "Every figure of every round: [performance.json](performance.json)."
)
WHOLE_ROUNDS = 5
INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    os.chdir(ROOT)
    if sys.argv[1:2] == ["report"]:
        file = Path(sys.argv[2]) if sys.argv[2:] else PAGE.with_suffix(".json")
        publish(Results.from_json(file.read_text()))
        return 0
    if lacking := missing():
        print("the benchmark needs " + "; and ".join(lacking), file=sys.stderr)
        return 3
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # As an exception: what was started is ended on the way out. nohup is heeded.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        load = programs.load_generator()
    except programs.Missing as reason:
        print(reason, file=sys.stderr)
        return 3
    try:
        return _measure(load)
    except KeyboardInterrupt:
        return INTERRUPTED


def _measure(load: str) -> int:
    quick = bool(os.environ.get("QUICK"))
    only = {name for name in os.environ.get("ONLY", "").split(",") if name}
    wanted = os.environ.get("ROUNDS") or ("1" if quick else str(WHOLE_ROUNDS))
    if not wanted.isdecimal() or not (rounds := int(wanted)):
        print(f"ROUNDS: a number from 1 on, not {wanted!r}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-accounts-") as folder:
        rows = run.rows(Path(folder) / "accounts")
        if unknown := only - {row.name for row in rows}:
            known = ", ".join(row.name for row in rows)
            print(f"ONLY: no {', '.join(sorted(unknown))}; there are {known}", file=sys.stderr)
            return 2
        chosen = [row for row in rows if not only or row.name in only]
        results = run.start(chosen, "quick" if quick else "whole")
        is_whole, code = False, 0
        try:
            run.measure(results, chosen, load, QUICK if quick else Pace(), rounds)
            is_whole = not quick and not only and rounds >= WHOLE_ROUNDS
        except KeyboardInterrupt:
            print("interrupted: what was measured until now", flush=True)
            code = INTERRUPTED
    print(render(results))
    if is_whole:
        publish(results)
    else:
        put_aside(results)
    return code or (1 if results.failures else 0)


def put_aside(results: Results) -> None:
    """Write what is not for the page."""
    PARTIAL.mkdir(parents=True, exist_ok=True)
    for suffix, text in (
        ("json", results.to_json()),
        ("svg", draw(results)),
        ("md", render(results)),
    ):
        (PARTIAL / f"results.{suffix}").write_text(text)
    print(f"written to {PARTIAL.relative_to(ROOT)}/; docs/performance.md stays as it was")


def publish(results: Results) -> None:
    """Write the page's middle, its picture and the figures."""
    PAGE.write_text(put_into(PAGE.read_text(), f"{LINKS}\n\n{render(results)}"))
    PAGE.with_suffix(".json").write_text(results.to_json())
    PAGE.with_suffix(".svg").write_text(draw(results))
    print(f"written to {PAGE.relative_to(ROOT)}, .json and .svg")


if __name__ == "__main__":
    sys.exit(main())
