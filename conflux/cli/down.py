"""`veilnet-conflux down`: end what `up` began."""

from __future__ import annotations

from pathlib import Path

import click

from conflux.api import UsageError
from conflux.cli.options import api_socket, config_dir_option, folder


@click.command()
@config_dir_option
def down(config_dir: Path | None) -> None:
    """Stop the node that `up` started, remove its service, forget its token."""
    from conflux.cli.service import found
    from conflux.runtime import localapi, saved

    path = folder(config_dir) / saved.UP
    socket = api_socket(config_dir)
    running = localapi.is_running(socket)
    if saved.load(path) is None:
        if saved.load(path.parent / saved.REGISTERED) is not None:
            raise UsageError(
                "this conflux was registered, not brought up: end it with `veilnet-conflux stop`, "
                "or with Ctrl-C"
            )
        if not running:
            raise UsageError("nothing is up here: there is nothing to take down")
    # A registered machine keeps its service, whatever was up beside it.
    if not (path.parent / saved.REGISTERED).exists() and (service := found(config_dir)) is not None:
        service.remove()
        running = localapi.is_running(socket)
    if running:
        localapi.stop(socket)
    saved.remove(path)
    click.echo("down")
