"""The driver before a service manager of Windows."""

from __future__ import annotations

import sys
import winreg
from pathlib import Path

import pytest

from conflux.api import ServiceState, ServiceUnit, UsageError
from conflux.testing import ServiceConformance
from conflux_service_windows.driver import KEY, WindowsService
from conflux_service_windows.host import LAST_WORDS

NODE = Path(__file__).with_name("node.py")
FAILS = "print('STATUS=the token is wrong', flush=True); raise SystemExit(2)"
PYTHON = sys.executable
if (special := Path(sys.executable).with_name("service_python.exe")).exists():
    PYTHON = str(special)
"""What a service can be under Wine, see service_python.c."""
ENVIRONMENT = {"VEILNET_TUN": "of the unit"}


class TestConformance(ServiceConformance):
    def make_driver(self):
        return WindowsService({})

    def make_unit(self):
        command = [PYTHON, str(NODE)]
        return ServiceUnit(command=command, description="It comes up", environment=ENVIRONMENT)

    def make_failing_unit(self):
        return ServiceUnit(
            command=[PYTHON, "-c", FAILS], description="It fails", environment=ENVIRONMENT
        )


@pytest.fixture
def driver():
    driver = WindowsService({})
    yield driver
    driver.remove()


def value(name: str) -> object:
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY) as key:
        return winreg.QueryValueEx(key, name)[0]


def test_service_is_of_the_system_and_starts_at_boot(driver):
    driver.install(TestConformance().make_unit())
    assert value("Start") == 2
    assert value("ObjectName") == "LocalSystem"
    assert value("DisplayName") == "VeilNet Conflux"
    assert str(value("ImagePath")).endswith(f"conflux_service_windows.host {PYTHON} {NODE}")
    assert "VEILNET_TUN=of the unit" in value("Environment")


def test_error_says_where_to_look(driver):
    driver.install(TestConformance().make_failing_unit())
    with pytest.raises(UsageError, match="the service did not come up: the token is wrong"):
        driver.start()
    assert driver.state() is ServiceState.FAILED
    driver.remove()
    assert not LAST_WORDS.exists()


def test_failure_half_way_leaves_no_service(driver, monkeypatch):
    def fail(unit):
        raise UsageError("no")

    monkeypatch.setattr("conflux_service_windows.driver._write_environment", fail)
    with pytest.raises(UsageError):
        driver.install(TestConformance().make_unit())
    assert driver.state() is ServiceState.ABSENT
