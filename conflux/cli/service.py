"""The system service of this machine, as the verbs use it: one service, for the node of one folder.

Which folder that is stands in `service` in the user's own configuration folder, so that a verb for
another node's folder leaves the service alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from conflux.api import Kind, ServiceDriver, ServiceState, ServiceUnit, Unavailable, UsageError
from conflux.cli.options import api_socket, folder

DESCRIPTION = "VeilNet Conflux"
CARRIED = ("VEILNET_MTU", "VEILNET_PLUGIN_")
"""Variables that the service gets as they were when it was installed, beside those of options."""


class Service:
    """The service driver of this machine, and what it is for."""

    def __init__(self, config_dir: Path | None) -> None:
        """Raises Unavailable if this machine has no service manager that a plugin knows."""
        from conflux.config import load_config
        from conflux.registry import Registry

        self._config_dir = config_dir
        self._folder = folder(config_dir).absolute()
        config = load_config(self._folder, os.environ)
        registry = Registry()
        registry.load()
        pin = config.pin(Kind.SERVICE)
        driver: ServiceDriver
        info, driver = registry.create(
            Kind.SERVICE, lambda info: config.settings(Kind.SERVICE, info.name), pin
        )
        self.driver = driver
        self.name = info.name
        self._note = folder(None).absolute() / "service"

    def state(self) -> ServiceState:
        return self.driver.state()

    def is_ours(self) -> bool:
        """Tell whether there is a service and it runs the node of this folder."""
        if self.state() is ServiceState.ABSENT:
            return False
        try:
            return self._note.read_text(encoding="utf-8").strip() == str(self._folder)
        except OSError:
            return self._config_dir is None

    def come_up(self, variables: dict[str, str]) -> None:
        """Install or replace it, start it, wait until it is up. Raises UsageError.

        The note comes first: whoever is killed in between has no service that nobody owns.
        """
        from conflux.runtime import saved

        if self.state() is not ServiceState.ABSENT and not self.is_ours():
            self.remove()
        saved.note(self._note, str(self._folder))
        self.driver.install(self._unit(variables))
        self.driver.start()

    def remove(self) -> None:
        """Remove every trace of it."""
        from conflux.runtime import saved

        self.driver.remove()
        saved.remove(self._note)

    def sweep(self) -> None:
        """Remove what a verb that was killed left of a service that there is not."""
        if self.state() is ServiceState.ABSENT:
            with contextlib.suppress(UsageError, OSError):  # another user's, then
                self.remove()

    @contextlib.contextmanager
    def giving_way(self) -> Iterator[None]:
        """Stop the service for what follows. If that fails, all is as it was: absent or running."""
        before = self.state()
        self.driver.stop()
        try:
            yield
        except BaseException:
            with contextlib.suppress(UsageError):
                if before is ServiceState.ABSENT:
                    self.remove()
                elif before is ServiceState.RUNNING:
                    self.driver.start()
            raise

    def say(self) -> None:
        """Tell people what became of it."""
        click.echo(f"the service runs ({self.name}): see `veilnet-conflux status`")
        for line in waiting(api_socket(self._config_dir)):
            click.echo(f"warning: {line}", err=True)

    def _unit(self, variables: dict[str, str]) -> ServiceUnit:
        home = {
            name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in os.environ
        }
        carried = {
            name: value for name, value in os.environ.items() if value and name.startswith(CARRIED)
        }
        here = {"VEILNET_CONFIG_DIR": str(self._folder)} if self._config_dir else {}
        return ServiceUnit(
            command=[*program(), "run"],
            description=DESCRIPTION,
            environment={**home, **carried, **variables, **here},
        )


def required(verb: str, config_dir: Path | None) -> Service:
    """Return the service, which may be changed. Raises Unavailable: then nothing was changed."""
    try:
        service = Service(config_dir)
        service.driver.check()
    except Unavailable as error:
        raise Unavailable(
            f"{error}; `veilnet-conflux {verb} --foreground` (-d) runs the node in this terminal; "
            "nothing was changed"
        ) from None
    return service


def found(config_dir: Path | None) -> Service | None:
    """Return the service if there is one that runs this folder's node, and it may be changed."""
    try:
        service = Service(config_dir)
    except Unavailable:
        return None
    if not service.is_ours():
        service.sweep()
        return None
    service.driver.check()
    return service


def variables_of(
    tun_name: str | None, log_format: str | None, packet_auth: str | None
) -> dict[str, str]:
    """Options of a verb that runs a node, as the variables that mean the same."""
    options = {
        "VEILNET_TUN": tun_name,
        "VEILNET_LOG_FORMAT": log_format,
        "VEILNET_PACKET_AUTH": packet_auth,
    }
    return {name: value for name, value in options.items() if value is not None}


def program() -> list[str]:
    """The command line that starts this very program, from any folder."""
    whole = sys.flags.isolated or hasattr(sys, "frozen")
    return [sys.executable, "-I" if whole else "-P", "-m", "conflux"]


def waiting(socket: Path) -> Iterator[str]:
    """What the node at *socket* waits for."""
    from conflux.runtime import localapi

    with contextlib.suppress(UsageError):
        state = str(localapi.call(socket, "status")["state"])
        if state.startswith("waiting"):
            yield f"the node is {state}, and goes on by itself"
