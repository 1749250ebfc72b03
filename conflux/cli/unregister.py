"""`veilnet-conflux unregister`: give the conflux and its address back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conflux.api import Refused, Unreachable, UsageError
from conflux.cli.options import api_socket, config_dir_option, folder

if TYPE_CHECKING:
    from conflux.runtime.saved import Membership


@click.command()
@click.option(
    "--force",
    is_flag=True,
    help="Forget it on this machine even if Guardian does not answer, or refuses.",
)
@config_dir_option
def unregister(config_dir: Path | None, force: bool) -> None:
    """Unregister this machine from Guardian, remove its service, delete what was saved."""
    from conflux.cli.service import found
    from conflux.runtime import localapi, saved

    path = folder(config_dir) / saved.REGISTERED
    membership, attempt = saved.load(path), saved.Attempt(path.parent)
    if membership is None and not force:
        raise _nothing_saved(path.parent, cut_short=attempt.was_cut_short)
    service = found(config_dir)
    if membership is not None:
        _tell_guardian(path, membership, force=force)
    elif attempt.was_cut_short:
        click.echo("warning: Guardian may know of the registration that was cut short", err=True)
    if service is not None:
        service.remove()
    saved.remove(path)
    attempt.forget()
    socket = api_socket(config_dir)
    if localapi.is_running(socket):
        localapi.stop(socket)
    if membership is None:
        click.echo(f"nothing is left in {path.parent}")
    else:
        click.echo(f"unregistered {membership.tag or membership.conflux_id}")


def _nothing_saved(where: Path, *, cut_short: bool) -> UsageError:
    if cut_short:
        return UsageError(
            f"a registration was cut short in {where}, and Guardian may know of it: repeat "
            "`register` with the same token, then unregister; "
            "`veilnet-conflux unregister --force` forgets it on this machine only"
        )
    return UsageError(f"nothing is registered in {where}: there is nothing to undo")


def _tell_guardian(path: Path, membership: Membership, *, force: bool) -> None:
    """Raises Refused or Unreachable unless *force*: then people are warned."""
    import asyncio

    from conflux.config import load_config
    from conflux.registry import Registry
    from conflux.runtime import enrol

    if guardian := os.environ.get("VEILNET_GUARDIAN"):
        membership = replace(membership, guardian=guardian)
    registry = Registry()
    registry.load()
    config = load_config(path.parent, os.environ, {})
    try:
        asyncio.run(enrol.unregister(registry, config, membership))
    except (Refused, Unreachable) as error:
        if not force:
            raise type(error)(
                f"{error}; {path} was kept: `veilnet-conflux unregister --force` forgets it on "
                "this machine only"
            ) from None
        click.echo(f"warning: {error}; it is forgotten on this machine only", err=True)
