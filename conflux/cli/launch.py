"""Runs a node in the foreground: what `run`, `register -d` and `up -d` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from conflux.api import UsageError
from conflux.cli.options import api_socket, folder
from conflux.runtime.saved import Membership


def run_node(
    membership: Membership,
    *,
    config_dir: Path | None,
    tun_name: str | None,
    log_format: str | None,
    packet_auth: str | None,
    patience_s: float,
    on_running: Callable[[], None] = lambda: None,
) -> None:
    """Run until a signal or `down`; returns when all is closed. Raises UsageError."""
    from conflux.config import load_config
    from conflux.hardening import harden
    from conflux.registry import Registry
    from conflux.runtime import logs, loop
    from conflux.runtime.manager import Manager
    from conflux.runtime.node import Launch, Node

    hardening = harden()
    manager = Manager(os.environ)
    flags = {"tun_name": tun_name, "log_format": log_format, "packet_auth": packet_auth}
    given = {name: value for name, value in flags.items() if value is not None}
    config = load_config(folder(config_dir), os.environ, given)
    logs.set_up(config.log_format)
    launch = Launch(
        config=config,
        membership=membership,
        api_socket=api_socket(config_dir),
        patience_s=patience_s,
        hardening=hardening,
        manager=manager,
    )

    async def main() -> None:
        registry = Registry()
        registry.load()
        await Node(launch, registry).run(on_running)

    try:
        loop.run(main())
    except UsageError as error:
        manager.status(str(error))
        raise
