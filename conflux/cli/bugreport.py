"""`veilnet-conflux bugreport`: an archive for whoever is to help, without secrets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from conflux.cli.options import (
    DEFAULT_GUARDIAN,
    api_socket,
    config_dir_option,
    folder,
    guardian_in_force,
)


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it.  [default: veilnet-bugreport-TIME.tar.gz in this folder]",
)
@click.option("--no-network", is_flag=True, help="Leave out what netcheck would ask the network.")
@config_dir_option
def bugreport(output: Path | None, no_network: bool, config_dir: Path | None) -> None:
    """Gather versions, settings, status, findings and log in an archive that holds no secret.

    Tokens, keys and passwords are hidden, public addresses replaced by words. Nothing is sent:
    read it, then attach it.
    """
    from conflux.checks import bugreport as archive
    from conflux.checks.redact import Redactor, secrets_of

    where = folder(config_dir)
    path = output or Path(time.strftime("veilnet-bugreport-%Y%m%d-%H%M%S.tar.gz"))
    redactor = Redactor(secrets_of(where, os.environ))
    extra = _extra(config_dir, with_network=not no_network)
    names = archive.write(path, archive.parts(api_socket(config_dir), extra), redactor)
    click.echo(f"{path} is written, with {len(names)} parts: read it before you give it away")


def _extra(config_dir: Path | None, *, with_network: bool) -> Mapping[str, Callable[[], Any]]:
    from conflux.api import UsageError
    from conflux.checks import machine, network
    from conflux.checks.findings import as_json
    from conflux.cli.config import lines
    from conflux.cli.plugins import survey_of
    from conflux.config import survey

    config, faults = survey(folder(config_dir), os.environ)
    socket = api_socket(config_dir)

    def guardian() -> str:
        try:
            return guardian_in_force(config_dir)
        except UsageError:
            return DEFAULT_GUARDIAN

    made: dict[str, Callable[[], Any]] = {
        "settings.json": lambda: [asdict(line) for line in lines(config, config_dir)],
        "mistakes.json": lambda: [str(fault) for fault in faults],
        "plugins.json": lambda: survey_of(config),
        "doctor.json": lambda: as_json(list(machine.check(config, guardian(), socket))),
    }
    if with_network:
        made["netcheck.json"] = lambda: as_json(list(network.check(config, guardian(), socket)))
    return made
