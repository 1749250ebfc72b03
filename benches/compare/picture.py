"""Draws results as an SVG: a panel a figure, a bar a product, a line over the range. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor, log10
from xml.sax.saxutils import escape

from benches.compare.figures import FIGURES, Results, Spread

PANELS = {
    "tcp1_there": "more is better",
    "udp64": "more is better",
    "udp1200": "more is better",
    "rtt_p50": "less is better",
    "loaded_p99": "less is better",
    "cpu": "less is better",
}
COLUMNS = 2

WIDTH = 1_040
MARGIN = 20
HEAD = 58
"""Above the panels: title and date."""
TITLE = 42
"""Above the bars of a panel."""
BAR, STEP = 14, 22
LABELS = 186
"""Left of the bars; right of them is room for the number."""
NUMBERS = 62

INK, FAINT, GRID = "#1f2933", "#616e7c", "#d9dee4"
OWN, OTHERS, KERNEL = "#1a7f64", "#8fa3b8", "#c9d2dc"


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a panel."""

    label: str
    colour: str
    spread: Spread | None


def draw(results: Results) -> str:
    """Return the picture. Panels of which nothing was measured are left out."""
    drawn = [(key, _bars(results, key)) for key in PANELS]
    panels = [(key, bars) for key, bars in drawn if any(bar.spread for bar in bars)]
    tall = max((len(bars) for _, bars in panels), default=0) * STEP + TITLE + MARGIN
    rows = -(-len(panels) // COLUMNS)
    height = HEAD + rows * tall + MARGIN
    wide = (WIDTH - MARGIN * (COLUMNS + 1)) // COLUMNS
    body: list[str] = [
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 28, "VeilNet Conflux beside other overlay networks", size=18, weight=600),
        _text(MARGIN, 46, _caption(results), colour=FAINT),
    ]
    for number, (key, bars) in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (wide + MARGIN), HEAD + row * tall
        body += [f'<g transform="translate({x} {y})">', *_panel(key, bars, wide), "</g>"]
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>'
    title = "<title>Benchmark of VeilNet Conflux and other overlay networks</title>"
    return "\n".join([head, title, *body, "</svg>\n"])


def _caption(results: Results) -> str:
    return (
        f"{results.date}, {len(results.rounds)} rounds, {results.machine.get('processor', '')}; "
        "bars: medians, lines: ranges"
    )


def _bars(results: Results, key: str) -> list[Bar]:
    """Those that have the figure; of the others those that are absent, by name."""
    return [
        Bar(entry.label, _colour(entry.name), spread)
        for entry in results.products
        if (spread := results.spread(entry.name, key)) is not None
        or (entry.absent and not entry.name.startswith("channel"))
    ]


def _colour(name: str) -> str:
    if name.startswith("conflux"):
        return OWN
    return KERNEL if name in ("veth", "vxlan") else OTHERS


def _panel(key: str, bars: list[Bar], wide: int) -> Iterator[str]:
    figure = FIGURES[key]
    room = wide - LABELS - NUMBERS
    top = _ceiling(max(bar.spread.high for bar in bars if bar.spread))
    yield _text(0, 16, f"{figure.title}, {figure.unit}", size=14, weight=600)
    yield _text(wide, 16, PANELS[key], colour=FAINT, anchor="end")
    bottom = TITLE + len(bars) * STEP - 6
    for quarter in range(5):
        x = LABELS + room * quarter / 4
        yield f'<path d="M{x:.1f} {TITLE - 8}V{bottom}" stroke="{GRID}"/>'
        yield _text(x, TITLE - 10, f"{top * quarter / 4:,g}", size=9, colour=FAINT, anchor="middle")
    for number, bar in enumerate(bars):
        yield from _line(bar, TITLE + number * STEP, room / top, figure.digits)


def _line(bar: Bar, y: int, scale: float, digits: int) -> Iterator[str]:
    middle = y + BAR / 2
    yield _text(LABELS - 8, middle + 4, bar.label, anchor="end")
    if bar.spread is None:
        yield _text(LABELS + 4, middle + 4, "absent", colour=FAINT)
        return
    length, low, high = (n * scale for n in (bar.spread.median, bar.spread.low, bar.spread.high))
    yield (
        f'<rect x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
        f'fill="{bar.colour}"/>'
    )
    yield (
        f'<path d="M{LABELS + low:.1f} {middle}H{LABELS + high:.1f}" stroke="{INK}" '
        'stroke-width="1.5"/>'
    )
    yield _text(LABELS + max(length, high) + 6, middle + 4, f"{bar.spread.median:,.{digits}f}")


def _ceiling(value: float) -> float:
    """The next number above that divides by four well."""
    unit = 10.0 ** floor(log10(max(value, LEAST)))
    return next(
        (n * unit for n in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8) if n * unit >= value), 10 * unit
    )


LEAST = 0.001
"""The end of an axis at least."""


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: int = 400,
    colour: str = INK,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )
