"""Contract of service installers: they make a conflux run at boot, under the system's own care."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from conflux.api.types import Settings


class ServiceState(enum.StrEnum):
    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnit:
    """What to run: an absolute command, variables that hold no secret, a line for people."""

    command: Sequence[str]
    description: str
    environment: Mapping[str, str] = field(default_factory=dict)


class ServiceDriver(abc.ABC):
    """Every verb is idempotent, blocks, and raises UsageError with one line on what to do."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    def check(self) -> None:
        """Raise UsageError if this process may not change services here. Changes nothing.

        Asked before a step that cannot be undone. New in 1.2; unless overridden all may.
        """

    @abc.abstractmethod
    def install(self, unit: ServiceUnit) -> None:
        """Install or replace the service, enabled at boot, not started. All or nothing."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start and wait until the service says that it is up."""

    @abc.abstractmethod
    def stop(self) -> None: ...

    @abc.abstractmethod
    def restart(self) -> None: ...

    @abc.abstractmethod
    def state(self) -> ServiceState: ...

    @abc.abstractmethod
    def remove(self) -> None:
        """Stop and remove every trace of the service; fine if there is none."""
