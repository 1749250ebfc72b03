"""With VEILNET_TEST_ALL=1 no test is skipped without a failure, wherever the skip is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"

SKIPS = {
    "mark": '@pytest.mark.skip(reason="{}")\ndef test_it(): pass',
    "condition": '@pytest.mark.skipif(True, reason="{}")\ndef test_it(): pass',
    "body": 'def test_it(): pytest.skip("{}")',
    "fixture": '@pytest.fixture\ndef needed(): pytest.skip("{}")\ndef test_it(needed): pass',
    "module": 'pytest.skip("{}", allow_module_level=True)',
    "import": 'pytest.importorskip("no_such_module", reason="{}")',
}
EXPECTED = '@pytest.mark.xfail(reason="known")\ndef test_it(): assert False'


def reason(kind: str) -> str:
    return f"why {kind} is skipped"


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What pytest says of all of them in its summary, by the value of VEILNET_TEST_ALL."""
    folder = tmp_path_factory.mktemp("skips")
    shutil.copy(CONFTEST, folder)
    for kind, body in SKIPS.items():
        text = f"import pytest\n{body.format(reason(kind))}\n"
        (folder / f"test_{kind}.py").write_text(text)
    (folder / "test_expected.py").write_text(f"import pytest\n{EXPECTED}\n")
    return {test_all: run(folder, test_all) for test_all in ("1", "")}


def run(folder: Path, test_all: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra",
         "--continue-on-collection-errors"],
        cwd=folder, env={**os.environ, "VEILNET_TEST_ALL": test_all, "COLUMNS": "200"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if test_all else 0), done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_fails_where_everything_has_to_run(summaries, kind):
    lines = summaries["1"]
    assert [line for line in lines if line.startswith(("FAILED", "ERROR")) and kind in line]
    assert f"VEILNET_TEST_ALL=1 and yet: Skipped: {reason(kind)}" in lines


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_is_fine_elsewhere_and_names_its_reason(summaries, kind):
    (line,) = [line for line in summaries[""] if reason(kind) in line]
    assert line.startswith("SKIPPED [1] ")


def test_expected_failure_is_no_skip(summaries):
    for lines in summaries.values():
        assert "XFAIL test_expected.py::test_it - known" in lines
