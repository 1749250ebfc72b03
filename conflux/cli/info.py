"""`veilnet-conflux info`: who the running node is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from conflux.cli.options import api_socket, config_dir_option, json_option


@click.command()
@config_dir_option
@json_option
def info(config_dir: Path | None, as_json: bool) -> None:
    """Show id, tag, address, plane and Guardian of the running node."""
    from conflux.runtime import localapi

    table = localapi.call(api_socket(config_dir), "info")
    if as_json:
        click.echo(json.dumps(table, indent=2))
        return
    for name, value in table.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):<22} {shown}")
