"""`veilnet-conflux run`: what the system service runs."""

from __future__ import annotations

import math
from pathlib import Path

import click

from conflux.cli.options import membership_in_force, node_options


@click.command()
@node_options
def run(
    config_dir: Path | None,
    tun_name: str | None,
    log_format: str | None,
    packet_auth: str | None,
) -> None:
    """Run the registered conflux in this terminal, waiting for Guardian as long as it takes."""
    from conflux.cli.launch import run_node

    run_node(
        membership_in_force(config_dir),
        config_dir=config_dir,
        tun_name=tun_name,
        log_format=log_format,
        packet_auth=packet_auth,
        patience_s=math.inf,
    )
