"""The driver before a service manager of Windows."""

from __future__ import annotations

import subprocess
import sys
import winreg
from pathlib import Path

import pytest

from conflux.api import ServiceState, ServiceUnit, UsageError
from conflux.killer import KILL
from conflux.testing import ServiceConformance
from conflux.testing.killed import KilledServiceConformance, as_argument
from conflux_service_windows import advapi
from conflux_service_windows.driver import KEY, WindowsService
from conflux_service_windows.host import FOLDER

KILLED_VERBS = Path(__file__).with_name("killed_verbs.py")
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


@pytest.mark.thorough
class TestKilled(KilledServiceConformance):
    @pytest.fixture(autouse=True)
    def _home(self, tmp_path):
        self.home = tmp_path

    def make_driver(self):
        return WindowsService({})

    def make_unit(self):
        command = [PYTHON, str(NODE), str(self.home / "held")]
        return ServiceUnit(command=command, description="It comes up", environment=ENVIRONMENT)

    def killed(self, step, *verbs):
        log = self.home / "steps"
        done = subprocess.run(
            [sys.executable, KILLED_VERBS, str(step), log, as_argument(self.make_unit()), *verbs],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        steps = log.read_text().splitlines()
        assert done.returncode == (KILL if step and step == len(steps) else 0), done.stderr
        return steps

    def installed(self):
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY) as key:
                count = winreg.QueryInfoKey(key)[1]
                return sorted(winreg.EnumValue(key, i)[:2] for i in range(count))
        except FileNotFoundError:
            return None

    def traces(self):
        files = [path.name for path in FOLDER.glob("*")]
        return {*files, *[FOLDER.name] * FOLDER.exists(), *[KEY] * (self.installed() is not None)}

    def runs(self):
        try:
            (self.home / "held").unlink()
        except FileNotFoundError:
            return False
        except PermissionError:
            return True
        return False


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
    assert not FOLDER.exists()


@pytest.mark.parametrize("replaces", [False, True])
def test_failure_half_way_leaves_no_service(driver, monkeypatch, replaces):
    def fail(unit):
        raise UsageError("no")

    if replaces:
        driver.install(TestConformance().make_unit())
    monkeypatch.setattr("conflux_service_windows.driver._write_environment", fail)
    with pytest.raises(UsageError):
        driver.install(TestConformance().make_unit())
    assert driver.state() is ServiceState.ABSENT
    with pytest.raises(FileNotFoundError):
        value("Start")


def test_service_that_is_disabled_counts_as_absent_and_is_not_started(driver):
    driver.install(TestConformance().make_unit())
    with driver._service() as service:
        driver._configure(service, advapi.SERVICE_DISABLED)
    assert driver.state() is ServiceState.ABSENT
    with pytest.raises(UsageError, match="not installed: run `veilnet-conflux register`"):
        driver.start()
