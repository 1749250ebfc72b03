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
    TetherDriver,
    TunDriver,
)
from conflux.config import Config
from conflux.registry import Registry

NEEDED = (Kind.TUN, Kind.ROUTER, Kind.CRYPTO, Kind.AUTH, Kind.CONTROL, Kind.TETHER)


@dataclass(frozen=True, slots=True)
class Drivers:
    """One of each kind that a node needs, and their names by kind."""

    tun: TunDriver
    tether: TetherDriver
    crypto: CryptoDriver
    router: Router
    auth: AuthDriver
    control: ControlDriver
    names: Mapping[str, str]


def bind(registry: Registry, config: Config) -> Drivers:
    """Choose and make every driver. Raises UsageError, with what to do, for the first that lacks.

    Cheap kinds come first, so that a mistake shows before anything heavy is imported.
    """
    made: dict[str, Any] = {}
    names: dict[str, str] = {}
    for kind in NEEDED:
        info, made[kind.value] = create(registry, config, kind)
        names[kind.value] = info
    return Drivers(**made, names=names)


def check(registry: Registry, config: Config) -> None:
    """Choose every driver and make none: quick. Raises UsageError as `bind` would."""
    for kind in NEEDED:
        registry.select(kind, config.pins.get(kind))


def create(registry: Registry, config: Config, kind: Kind) -> tuple[str, Any]:
    """Choose and make the driver of one kind; return its name and it. Raises UsageError."""
    info, driver = registry.create(
        kind, lambda info: config.settings(kind, info.name), config.pins.get(kind)
    )
    return info.name, driver
