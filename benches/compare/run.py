"""One run: every product in turn, round after round, so that a noisy minute hits all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benches.compare import conflux, machine
from benches.compare.channel import PACKAGES, RawChannel
from benches.compare.figures import Entry, Failure, Results
from benches.compare.jobs import Bench, Job, Pace
from benches.compare.kernel import Veth, Vxlan
from benches.compare.peers import N2n, Nebula, Openvpn, Tinc, WireguardGo
from benches.compare.products import Product
from benches.compare.programs import Missing
from conflux.lab import LabError


def rows(accounts: Path) -> list[Product]:
    """All products in the order of the tables."""
    return [
        *(Veth(), Vxlan(), WireguardGo(), Nebula(), Tinc(), Openvpn(), N2n()),
        *conflux.products(accounts),
        *map(RawChannel, PACKAGES),
    ]


def start(products: Sequence[Product], pace: str) -> Results:
    """Prepare every product; who cannot be is absent, with the reason."""
    entries = []
    for product in products:
        try:
            version = product.prepare()
        except (Missing, LabError) as reason:
            entries.append(Entry(product.name, product.label, absent=str(reason)))
        else:
            entries.append(Entry(product.name, product.label, version))
        print(f"{product.name}: {entries[-1].version or entries[-1].absent}", flush=True)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return Results(date, pace, machine.facts(), entries)


def measure(
    results: Results, products: Sequence[Product], load: str, pace: Pace, rounds: int
) -> None:
    """Measure all that is not absent, *rounds* times; figures and failures go to *results*."""
    bench = Bench(load, pace)
    here = {entry.name for entry in results.products if not entry.absent}
    jobs = [job for product in products if product.name in here for job in bench.jobs(product)]
    for number in range(rounds):
        results.busy.append(machine.busy())
        results.rounds.append({})
        # Each round starts with another one: nobody is always the first, or behind the same one.
        first = number * len(jobs) // rounds
        for job in jobs[first:] + jobs[:first]:
            _run(results, job)


def _run(results: Results, job: Job) -> None:
    number, began = len(results.rounds), time.perf_counter()
    figures = results.rounds[-1].setdefault(job.product.name, {})
    fresh: list[str] = []
    try:
        # Closed at once whatever ends it, Ctrl-C too: a world hangs on it.
        with closing(job.run()) as measuring:
            for measured in measuring:
                figures.update(measured)
                fresh += (f"{key} {value:,.6g}" for key, value in measured.items())
    except LabError as error:
        reason = " ".join(str(error).split())[:400]
        results.failures.append(Failure(number, job.product.name, job.kind, reason))
        fresh.append(f"FAILED: {reason}")
    took = time.perf_counter() - began
    print(
        f"round {number}, {job.product.name}, {job.kind}, {took:.0f} s: {', '.join(fresh)}",
        flush=True,
    )
