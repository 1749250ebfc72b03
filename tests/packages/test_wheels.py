"""What is in the wheels, and what `pip install veilnet-conflux[node]` pulls in where."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEMBERS = [
    tomllib.loads(path.read_text())["project"]
    for pattern in PROJECT["tool"]["uv"]["workspace"]["members"]
    for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
]

PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
}
UV_NAMES = {
    "linux": "x86_64-manylinux_2_34",
    "darwin": "aarch64-apple-darwin",
    "win32": "x86_64-pc-windows-msvc",
}
MACOS = "14.0"
"""The oldest that every dependency has wheels for."""
PURE = "nkeys"
"""Comes as source alone, and has nothing to compile."""


def drivers_of(wheel: Path) -> list[tuple[str, frozenset[str]]]:
    """What the plugin in *wheel* describes: name and platforms of each driver; none everywhere."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import importlib.metadata as im, importlib;"
        "[d] = im.distributions(path=[sys.argv[1]]);"
        "plugins = [e.load() for e in d.entry_points.select(group='conflux.plugins')];"
        "infos = [getattr(p, h)() for p in plugins for h in vars(p) if h.endswith('_driver')];"
        "print([(i.name, sorted(i.platforms)) for i in infos])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(wheel)], capture_output=True, text=True, check=True
    )
    return [(name, frozenset(platforms)) for name, platforms in eval(done.stdout)]  # noqa: S307


def test_every_member_of_the_workspace_has_a_wheel(wheels):
    assert set(wheels) == {PROJECT["project"]["name"], *(member["name"] for member in MEMBERS)}


def test_no_wheel_carries_tests_or_what_lies_about(wheels):
    for name, path in wheels.items():
        with zipfile.ZipFile(path) as archive:
            tops = {file.partition("/")[0] for file in archive.namelist()}
            packages = {top for top in tops if not top.endswith(".dist-info")}
            assert len(packages) == len(tops) - 1 == 1, (name, tops)
            assert [f for f in archive.namelist() if "/tests/" in f or f.endswith(".pyc")] == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_node_takes_no_plugin_of_another_platform(release, wheels, platform):
    chosen = release.wheels.of_node(wheels, PLATFORMS[platform])
    plugins = {name: path for name, path in chosen.items() if name.startswith("conflux-plugin-")}
    assert plugins
    for name, path in plugins.items():
        for driver, platforms in drivers_of(path):
            assert not platforms or platform in platforms, f"{name} brings {driver}"


def test_a_node_takes_every_plugin_that_is_for_some_platforms_only_where_it_serves(release, wheels):
    """A plugin that names its platforms is there for them: on them `[node]` has it."""
    special = 0
    for name, path in wheels.items():
        if not name.startswith("conflux-plugin-"):
            continue
        named = [platforms for _, platforms in drivers_of(path) if platforms]
        for platform in frozenset().union(*named):
            special += 1
            assert name in release.wheels.of_node(wheels, PLATFORMS[platform]), (name, platform)
    assert special


@pytest.mark.parametrize("platform", PLATFORMS)
def test_pip_resolves_a_node_for_each_platform_to_wheels_alone(release, wheels, tmp_path, platform):
    """Whoever installs there needs no compiler. The versions are the lock's."""
    chosen = release.wheels.of_node(wheels, PLATFORMS[platform])
    wanted = tmp_path / "requirements.in"
    extra = f"veilnet-conflux[node] @ {chosen['veilnet-conflux'].as_uri()}"
    wanted.write_text("\n".join([extra, *map(str, chosen.values())]))
    resolved = release.steps.run(
        [
            *[release.steps.program("uv"), "pip", "compile", "-q", wanted, "-c", LOCK],
            *["--python-platform", UV_NAMES[platform], "--python-version", "3.13"],
            *["--only-binary", ":all:", "--no-binary", PURE, "--no-header", "--no-annotate"],
        ],
        MACOSX_DEPLOYMENT_TARGET=MACOS,
    )
    assert all(path.name in resolved for path in chosen.values())
    versions = [line for line in resolved.splitlines() if "==" in line]
    pinned = LOCK.read_text()
    assert len(versions) > 5
    assert [line for line in versions if f"{line} " not in pinned] == []
