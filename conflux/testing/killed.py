"""Verbs of a service driver, killed before each of their steps: what is left and what mends it.

Not for drivers that keep a service in memory: its files and its manager outlive the process here.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterator

import pytest

from conflux.api import ServiceDriver, ServiceState, ServiceUnit, UsageError


def as_argument(unit: ServiceUnit) -> str:
    """*unit* as a word for a process of its own: ServiceUnit(**json.loads(word))."""
    return json.dumps(
        {
            "command": list(unit.command),
            "description": unit.description,
            "environment": dict(unit.environment),
        }
    )


class KilledServiceConformance(abc.ABC):
    """Subclass with a driver whose verbs can be killed, run pytest."""

    @abc.abstractmethod
    def make_driver(self) -> ServiceDriver: ...

    @abc.abstractmethod
    def make_unit(self) -> ServiceUnit:
        """Return a unit that comes up and runs until it is stopped."""

    @abc.abstractmethod
    def killed(self, step: int, *verbs: str) -> list[str]:
        """Call *verbs* in a process of its own that a conflux.killer.Killer watches.

        Return the lines of its log.
        `install` gets `make_unit()`. Check that a process that was not killed ended well.
        """

    @abc.abstractmethod
    def installed(self) -> object:
        """Return what the manager has of the service, not asking the driver; None if nothing."""

    @abc.abstractmethod
    def traces(self) -> set[str]:
        """Return the names of all that an installed service leaves on the machine, log and all."""

    @abc.abstractmethod
    def runs(self) -> bool:
        """Tell whether the unit's process lives, not asking the driver."""

    @pytest.fixture
    def driver(self) -> Iterator[ServiceDriver]:
        driver = self.make_driver()
        yield driver
        driver.remove()

    @pytest.mark.parametrize("mended_by", ["install", "remove"])
    def test_first_install_that_is_killed(self, driver: ServiceDriver, mended_by: str) -> None:
        self._kill_at_each_step(driver, ("install", "start"), lambda: None, mended_by)

    @pytest.mark.parametrize("mended_by", ["install", "remove"])
    def test_replacement_that_is_killed(self, driver: ServiceDriver, mended_by: str) -> None:
        self._kill_at_each_step(
            driver, ("install", "start"), lambda: self._come_up(driver), mended_by
        )

    @pytest.mark.parametrize("mended_by", ["install", "remove"])
    def test_removal_that_is_killed(self, driver: ServiceDriver, mended_by: str) -> None:
        self._kill_at_each_step(driver, ("remove",), lambda: self._come_up(driver), mended_by)

    def _kill_at_each_step(
        self,
        driver: ServiceDriver,
        verbs: tuple[str, ...],
        furnish: Callable[[], None],
        mended_by: str,
    ) -> None:
        self._come_up(driver)
        whole, traces = self.installed(), self.traces()
        driver.remove()
        furnish()
        steps = self.killed(0, *verbs)
        driver.remove()
        assert steps
        for number, step in enumerate(steps, 1):
            print(f"killed before step {number}: {step}")
            furnish()
            assert self.killed(number, *verbs) == steps[:number]
            self._state_is_true(driver, whole)
            if mended_by == "install":
                self._come_up(driver)
                assert driver.state() is ServiceState.RUNNING
                assert (self.installed(), self.traces()) == (whole, traces)
            driver.remove()
            assert driver.state() is ServiceState.ABSENT
            assert (self.installed(), self.traces()) == (None, set())
            assert not self.runs()

    def _come_up(self, driver: ServiceDriver) -> None:
        driver.install(self.make_unit())
        driver.start()
        assert self.runs()

    def _state_is_true(self, driver: ServiceDriver, whole: object) -> None:
        """What is there is whole, unless it counts as absent."""
        state = driver.state()
        if state is ServiceState.ABSENT:
            with pytest.raises(UsageError):
                driver.start()
        else:
            assert state in (ServiceState.STOPPED, ServiceState.RUNNING)
            assert self.installed() == whole
        if state is ServiceState.RUNNING:
            driver.start()  # it may be about to come up
        assert self.runs() == (state is ServiceState.RUNNING)
