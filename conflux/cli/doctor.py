"""`veilnet-conflux doctor`: what is wrong with this machine, and how to mend it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from conflux.api import UsageError
from conflux.cli.findings import report
from conflux.cli.options import (
    DEFAULT_GUARDIAN,
    api_socket,
    config_dir_option,
    folder,
    guardian_in_force,
    json_option,
)


@click.command()
@config_dir_option
@json_option
def doctor(config_dir: Path | None, as_json: bool) -> None:
    """Check TUN, rights, kernel, clock, DNS, MTU, plugins, files and other nodes.

    Changes nothing. Exits with 1 if a node cannot run here.
    """
    from conflux.checks import machine
    from conflux.config import survey

    # Mistakes of the configuration are findings of their own.
    config, _ = survey(folder(config_dir), os.environ)
    try:
        guardian = guardian_in_force(config_dir)
    except UsageError:
        guardian = DEFAULT_GUARDIAN
    report(machine.check(config, guardian, api_socket(config_dir)), as_json=as_json)
