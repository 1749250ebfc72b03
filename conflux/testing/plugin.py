"""Conformance of a plugin as such, whatever its drivers are."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import ClassVar

import pytest

from conflux.registry import Registry, Stage
from conflux.registry.discover import GROUP

HEAVY = frozenset({"asyncio", "ctypes", "multiprocessing", "sqlite3", "ssl", "tkinter", "unittest"})
"""Modules of the standard library that cost more than a description is worth."""

_NEW_MODULES = """
import json, sys
import conflux.api
before = set(sys.modules)
import importlib
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


class PluginConformance:
    """Subclass, set `plugin_name` to the name of your entry point, run pytest."""

    plugin_name: ClassVar[str]

    @pytest.fixture
    def registry(self) -> Registry:
        registry = Registry()
        registry.load()
        return registry

    def test_plugin_loads_cleanly(self, registry: Registry) -> None:
        reports = [report for report in registry.reports if report.name == self.plugin_name]
        names = sorted(report.name for report in registry.reports)
        assert reports, f"{self.plugin_name} is not installed; there are {', '.join(names)}"
        for report in reports:
            assert report.stage is Stage.OK, f"{report.reason}\n{report.details}"

    def test_probes_answer_yes_or_say_why_not(self, registry: Registry) -> None:
        for kind, info in registry.drivers_of(self.plugin_name):
            for candidate in registry.candidates(kind):
                if candidate.info is info:
                    assert not candidate.objection.startswith("its probe"), candidate.objection

    def test_every_target_is_a_driver_of_its_kind(self, registry: Registry) -> None:
        """Imports the driver modules; those that cannot run here need not be importable here."""
        drivers = registry.drivers_of(self.plugin_name)
        unusable = []
        for kind, info in drivers:
            (candidate,) = [c for c in registry.candidates(kind) if c.info is info]
            if candidate.objection:
                unusable.append(f"{info.name}: {candidate.objection}")
            else:
                registry.load_target(kind, info)
        if drivers and len(unusable) == len(drivers):
            pytest.skip(f"driver unavailable: {'; '.join(unusable)}")

    def test_describing_is_import_light(self) -> None:
        """`plugins list` and every start import each plugin's description, chosen or not."""
        (entry,) = importlib.metadata.entry_points(group=GROUP, name=self.plugin_name)
        command = [sys.executable, "-c", _NEW_MODULES, entry.module]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        own = {entry.module.partition(".")[0], "conflux"}
        imported = set(json.loads(done.stdout)) - own
        foreign = {name for name in imported if name not in sys.stdlib_module_names}
        heavy = sorted(foreign | imported & HEAVY)
        assert not heavy, (
            f"{entry.module} imports {', '.join(heavy)}: "
            "import what only the driver needs in the driver's module"
        )
