"""A service manager in memory."""

from __future__ import annotations

from conflux.api import ServiceDriver, ServiceState, ServiceUnit, Settings, UsageError


class MemoryService(ServiceDriver):
    """Runs nothing. A unit whose command is `false` fails to come up."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.unit: ServiceUnit | None = None
        self._state = ServiceState.ABSENT

    def install(self, unit: ServiceUnit) -> None:
        self.unit, self._state = unit, ServiceState.STOPPED

    def start(self) -> None:
        if self.unit is None:
            raise UsageError("the service is not installed: run `veilnet-conflux register`")
        if self.unit.command[0].endswith("false"):
            self._state = ServiceState.FAILED
            raise UsageError(f"{self.unit.description} did not come up: see its log")
        self._state = ServiceState.RUNNING

    def stop(self) -> None:
        if self.unit is not None:
            self._state = ServiceState.STOPPED

    def restart(self) -> None:
        self.stop()
        self.start()

    def state(self) -> ServiceState:
        return self._state

    def remove(self) -> None:
        self.unit, self._state = None, ServiceState.ABSENT
