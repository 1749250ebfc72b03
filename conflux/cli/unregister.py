"""`veilnet-conflux unregister`: give the conflux and its address back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from conflux.api import Refused, Unreachable, UsageError
from conflux.cli.options import api_socket, config_dir_option, folder


@click.command()
@click.option(
    "--force",
    is_flag=True,
    help="Forget it on this machine even if Guardian does not answer, or refuses.",
)
@config_dir_option
def unregister(config_dir: Path | None, force: bool) -> None:
    """Unregister this machine from Guardian, remove its service, delete what was saved."""
    import asyncio

    from conflux.cli.service import found
    from conflux.config import load_config
    from conflux.registry import Registry
    from conflux.runtime import enrol, localapi, saved

    path = folder(config_dir) / saved.REGISTERED
    membership = saved.load(path)
    if membership is None and saved.Attempt(path.parent).was_cut_short:
        raise UsageError(
            f"a registration was cut short in {path.parent}, and Guardian may know of it: repeat "
            "`register` with the same token, then unregister"
        )
    if membership is None:
        raise UsageError(f"nothing is registered in {path.parent}: there is nothing to undo")
    if guardian := os.environ.get("VEILNET_GUARDIAN"):
        membership = replace(membership, guardian=guardian)
    registry = Registry()
    registry.load()
    config = load_config(path.parent, os.environ, {})
    service = found(config_dir)
    try:
        asyncio.run(enrol.unregister(registry, config, membership))
    except (Refused, Unreachable) as error:
        if not force:
            raise type(error)(
                f"{error}; {path} was kept: `veilnet-conflux unregister --force` forgets it on "
                "this machine only"
            ) from None
        click.echo(f"warning: {error}; it is forgotten on this machine only", err=True)
    if service is not None:
        service.remove()
    saved.remove(path)
    saved.Attempt(path.parent).forget()
    socket = api_socket(config_dir)
    if localapi.is_running(socket):
        localapi.stop(socket)
    click.echo(f"unregistered {membership.tag or membership.conflux_id}")
