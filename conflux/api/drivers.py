"""What the kernel must know about a driver before it imports it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

API_VERSION = (1, 3)
"""(major, minor) of every contract in `conflux.api`. A plugin names the one it was written for.

1.1: `Tether.unit_bytes`, `TunDevice.gso`, `RegistrationRequest.attempt`,
`Registration.other_addresses`. 1.2: `AuthDriver.check`, `ControlDriver.check`,
`ServiceDriver.check`. 1.3: `named_libraries`.
"""


class Kind(enum.StrEnum):
    """What a driver does. A running node has one driver of each kind but service."""

    TUN = "tun"
    TETHER = "tether"
    CRYPTO = "crypto"
    ROUTER = "router"
    AUTH = "auth"
    CONTROL = "control"
    SERVICE = "service"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverInfo:
    """A driver's description of itself, returned by its plugin's hook.

    `name` is unique within its kind: it is what `conflux.toml` and `VEILNET_PLUGIN_<KIND>` pin.
    `target` is "package.module:Class", imported only when the driver is chosen; the class is
    called with one argument, its `Settings`. `platforms` holds `sys.platform` values, none means
    any. The highest `priority` wins; the range is 0 to 99. `probe` says by raising `Unavailable`
    that the driver cannot run here; it must be quick and must import nothing heavy.
    """

    name: str
    target: str
    api: tuple[int, int]
    platforms: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    priority: int = 50
    probe: Callable[[], None] | None = None
