"""The live view of `status --watch`, drawn by rich. Texts of other machines are never markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from conflux.cli import words

CALM, WORRY, ALARM = "green", "yellow", "red"


def view(table: Mapping[str, Any]) -> RenderableType:
    """Return one picture of *table*, the answer to `status`, or {"gone": why}."""
    if "gone" in table:
        return Text(table["gone"], style=ALARM)
    return Group(_head(table), Text(), _peers(table), Text(), _neighbours(table), *_problems(table))


def _head(table: Mapping[str, Any]) -> RenderableType:
    total = table["throughput"]
    head = Table.grid(padding=(0, 2))
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
    shown = _table("PEER", "PATH", "RTT", "LOSS", "TETHER", "PACKET AUTH", "NODE")
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
    shown = _table("NEIGHBOUR", "OUT", "IN", "RTT", "UNDERLAY")
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


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table
