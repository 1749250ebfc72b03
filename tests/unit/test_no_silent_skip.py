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
    "mark": '@pytest.mark.skip(reason="a reason")\ndef test_it(): pass',
    "condition": '@pytest.mark.skipif(True, reason="a reason")\ndef test_it(): pass',
    "body": 'def test_it(): pytest.skip("a reason")',
    "fixture": (
        '@pytest.fixture\ndef needed(): pytest.skip("a reason")\ndef test_it(needed): pass'
    ),
    "module": 'pytest.skip("a reason", allow_module_level=True)',
    "import": 'pytest.importorskip("no_such_module", reason="a reason")',
}


def run(folder: Path, body: str, *, test_all: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(f"import pytest\n{body}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", "test_it.py"],
        cwd=folder,
        env={**os.environ, "VEILNET_TEST_ALL": test_all},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_fails_where_everything_has_to_run(tmp_path, kind):
    done = run(tmp_path, SKIPS[kind], test_all="1")
    assert done.returncode in (1, 2), done.stdout
    assert "VEILNET_TEST_ALL=1 and yet: " in done.stdout
    assert "a reason" in done.stdout


def test_skip_is_fine_elsewhere_and_names_its_reason(tmp_path):
    done = run(tmp_path, SKIPS["body"], test_all="")
    assert done.returncode == 0, done.stdout
    assert "a reason" in done.stdout


def test_expected_failure_is_no_skip(tmp_path):
    body = "@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    assert run(tmp_path, body, test_all="1").returncode == 0
