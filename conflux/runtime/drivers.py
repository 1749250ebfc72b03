"""The drivers of one node: chosen and made once, at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conflux.api import (
    AuthDriver,
    ControlDriver,
    CryptoDriver,
    Kind,
    Router,
    TunDriver,
)
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime.tethers import Tethers

NEEDED = (Kind.TUN, Kind.ROUTER, Kind.CRYPTO, Kind.AUTH, Kind.CONTROL)
"""One driver of each; of tethers there may be several."""


@dataclass(frozen=True, slots=True)
class Drivers:
    """What a node needs of each kind, and the names by kind."""

    tun: TunDriver
    tethers: Tethers
    crypto: CryptoDriver
    router: Router
    auth: AuthDriver
    control: ControlDriver
    names: Mapping[str, str]


def bind(registry: Registry, config: Config) -> Drivers:
    """Choose every driver and make it, but for tethers, which are made once they start.

    Raises UsageError, with what to do, for the first that lacks.
    """
    made: dict[str, Any] = {}
    names: dict[str, str] = {}
    for kind in NEEDED:
        info, made[kind.value] = create(registry, config, kind)
        names[kind.value] = info
    tethers = Tethers(registry, config)
    names[Kind.TETHER.value] = ", ".join(tethers.kinds)
    return Drivers(**made, tethers=tethers, names=names)


def check(registry: Registry, config: Config) -> None:
    """Choose every driver and make none: quick. Raises UsageError as `bind` would."""
    for kind in NEEDED:
        registry.select(kind, config.pin(kind))
    Tethers(registry, config)


def create(registry: Registry, config: Config, kind: Kind) -> tuple[str, Any]:
    """Choose and make the driver of one kind; return its name and it. Raises UsageError."""
    info, driver = registry.create(
        kind, lambda info: config.settings(kind, info.name), config.pin(kind)
    )
    return info.name, driver
