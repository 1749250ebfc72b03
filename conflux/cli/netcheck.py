"""`veilnet-conflux netcheck`: what the network around this machine lets a node do."""

from __future__ import annotations

import os
from pathlib import Path

import click

from conflux.cli.findings import report
from conflux.cli.options import (
    api_socket,
    config_dir_option,
    folder,
    guardian_in_force,
    json_option,
)


@click.command()
@click.option(
    "--stun",
    envvar="VEILNET_STUN",
    multiple=True,
    metavar="HOST:PORT",
    help="A STUN server to ask besides those that Guardian hands out; may be given several times, "
    "or with spaces between them in the variable.",
)
@config_dir_option
@json_option
def netcheck(stun: tuple[str, ...], config_dir: Path | None, as_json: bool) -> None:
    """Check UDP, NAT, port mapping, Guardian, Master, their TLS, and the MTU of the underlay.

    With a running node also the servers that it was told of. Exits with 1 if something fails.
    """
    from conflux.checks import network
    from conflux.config import load_config

    config = load_config(folder(config_dir), os.environ)
    guardian = guardian_in_force(config_dir)
    report(network.check(config, guardian, api_socket(config_dir), stun), as_json=as_json)
