"""`veilnet-conflux start`, `stop`, `restart` and `remove`: the system service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from conflux.api import ServiceState, UsageError
from conflux.cli.options import config_dir_option, membership_in_force

if TYPE_CHECKING:
    from conflux.cli.service import Service

OTHERS = "the service runs the node of another folder: name that one with --config-dir"


@click.command()
@config_dir_option
def start(config_dir: Path | None) -> None:
    """Start the system service; install it first if it was removed or never made.

    Needs a machine that `register` or `up` made a conflux.
    """
    from conflux.cli.service import Service

    service = Service(config_dir)
    service.driver.check()
    membership_in_force(config_dir)
    if service.is_ours():
        service.driver.start()
    elif service.state() is ServiceState.ABSENT:
        service.come_up({})
    else:
        raise UsageError(f"{OTHERS}, or `veilnet-conflux remove` the service first")
    service.say()


@click.command()
@config_dir_option
def stop(config_dir: Path | None) -> None:
    """Stop the system service until the next start of the machine, or `start`."""
    from conflux.cli.service import Service

    service = Service(config_dir)
    service.driver.check()
    _check_ours(service, "there is no service to stop: `veilnet-conflux down` ends a node")
    service.driver.stop()
    click.echo("stopped")


@click.command()
@config_dir_option
def restart(config_dir: Path | None) -> None:
    """Start the system service anew, with what its configuration says now."""
    from conflux.cli.service import Service

    service = Service(config_dir)
    service.driver.check()
    _check_ours(
        service,
        "there is no service to restart: end the node with Ctrl-C or `veilnet-conflux down`, "
        "then run it again",
    )
    service.driver.restart()
    service.say()


@click.command()
@config_dir_option
def remove(config_dir: Path | None) -> None:
    """Remove the system service; this machine stays registered, and `start` brings it back."""
    from conflux.cli.service import Service

    service = Service(config_dir)
    if service.state() is not ServiceState.ABSENT:
        service.driver.check()
    service.remove()
    click.echo("the service is removed")


def _check_ours(service: Service, absent: str) -> None:
    """Raises UsageError, with *absent* if there is none at all."""
    if service.state() is ServiceState.ABSENT:
        raise UsageError(absent)
    if not service.is_ours():
        raise UsageError(OTHERS)
