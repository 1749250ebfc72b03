"""Rules for every test of the workspace: no silent skip, no hidden chance."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Any machine may be slow, and a failure prints the blob that repeats it exactly.
settings.register_profile("veilnet", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("veilnet")

NO_SKIP = "VEILNET_TEST_ALL"

# Where these say that CI runs, pytest compares unequal values line by line, however long they are.
# Sabotaged drivers fail assertions about megabytes on purpose: that took half an hour.
for variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(variable, None)

# Where the environment forbids bytecode, as those of containers do, each program that a test starts
# compiles all that it imports: a Guardian or a node then takes 2.5 times as long to come up.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(Path(sys.prefix, "pycache"))
sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

# Who runs the tests in the background of a script has these ignored, and so would every program
# that a test starts: some are to act on them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """With VEILNET_TEST_ALL=1 a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport]:
    """The same for a module that skips itself while it is imported."""
    report = yield
    if report.skipped:
        _forbid(report)
    return report


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get(NO_SKIP) == "1":
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{NO_SKIP}=1 and yet: {reason}"
