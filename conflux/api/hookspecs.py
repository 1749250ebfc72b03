"""The hooks of the plugin group `conflux.plugins`.

Two kinds. *Driver hooks* describe; the kernel binds what it chose once at start and then calls it
directly. *Observer hooks* are told what happened; they never run per packet and must not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from conflux.api.drivers import DriverInfo
    from conflux.api.types import NodeId, Path

hookspec = pluggy.HookspecMarker("conflux")
hookimpl = pluggy.HookimplMarker("conflux")


@hookspec
def conflux_tun_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe TUN drivers: the target is a TunDriver."""


@hookspec
def conflux_tether_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe tether drivers: the target is a TetherDriver."""


@hookspec
def conflux_crypto_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe crypto drivers: the target is a CryptoDriver."""


@hookspec
def conflux_router_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe routers: the target is a Router."""


@hookspec
def conflux_auth_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe auth drivers: the target is an AuthDriver."""


@hookspec
def conflux_control_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe control drivers: the target is a ControlDriver."""


@hookspec
def conflux_service_driver() -> DriverInfo | list[DriverInfo]:  # type: ignore[empty-body]
    """Describe service installers: the target is a ServiceDriver."""


@hookspec
def conflux_add_commands(group: click.Group) -> None:
    """Add commands to `veilnet-conflux`.

    `--help` lists them if the distribution has them in the entry-point group `conflux.commands`.
    """


@hookspec
def conflux_node_started(node: NodeId) -> None:
    """A node has logged in and its interface is up."""


@hookspec
def conflux_node_stopping(node: NodeId) -> None:
    """A node is about to close everything."""


@hookspec
def conflux_stream_opened(peer: NodeId, address: str) -> None:
    """Streams to and from *peer* have their keys."""


@hookspec
def conflux_stream_closed(peer: NodeId, reason: str) -> None:
    """The streams to and from *peer* are gone."""


@hookspec
def conflux_route_changed(peer: NodeId, paths: list[Path]) -> None:
    """The live paths to *peer* are now these, none if it cannot be reached."""
