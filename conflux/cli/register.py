"""`veilnet-conflux register`: turn a registration token into a conflux of this machine."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conflux.api import RegistrationRequest, UsageError
from conflux.cli.options import (
    DEFAULT_GUARDIAN,
    api_socket,
    folder,
    foreground_option,
    guardian_option,
    node_options,
    portal_option,
    refuse_portal,
    wait_option,
)
from conflux.cli.token import token_in, token_options

if TYPE_CHECKING:
    from conflux.api import Registration
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
    """Register this machine with Guardian, save who it is, and run it as a system service.

    A service that is there gives way. If any step fails, all is as it was before.
    """
    from conflux.cli.launch import run_node
    from conflux.cli.service import required, variables_of
    from conflux.runtime import saved

    refuse_portal(portal)
    token = token_in(token, token_file)
    if not token:
        raise UsageError(
            "a registration token is needed: --token-file, -t or VEILNET_REGISTRATION_TOKEN"
        )
    service = None if foreground else required("register", config_dir)
    path = folder(config_dir) / saved.REGISTERED
    if saved.load(path) is not None:
        how = "run" if foreground else "start"
        raise UsageError(
            f"{path} says that this machine is registered: start it with `veilnet-conflux {how}`, "
            "or `veilnet-conflux unregister` first"
        )
    request = RegistrationRequest(
        token=token,
        tag=tag,
        cidr=cidr,
        teams=[team for name in teams.split(",") if (team := name.strip())],
    )
    become = partial(_become, path, guardian or DEFAULT_GUARDIAN, request, tun_name, wait_s)
    if service is None:
        _check_alone(config_dir)
        run_node(
            become(),
            config_dir=config_dir,
            tun_name=tun_name,
            log_format=log_format,
            packet_auth=packet_auth,
            patience_s=math.inf,
        )
        return
    with service.giving_way():
        _check_alone(config_dir)
        membership = become()
        with _or_given_back(path, membership):
            service.come_up(variables_of(tun_name, log_format, packet_auth))
    saved.remove(path.parent / saved.UP)
    service.say()


def _check_alone(config_dir: Path | None) -> None:
    """Raise UsageError if another node has this folder's socket, or none can."""
    from conflux.runtime import localapi

    socket = api_socket(config_dir)
    localapi.check_path(socket)
    if localapi.is_running(socket):
        raise UsageError(
            f"a node is running already on {socket}: stop it, "
            "or give this one a folder of its own with --config-dir"
        )


def _become(
    path: Path, guardian: str, request: RegistrationRequest, tun_name: str | None, wait_s: float
) -> Membership:
    """Register, and save it."""
    from conflux.runtime import enrol, saved

    saved.check_writable(path)
    attempt = saved.Attempt(path.parent)
    registration = _register(guardian, request, attempt, path.parent, tun_name, wait_s)
    membership = enrol.membership(guardian, registration)
    with _or_given_back(path, membership):
        saved.save(path, membership)
    attempt.forget()
    addresses = ", ".join((registration.address, *registration.other_addresses))
    click.echo(f"registered {membership.tag or membership.conflux_id} as {addresses}")
    return membership


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


@contextlib.contextmanager
def _or_given_back(path: Path, membership: Membership) -> Iterator[None]:
    """If what follows fails, give the conflux back: whoever tries elsewhere has no use for it.

    Where Guardian does not answer just then, what was saved stays: it is needed to unregister.
    """
    import asyncio

    from conflux.config import load_config
    from conflux.runtime import enrol, saved

    try:
        yield
    except UsageError:
        with contextlib.suppress(UsageError):
            config = load_config(path.parent, os.environ)
            asyncio.run(enrol.unregister(_plugins(), config, membership))
            saved.remove(path)
            saved.Attempt(path.parent).forget()
        raise


def _plugins() -> Registry:
    from conflux.registry import Registry

    registry = Registry()
    registry.load()
    return registry
