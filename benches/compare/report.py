"""Shows results as Markdown tables, for the terminal and for docs/performance.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benches.compare.figures import (
    FIGURES,
    LOSSES,
    Results,
    Spread,
    Verdict,
    judge,
    loss_key,
)

TO, TIMES = "\u2013", "\u00d7"
BEGIN, END = "<!-- begin: made by make bench -->", "<!-- end: made by make bench -->"

TABLES: dict[str, Sequence[str]] = {
    "Throughput": ("tcp1_there", "tcp1_back", "tcp8_there", "tcp8_back", "udp64", "udp1200"),
    "Delay": ("rtt_p50", "rtt_p99", "loaded_p50", "loaded_p99", "loaded_lost", "cold", "cold_lost"),
    "Cost": ("cpu", "machine_cpu", "memory", "memory_loaded", "rest_memory", "rest_cpu"),
    "TCP, one flow, on a cable that loses": tuple(map(loss_key, LOSSES)),
    "What the UDP sender offered": ("udp64_sent", "udp1200_sent"),
    "Through relays": (
        *("relay1", "relay1_rtt", "relay1_cold"),
        *("relay2", "relay2_rtt", "relay2_cold"),
    ),
}


ALONE = ("channel", "help")


def render(results: Results) -> str:
    """Everything below the page's marker, as Markdown; it reads well on a terminal too."""
    parts = [_about(results), _goals(judge(results))]
    for title, keys in TABLES.items():
        if table := _table(results, title, keys):
            parts.append(table)
    parts.append(_others(results))
    parts.append(_absences(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def put_into(page: str, text: str) -> str:
    """Return *page* with *text* between its markers. Raises ValueError unless it has both once."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs {BEGIN!r} and then {END!r}, each once")
    head, tail = page[: page.index(BEGIN)], page[page.index(END) :]
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{tail}"


def _about(results: Results) -> str:
    facts = "; ".join(f"{name} {fact}" for name, fact in results.machine.items())
    busy = max(results.busy, default=0.0)
    return (
        f"{results.date}, {len(results.rounds)} interleaved rounds ({results.pace}). {facts}. "
        f"Before a round, at most {busy:.0%} of the processors was taken by something else.\n\n"
        f"Each cell: median (lowest{TO}highest) of the rounds."
    )


def _goals(verdicts: Sequence[Verdict]) -> str:
    rows = [["goal", "bound", "measured", ""]]
    for verdict in verdicts:
        goal = verdict.goal
        sign = "≥" if goal.is_floor else "≤"
        digits = 2 if goal.against else FIGURES[goal.key].digits
        rows.append([
            f"{goal.title}, {goal.product}",
            f"{sign} {goal.bound:g}{_against(verdict)}",
            _cell(verdict.value, digits),
            {True: "met", False: "**not met**", None: "not measured"}[verdict.is_met],
        ])  # fmt: skip
    return "### Goals\n\n" + _markdown(rows)


def _against(verdict: Verdict) -> str:
    goal = verdict.goal
    if not goal.against:
        return ""
    best = "the best of the others" if len(goal.against) > 1 else goal.against[0]
    who = best if verdict.rival in ("", best) else f"{best}, {verdict.rival}"
    what = f", {FIGURES[goal.against_key].title}" if goal.against_key else ""
    return f" {TIMES} {who}{what}"


def _table(results: Results, title: str, keys: Sequence[str]) -> str:
    rows = [["", *(_heading(key) for key in keys)]]
    for entry in results.products:
        spreads = [results.spread(entry.name, key) for key in keys]
        if any(spreads):
            digits = [FIGURES[key].digits for key in keys]
            rows.append([entry.label, *map(_cell, spreads, digits)])
        elif entry.absent and title == "Throughput":
            rows.append([entry.label, "absent: see below", *[TO] * (len(keys) - 1)])
    return f"### {title}\n\n" + _markdown(rows) if len(rows) > 1 else ""


def _others(results: Results) -> str:
    """Figures that one row alone has, so that no table holds them."""
    lines = [
        f"- {entry.label}: {FIGURES[key].title} {_cell(spread, FIGURES[key].digits)} "
        f"{FIGURES[key].unit}"
        for key in ALONE
        for entry in results.products
        if (spread := results.spread(entry.name, key)) is not None
    ]
    return "### By themselves\n\n" + "\n".join(lines) if lines else ""


def _absences(results: Results) -> str:
    versions = "; ".join(f"{e.label} {e.version}" for e in results.products if e.version)
    lines = [f"- absent: {e.label}: {e.absent}" for e in results.products if e.absent]
    lines += [
        f"- failed: {f.product}, {f.job}, round {f.round}: {f.reason}" for f in results.failures
    ]
    lacking = "\n".join(lines) or "Nothing is absent, nothing failed."
    return f"### Versions, absences, failures\n\n{versions}.\n\n{lacking}"


def _heading(key: str) -> str:
    figure = FIGURES[key]
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def _cell(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return TO
    median, low, high = (f"{n:,.{digits}f}" for n in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low}{TO}{high})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand below each other in plain text too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def lines() -> Iterator[str]:
        for number, row in enumerate(rows):
            yield "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            if number == 0:
                yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"

    return "\n".join(lines())
