"""`veilnet-conflux status`: what the running node does right now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from conflux.cli.options import api_socket, config_dir_option, json_option


@click.command()
@config_dir_option
@json_option
def status(config_dir: Path | None, as_json: bool) -> None:
    """Show state, peers, paths, round trips and plugins of the running node."""
    from conflux.runtime import localapi

    table = localapi.call(api_socket(config_dir), "status")
    click.echo(json.dumps(table, indent=2) if as_json else _text(table))


def _text(table: Mapping[str, Any]) -> str:
    lines = [
        f"state         {table['state']}",
        f"packet auth   {table['packet_auth']}",
        f"cipher suite  {table['cipher_suite']}",
        f"hardening     {_hardening(table['hardening'])}",
        "plugins       " + ", ".join(f"{k}={v}" for k, v in sorted(table["plugins"].items())),
        f"relaying      {table['relayed_routes']} routes of others",
        f"peers         {len(table['peers']) or 'none'}",
    ]
    for peer in table["peers"]:
        hops = len(peer["path"]) - 1
        way = "no way yet" if hops < 1 else "direct" if hops == 1 else f"{hops - 1} relay"
        rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"
        loss = "-" if peer["loss"] is None else f"{peer['loss']:.1%}"
        lines.append(
            f"  {peer['address']:<16} {way:<10} rtt {rtt:<10} loss {loss:<7} "
            f"{peer['tether']}  {peer['packet_auth']}  {peer['node_id'][:8]}"
        )
    return "\n".join(lines)


def _hardening(table: Mapping[str, Any]) -> str:
    core = "core dumps possible" if table["core_dumps"] else "no core dumps"
    return f"{core}, memory {'locked' if table['memory_locked'] else 'not locked'}"
