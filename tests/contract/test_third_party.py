"""`pip install ./examples/conflux-plugin-xyz` is all that a third party's user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "conflux-plugin-xyz"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder of its own, which ends with the test; no network."""
    work = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(EXAMPLE, work / "source")  # a build leaves traces beside its source
    site = work / "site"
    run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source),
        ]
    )  # fmt: skip
    return site


def run(
    command: list[str], *, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VEILNET_")}
    done = subprocess.run(
        command, env={**environ, **variables}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def plugins_list(site: Path, config_dir: Path, **variables: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "conflux", "plugins", "list", "--json"]
    command += ["--config-dir", str(config_dir)]
    done = run(command, check=False, PYTHONPATH=str(site), **variables)
    survey: dict[str, Any] = json.loads(done.stdout)
    return survey


def test_installed_plugin_is_listed_and_changes_nothing(site: Path, tmp_path: Path) -> None:
    survey = plugins_list(site, tmp_path)
    (plugin,) = [plugin for plugin in survey["plugins"] if plugin["name"] == "xyz"]
    assert plugin == {
        "name": "xyz", "dist": "conflux-plugin-xyz 0.1.0", "stage": "ok", "reason": "",
    }  # fmt: skip
    (driver,) = [driver for driver in survey["drivers"] if driver["name"] == "xyz"]
    assert driver["usable"]
    assert not driver["chosen"]
    assert survey["kinds"]["router"]["chosen"] == "static"


def test_variable_alone_selects_it(site: Path, tmp_path: Path) -> None:
    survey = plugins_list(site, tmp_path, VEILNET_PLUGIN_ROUTER="xyz")
    assert survey["kinds"]["router"] == {"chosen": "xyz", "pinned": "xyz", "reason": ""}


def test_configuration_alone_selects_it(site: Path, tmp_path: Path) -> None:
    (tmp_path / "conflux.toml").write_text('[plugins]\nrouter = "xyz"\n')
    survey = plugins_list(site, tmp_path)
    assert survey["kinds"]["router"]["chosen"] == "xyz"


def test_its_own_test_passes_where_it_is_installed(site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"]
    command += [str(site), "-c", os.devnull, str(EXAMPLE / "tests")]
    done = run(command, PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1")
    assert "10 passed" in done.stdout, done.stdout


def test_it_stays_an_example_that_fits_on_a_page() -> None:
    assert len((EXAMPLE / "conflux_plugin_xyz.py").read_text().splitlines()) < 40
    lines = (EXAMPLE / "tests" / "test_conformance.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) == 6
