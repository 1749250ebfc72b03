"""`veilnet-conflux up`: run with a conflux token, for programs that embed a conflux."""

from __future__ import annotations

from pathlib import Path

import click

from conflux.api import UsageError
from conflux.cli.options import (
    DEFAULT_GUARDIAN,
    folder,
    foreground_option,
    guardian_option,
    node_options,
    portal_option,
    refuse_portal,
    wait_option,
)
from conflux.cli.token import token_in, token_options


@click.command()
@token_options("conflux token", "VEILNET_CONFLUX_TOKEN")
@guardian_option
@portal_option
@foreground_option
@wait_option
@node_options
def up(
    token: str | None,
    token_file: Path | None,
    guardian: str | None,
    portal: bool,
    foreground: bool,
    wait_s: float,
    config_dir: Path | None,
    tun_name: str | None,
    log_format: str | None,
    packet_auth: str | None,
) -> None:
    """Run a conflux by its token, without registering, as a system service."""
    from conflux.cli.launch import run_node
    from conflux.cli.service import required, variables_of
    from conflux.runtime import saved
    from conflux.runtime.saved import Membership
    from conflux.runtime.token import fingerprint_of

    refuse_portal(portal)
    service = None if foreground else required("up", config_dir)
    path = folder(config_dir) / saved.UP
    known = saved.load(path)
    token = token_in(token, token_file)
    if not token and known is None:
        raise UsageError("a conflux token is needed: --token-file, -t or VEILNET_CONFLUX_TOKEN")
    membership = Membership(
        guardian=guardian or (known.guardian if known else DEFAULT_GUARDIAN),
        conflux_token=token or (known.conflux_token if known else ""),
    )
    fingerprint_of(membership.conflux_token)
    saved.check_writable(path)
    if service is not None:
        if saved.load(path.parent / saved.REGISTERED) is not None:
            raise UsageError(
                "this machine is registered: `veilnet-conflux unregister` first, "
                "or give the other conflux a folder of its own with --config-dir"
            )
        with service.giving_way(), saved.instead(path, membership):
            service.come_up(variables_of(tun_name, log_format, packet_auth))
        service.say()
        return
    run_node(
        membership,
        config_dir=config_dir,
        tun_name=tun_name,
        log_format=log_format,
        packet_auth=packet_auth,
        patience_s=wait_s,
        # Saved once it has proved good: a wrong token leaves the former one as it was.
        on_running=lambda: saved.save(path, membership),
    )
