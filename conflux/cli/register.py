"""`veilnet-conflux register`: turn a registration token into a conflux of this machine."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conflux.api import UsageError
from conflux.cli.options import (
    DEFAULT_GUARDIAN,
    api_socket,
    folder,
    foreground_option,
    guardian_option,
    node_options,
    portal_option,
    refuse_portal,
    require_foreground,
    wait_option,
)
from conflux.cli.token import token_in, token_options

if TYPE_CHECKING:
    from conflux.api import Registration, RegistrationRequest
    from conflux.registry import Registry
    from conflux.runtime.saved import Attempt, Membership


@click.command()
@token_options("registration token", "VEILNET_REGISTRATION_TOKEN")
@guardian_option
@click.option("--tag", envvar="VEILNET_CONFLUX_TAG", default="", help="A name for this conflux.")
@click.option(
    "--cidr",
    envvar="VEILNET_CONFLUX_CIDR",
    default="",
    help="The address it shall have; in a plane with IPv4 and IPv6 one of each, comma-separated.",
)
@click.option(
    "--teams", envvar="VEILNET_CONFLUX_TEAMS", default="", help="Teams to join, comma-separated."
)
@portal_option
@foreground_option
@wait_option
@node_options
def register(
    token: str | None,
    token_file: Path | None,
    guardian: str | None,
    tag: str,
    cidr: str,
    teams: str,
    portal: bool,
    foreground: bool,
    wait_s: float,
    config_dir: Path | None,
    tun_name: str | None,
    log_format: str | None,
    packet_auth: str | None,
) -> None:
    """Register this machine with Guardian, save who it is, and run it."""
    from conflux.api import RegistrationRequest
    from conflux.cli.launch import run_node
    from conflux.runtime import enrol, localapi, saved

    refuse_portal(portal)
    require_foreground("register", foreground)
    token = token_in(token, token_file)
    if not token:
        raise UsageError(
            "a registration token is needed: --token-file, -t or VEILNET_REGISTRATION_TOKEN"
        )
    path = folder(config_dir) / saved.REGISTERED
    if saved.load(path) is not None:
        raise UsageError(
            f"{path} says that this machine is registered: start it with `veilnet-conflux run`, "
            "or `veilnet-conflux unregister` first"
        )
    localapi.check_path(api_socket(config_dir))
    if localapi.is_running(api_socket(config_dir)):
        raise UsageError(
            f"a node is running already on {api_socket(config_dir)}: stop it, "
            "or give this one a folder of its own with --config-dir"
        )
    saved.check_writable(path)
    request = RegistrationRequest(
        token=token,
        tag=tag,
        cidr=cidr,
        teams=[team for name in teams.split(",") if (team := name.strip())],
    )
    attempt = saved.Attempt(path.parent)
    guardian = guardian or DEFAULT_GUARDIAN
    registration = _register(guardian, request, attempt, path.parent, tun_name, wait_s)
    membership = enrol.membership(guardian, registration)
    _save(path, membership, attempt)
    addresses = ", ".join((registration.address, *registration.other_addresses))
    click.echo(f"registered {membership.tag or membership.conflux_id} as {addresses}")
    run_node(
        membership,
        config_dir=config_dir,
        tun_name=tun_name,
        log_format=log_format,
        packet_auth=packet_auth,
        patience_s=math.inf,
    )


def _register(
    guardian: str,
    request: RegistrationRequest,
    attempt: Attempt,
    where: Path,
    tun_name: str | None,
    wait_s: float,
) -> Registration:
    import asyncio

    from conflux.config import load_config
    from conflux.runtime import enrol

    config = load_config(where, os.environ, {"tun_name": tun_name} if tun_name else {})
    registration = asyncio.run(
        enrol.register(_plugins(), config, guardian, request, attempt=attempt, wait_s=wait_s)
    )
    if registration.ignored_teams:
        names = ", ".join(registration.ignored_teams)
        click.echo(f"warning: not a member of these teams, ignored: {names}", err=True)
    return registration


def _save(path: Path, membership: Membership, attempt: Attempt) -> None:
    """Save it; if that fails, give the conflux back: whoever tries elsewhere has no use for it."""
    import asyncio

    from conflux.config import load_config
    from conflux.runtime import enrol, saved

    try:
        saved.save(path, membership)
    except UsageError:
        with contextlib.suppress(UsageError):
            config = load_config(path.parent, os.environ)
            asyncio.run(enrol.unregister(_plugins(), config, membership))
            attempt.forget()
        raise
    attempt.forget()


def _plugins() -> Registry:
    from conflux.registry import Registry

    registry = Registry()
    registry.load()
    return registry
