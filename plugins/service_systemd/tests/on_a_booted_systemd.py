"""The kit's conformance on a real systemd; tests/lab/test_services.py boots one and runs this."""

from __future__ import annotations

import sys
from pathlib import Path

from conflux.api import ServiceDriver, ServiceUnit
from conflux.testing import PluginConformance, ServiceConformance
from conflux_service_systemd.driver import SystemdService
from conflux_service_systemd.plugin import probe

COMES_UP = Path(__file__).parent / "programs" / "comes_up.py"


class TestSystemd(PluginConformance, ServiceConformance):
    plugin_name = "service-systemd"

    def make_driver(self) -> ServiceDriver:
        probe()
        driver = SystemdService({})
        driver.check()
        return driver

    def make_unit(self) -> ServiceUnit:
        return ServiceUnit(command=[sys.executable, str(COMES_UP)], description="It comes up")

    def make_failing_unit(self) -> ServiceUnit:
        return ServiceUnit(command=["/bin/false"], description="It fails")
