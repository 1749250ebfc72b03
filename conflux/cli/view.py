"""The live view of `status --watch`, drawn by rich. Texts of other machines are never markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from conflux.cli import words

CALM, WORRY, ALARM = "green", "yellow", "red"


def view(table: Mapping[str, Any]) -> RenderableType:
    """Return one picture of *table*, the answer to `status`, or {"gone": why}."""
    if "gone" in table:
        return Text(table["gone"], style=ALARM)
    # What is cut off where the terminal has too few lines are the last ones.
    return Group(_head(table), *_problems(table), Text(), _peers(table), Text(), _neighbours(table))


def _head(table: Mapping[str, Any]) -> RenderableType:
    total = table["throughput"]
    head = Table.grid(padding=(0, 2))
    head.add_column(no_wrap=True)
    head.add_column(overflow="fold")
    calm = table["state"] == "running" and table["master"]["connected"]
    for name, value, style in (
        ("state", words.state(table), CALM if table["state"] == "running" else WORRY),
        ("address", table["address"] or "-", ""),
        ("master", words.master(table), CALM if calm else WORRY),
        ("packet auth", f"{table['packet_auth']}, {table['cipher_suite']}", ""),
        ("plugins", words.plugins(table), ""),
        ("out", words.mbit(total["sent_bps"]), ""),
        ("in", words.mbit(total["received_bps"]), ""),
        ("relaying", f"{table['relayed_routes']} routes of others", ""),
    ):
        head.add_row(Text(name, style="dim"), Text(value, style=style))
    return head


def _peers(table: Mapping[str, Any]) -> RenderableType:
    shown = _Listed("PEER", "PATH", "RTT", "LOSS", "TETHER", "PACKET AUTH", "NODE")
    for peer in table["peers"]:
        way = words.way(peer)
        shown.add_row(
            Text(peer["address"]),
            Text(way, style={"direct": CALM, "no way yet": ALARM}.get(way, WORRY)),
            Text(words.ms(peer["rtt_ms"])),
            Text(words.share(peer["loss"]), style=WORRY if peer["loss"] else ""),
            Text(peer["tether"]),
            Text(peer["packet_auth"]),
            Text(peer["node_id"][:8], style="dim"),
        )
    return shown if table["peers"] else Text("no peers: streams are opened by the first packet")


def _neighbours(table: Mapping[str, Any]) -> RenderableType:
    shown = _Listed("NEIGHBOUR", "OUT", "IN", "RTT", "UNDERLAY")
    for neighbour in table["neighbours"]:
        shown.add_row(
            Text(neighbour["node_id"][:8], style="dim"),
            Text(words.mbit(neighbour["sent_bps"])),
            Text(words.mbit(neighbour["received_bps"])),
            Text(words.ms(neighbour["rtt_ms"])),
            Text(neighbour["underlay"]),
        )
    return shown if table["neighbours"] else Text("no tethers")


def _problems(table: Mapping[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for problem in table["problems"]:
        lines += [Text(), Text(problem["what"], style=ALARM), Text(f"  {problem['do']}")]
    return lines


class _Listed:
    """A table without its last columns where the terminal is too narrow for them."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._rows: list[Sequence[Text]] = []

    def add_row(self, *cells: Text) -> None:
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = len(self._names)
        while shown > 1 and _width(self._first(shown), console) > options.max_width:
            shown -= 1
        yield self._first(shown)

    def _first(self, columns: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in self._names[:columns]:
            table.add_column(name, no_wrap=columns > 1, overflow="fold")
        for row in self._rows:
            table.add_row(*row[:columns])
        return table


def _width(table: Table, console: Console) -> int:
    """In columns, as if the terminal had any number of them."""
    return console.measure(table, options=console.options.update_width(100_000)).maximum
