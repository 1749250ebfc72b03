"""Conformance of service installers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator

import pytest

from conflux.api import ServiceDriver, ServiceState, ServiceUnit, Unavailable, UsageError
from conflux.testing.rig import not_here


class ServiceConformance(abc.ABC):
    """Subclass, return a driver and a unit that it can run, run pytest.

    The driver installs for real: on the developer's own system, or in a container that the test
    boots. Whatever a test installed is removed.
    """

    @abc.abstractmethod
    def make_driver(self) -> ServiceDriver:
        """Return a driver. Raise Unavailable to skip, with the reason."""

    @abc.abstractmethod
    def make_unit(self) -> ServiceUnit:
        """Return a unit that comes up, says so, and runs until it is stopped."""

    @abc.abstractmethod
    def make_failing_unit(self) -> ServiceUnit:
        """Return a unit that ends at once with an error."""

    @pytest.fixture
    def driver(self) -> Iterator[ServiceDriver]:
        try:
            driver = self.make_driver()
        except Unavailable as error:
            not_here(error)
        yield driver
        driver.remove()

    def test_life_of_a_service(self, driver: ServiceDriver) -> None:
        assert driver.state() is ServiceState.ABSENT
        driver.install(self.make_unit())
        assert driver.state() is ServiceState.STOPPED, "install does not start"
        driver.start()
        assert driver.state() is ServiceState.RUNNING
        driver.restart()
        assert driver.state() is ServiceState.RUNNING
        driver.stop()
        assert driver.state() is ServiceState.STOPPED
        driver.remove()
        assert driver.state() is ServiceState.ABSENT

    def test_every_verb_may_come_twice(self, driver: ServiceDriver) -> None:
        for _ in range(2):
            driver.install(self.make_unit())
        for _ in range(2):
            driver.start()
        assert driver.state() is ServiceState.RUNNING
        for _ in range(2):
            driver.stop()
        assert driver.state() is ServiceState.STOPPED
        for _ in range(2):
            driver.remove()
        assert driver.state() is ServiceState.ABSENT

    def test_remove_stops_a_running_service(self, driver: ServiceDriver) -> None:
        driver.install(self.make_unit())
        driver.start()
        driver.remove()
        assert driver.state() is ServiceState.ABSENT

    def test_install_replaces(self, driver: ServiceDriver) -> None:
        driver.install(self.make_failing_unit())
        driver.install(dataclasses.replace(self.make_unit(), description="The second one"))
        driver.start()
        assert driver.state() is ServiceState.RUNNING

    def test_service_that_is_not_there_cannot_be_started(self, driver: ServiceDriver) -> None:
        for verb in (driver.start, driver.restart):
            with pytest.raises(UsageError) as caught:
                verb()
            assert str(caught.value).strip()
            assert "\n" not in str(caught.value)

    def test_service_that_does_not_come_up_is_an_error(self, driver: ServiceDriver) -> None:
        driver.install(self.make_failing_unit())
        with pytest.raises(UsageError) as caught:
            driver.start()
        assert "\n" not in str(caught.value)
        assert driver.state() is ServiceState.FAILED
