"""Options that several verbs share, and what they mean."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from conflux.api import UsageError

if TYPE_CHECKING:
    from conflux.runtime.saved import Membership

DEFAULT_GUARDIAN = "https://guardian.veilnet.app"

MOST_S = 1e9
"""31 years. The system's own clocks and timers take no more than nine times that."""

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A length of time for which this machine can wait: nan and inf are none."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found) or found > MOST_S:
            self.fail(
                f"{value!r} is no length of time: use at most {MOST_S:.0f} seconds.", param, ctx
            )
        return found


config_dir_option = click.option(
    "--config-dir",
    envvar="VEILNET_CONFIG_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of conflux.json, up.json and conflux.toml; then also of the node's API socket, "
    "so that several nodes can live on one machine.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
guardian_option = click.option(
    "-g",
    "--guardian",
    envvar="VEILNET_GUARDIAN",
    help=f"URL of VeilNet Guardian.  [default: {DEFAULT_GUARDIAN}]",
)
portal_option = click.option(
    "-p", "--portal", envvar="VEILNET_PORTAL", is_flag=True, help="Portal mode (not built yet)."
)
foreground_option = click.option(
    "-d",
    "--foreground",
    is_flag=True,
    help="Run in this terminal instead of installing a system service.",
)
wait_option = click.option(
    "--wait",
    "wait_s",
    envvar="VEILNET_WAIT",
    type=Seconds(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for Guardian and Master to come up, instead of failing at once.",
)


def node_options(verb: F) -> F:
    """Add the options of every verb that runs a node."""
    for option in (
        click.option(
            "--log-format",
            envvar="VEILNET_LOG_FORMAT",
            type=click.Choice(["text", "json"]),
            help="Log lines for people or for machines.  [default: text]",
        ),
        click.option(
            "--packet-auth",
            envvar="VEILNET_PACKET_AUTH",
            type=click.Choice(["handshake", "checkpoint", "strict"]),
            help="How packets are vouched for; the stricter end decides.  [default: checkpoint]",
        ),
        click.option(
            "--tun-name",
            envvar="VEILNET_TUN",
            help="Name of the network interface.  [default: veilnet]",
        ),
        config_dir_option,
    ):
        verb = option(verb)
    return verb


def folder(config_dir: Path | None) -> Path:
    """Return the folder in use."""
    from conflux.config import default_config_dir

    return config_dir or default_config_dir(sys.platform, os.environ)


def api_socket(config_dir: Path | None) -> Path:
    """Return where the node's API socket is: in the folder if one was named."""
    from conflux.runtime.localapi import SYSTEM_SOCKET

    return config_dir / "api.sock" if config_dir else SYSTEM_SOCKET


def membership_in_force(config_dir: Path | None) -> Membership:
    """Return the saved membership, with variables over it. Raises UsageError if there is none."""
    from conflux.runtime import saved

    where = folder(config_dir)
    found = saved.load(where / saved.REGISTERED) or saved.load(where / saved.UP)
    return overridden(found, os.environ, where)


def guardian_in_force(config_dir: Path | None) -> str:
    """Return the URL of the Guardian that a node here would ask. Raises UsageError."""
    from conflux.runtime import saved

    where = folder(config_dir)
    found = saved.load(where / saved.REGISTERED) or saved.load(where / saved.UP)
    return os.environ.get("VEILNET_GUARDIAN") or (found.guardian if found else DEFAULT_GUARDIAN)


def overridden(found: Membership | None, environ: Mapping[str, str], where: Path) -> Membership:
    """Lay VEILNET_GUARDIAN and VEILNET_CONFLUX_TOKEN, or its file, over *found*."""
    from dataclasses import replace

    from conflux.cli.token import token_of_file
    from conflux.runtime.saved import Membership

    token = environ.get("VEILNET_CONFLUX_TOKEN", "")
    if token_file := environ.get("VEILNET_CONFLUX_TOKEN_FILE"):
        token = token_of_file(Path(token_file))
    guardian = environ.get("VEILNET_GUARDIAN", "")
    if found is None and not token:
        raise UsageError(
            f"nothing is registered in {where}: "
            "run `veilnet-conflux register -t TOKEN` first, or name the folder with --config-dir"
        )
    if found is None or (token and token != found.conflux_token):
        base = found.guardian if found is not None else DEFAULT_GUARDIAN
        return Membership(guardian=guardian or base, conflux_token=token)
    return replace(found, guardian=guardian or found.guardian)


def refuse_portal(portal: bool) -> None:
    if portal:
        raise UsageError("portal mode is not built yet: leave out --portal and VEILNET_PORTAL")
