"""The launchd driver before a stand-in for launchctl; its property list as plistlib reads it."""

from __future__ import annotations

import json
import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from conflux.api import ServiceState, ServiceUnit, UsageError
from conflux.killer import KILL
from conflux.registry import Registry
from conflux.testing import ServiceConformance
from conflux.testing.killed import KilledServiceConformance, as_argument
from conflux_service_launchd.driver import LABEL, LaunchdService, plist

KILLED_VERBS = Path(__file__).with_name("killed_verbs.py")
FAKE = Path(__file__).with_name("fake_launchctl.py")
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="launchd is a thing of Unix"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a daemon is root's"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LAUNCHD", str(tmp_path))
    program = tmp_path / "launchctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "LaunchDaemons").mkdir()
    return tmp_path


def driver_of(home: Path) -> LaunchdService:
    return LaunchdService(
        {}, folder=home / "LaunchDaemons", log=home / "log", launchctl=str(home / "launchctl"),
        steady_s=0.2,
    )  # fmt: skip


class TestConformance(ServiceConformance):
    @pytest.fixture(autouse=True)
    def _home(self, home):
        self.home = home

    def make_driver(self):
        return driver_of(self.home)

    def make_unit(self):
        return ServiceUnit(command=SLEEPS, description="It comes up")

    def make_failing_unit(self):
        return ServiceUnit(command=["/bin/false"], description="It fails")


@pytest.mark.thorough
class TestKilled(KilledServiceConformance):
    @pytest.fixture(autouse=True)
    def _home(self, home):
        self.home = home

    def make_driver(self):
        return driver_of(self.home)

    def make_unit(self):
        return ServiceUnit(command=SLEEPS, description="It comes up")

    def killed(self, step, *verbs):
        log = self.home / "steps"
        done = subprocess.run(
            [sys.executable, KILLED_VERBS, str(step), log, self.home,
             as_argument(self.make_unit()), *verbs],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        steps = log.read_text().splitlines()
        assert done.returncode == (-KILL if step and step == len(steps) else 0), done.stderr
        return steps

    def installed(self):
        path = self.home / "LaunchDaemons" / f"{LABEL}.plist"
        return path.read_bytes() if path.exists() else None

    def traces(self):
        paths = [*(self.home / "LaunchDaemons").iterdir(), self.home / "log"]
        return {path.name for path in paths if path.exists()}

    def runs(self):
        loaded = self.home / "loaded"
        if not loaded.exists():
            return False
        stat = Path(f"/proc/{json.loads(loaded.read_text())[0]}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_plugin_is_found_and_is_for_macos_only():
    registry = Registry()
    registry.load()
    [(_, info)] = registry.drivers_of("service-launchd")
    assert (info.name, info.platforms) == ("launchd", {"darwin"})


def test_property_list_says_what_launchd_needs():
    unit = ServiceUnit(command=["/x/y", "run"], description="d", environment={"VEILNET_TUN": "t"})
    job = plistlib.loads(plist(unit, Path("/var/log/veilnet.log")))
    assert job["Label"] == LABEL == "org.veilnet.conflux"
    assert job["ProgramArguments"] == ["/x/y", "run"]
    assert job["EnvironmentVariables"]["VEILNET_TUN"] == "t"
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["RunAtLoad"] is True
    assert job["StandardErrorPath"] == job["StandardOutPath"] == "/var/log/veilnet.log"
    assert job["SoftResourceLimits"] == {"Core": 0}


def test_install_that_fails_leaves_what_was_there(home):
    driver = driver_of(home)
    unit = ServiceUnit(command=SLEEPS, description="d")
    (home / "broken").write_text("enable")
    with pytest.raises(UsageError, match=r"launchctl enable system/org\.veilnet\.conflux: enable"):
        driver.install(unit)
    assert driver.state() is ServiceState.ABSENT
    assert list((home / "LaunchDaemons").iterdir()) == []
    (home / "broken").unlink()
    driver.install(unit)
    [path] = (home / "LaunchDaemons").iterdir()
    before = path.read_bytes()
    (home / "broken").write_text("enable")
    with pytest.raises(UsageError):
        driver.install(ServiceUnit(command=["/other"], description="d"))
    assert path.read_bytes() == before


def test_error_names_the_last_line_of_the_log(home):
    driver = driver_of(home)
    script = "import sys; sys.exit('veilnet-conflux: the token is wrong')"
    driver.install(ServiceUnit(command=[sys.executable, "-c", script], description="d"))
    with pytest.raises(UsageError, match="did not come up: veilnet-conflux: the token is wrong"):
        driver.start()
    driver.remove()
    assert not (home / "log").exists()


def test_log_that_a_killed_removal_left_is_removed(home):
    (home / "log").write_text("came up\n")
    driver_of(home).remove()
    assert not (home / "log").exists()


def test_what_launchd_runs_without_a_file_is_no_absent_service(home):
    driver = driver_of(home)
    driver.install(ServiceUnit(command=SLEEPS, description="d"))
    driver.start()
    (home / "LaunchDaemons" / f"{LABEL}.plist").unlink()
    assert driver.state() is ServiceState.RUNNING
    driver.remove()
    assert driver.state() is ServiceState.ABSENT
