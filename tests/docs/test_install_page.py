"""docs/install.md names the files that `make build` makes; tests/lab/test_packages.py types it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from conflux.cli import main
from veilnet_guardian.cli import main as guardian

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text()
TYPED = (ROOT / "tests" / "lab" / "test_packages.py").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_file_that_the_page_names_is_of_this_version():
    named = re.findall(r"veilnet-conflux[-_](\d+\.\d+\.\d+)", PAGE)
    assert named
    assert set(named) == {VERSION}


def test_every_block_that_can_be_typed_is_typed():
    marked = set(re.findall(r"<!-- test: ([\w-]+) -->", PAGE))
    assert marked == set(re.findall(r'typed\("([\w-]+)"\)', TYPED))
    # The rest takes an engine or a system that is not here.
    blocks = re.findall(r"^```\w", PAGE, re.MULTILINE)
    assert len(blocks) - len(marked) == 4


def test_page_and_reference_name_the_variables_of_the_image_and_of_the_compose_example():
    reference = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    example = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    image = re.findall(r"^ENV (\w+)=", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(example) == 3
    assert image == ["VEILNET_CONFIG_DIR"]
    for variable in example:
        assert f"| `{variable}` |" in PAGE
    for variable in (*example, *image):
        assert f"| `{variable}` |" in reference


def test_every_command_that_the_page_names_is_one_with_these_options():
    """In blocks, tables and sentences; what stands behind a verb are its options and arguments."""
    found = re.findall(
        r"veilnet-conflux(?:\.exe)? (?!veilnet-conflux)([a-z]+)"
        r"((?: (?:-\w|--[\w-]+)(?: [^\s`]+)?)*)",
        PAGE,
    )
    assert {verb for verb, _ in found} >= {"register", "unregister", "restart", "status"}
    for verb, words in found:
        options = re.findall(r" (--?[\w-]+)", words)
        assert verb in main.commands, verb
        known = {name for option in main.commands[verb].params for name in option.opts}
        assert set(options) <= known, (verb, options)


def test_every_command_of_guardian_that_the_page_names_is_one():
    found = re.findall(r"veilnet-guardian ([a-z]+) ([a-z]+)`", PAGE)
    assert len(found) >= 2
    for group, verb in found:
        assert verb in guardian.commands[group].commands


def test_page_names_the_services_and_logs_of_the_drivers():
    from conflux_service_launchd import driver as launchd
    from conflux_service_systemd import driver as systemd
    from conflux_service_windows import driver as windows

    rows = re.findall(r"^\| (its name|its log) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    names, logs = (row[1:] for row in rows)
    assert names == tuple(
        f"`{name}`" for name in (systemd.NAME.removesuffix(".service"), launchd.LABEL, windows.NAME)
    )
    host = (ROOT / "plugins/service_windows/src/conflux_service_windows/host.py").read_text()
    assert logs[1] == f"`{launchd.LOG}`"
    assert logs[2] == rf"`C:\ProgramData\{windows.NAME}\conflux.log`"
    assert 'LOG = FOLDER / "conflux.log"' in host
    assert r'r"C:\ProgramData"' in host
