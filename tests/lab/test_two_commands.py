"""Debian in two commands, as docs/install.md has them, under a real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from booted import ROOT, Machine, needs_systemd, sweep

pytestmark = [pytest.mark.lab, pytest.mark.thorough]

PAGE = (ROOT / "docs" / "install.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: ([\w-]+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))


def typed(block: str) -> list[str]:
    return BLOCKS[block].replace("sudo ", "").splitlines()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/usr/bin/python3").exists() or shutil.which("apt-get") is None:
        pytest.skip("Debian packages are built and installed on Debian")
    folder = tmp_path_factory.mktemp("package")
    argv = [sys.executable, ROOT / "tools" / "release", "--into", folder, "debian"]
    subprocess.run(argv, check=True, timeout=900)
    [made] = (folder / "dist").glob("*.deb")
    return made


@pytest.fixture
def debian(overlay, package):
    """A computer with the package in the folder /root."""
    needs_systemd()
    machine = Machine(overlay.internet.world, overlay.internet.host("debian"), "debian")
    try:
        copy = overlay.folder / package.name
        shutil.copy(package, copy)
        overlay.internet.world.run(["cp", str(copy), "/mnt/debian/root/root/"])
        machine.boot()
        yield machine
    finally:
        machine.power_off()
        sweep([machine])


def test_two_commands_make_a_running_service_that_is_upgraded_and_goes_with_the_package(
    debian, overlay
):
    overlay.start_guardian()
    there = {"VEILNET_GUARDIAN": f"http://{overlay.internet.address}:8000"}

    def type_(command: str) -> str:
        command = command.replace("TOKEN", overlay.tokens["alice"])
        return debian.run("sh", "-c", f"cd /root && {command} </dev/null", variables=there).stdout

    def state() -> str:
        return debian.run("systemctl", "is-active", "veilnet", check=False).stdout.strip()

    def process() -> str:
        return debian.run("systemctl", "show", "veilnet", "--value", "-p", "MainPID").stdout

    install, register = typed("debian")
    type_(install)
    assert state() == "inactive"
    type_(register)
    assert state() == "active"
    assert "veilnet" in debian.run("ip", "-br", "link").stdout
    assert '"state": "running"' in debian.run("veilnet-conflux", "status", "--json").stdout

    before = process()
    type_("apt-get install --reinstall -y ./veilnet-conflux_*.deb")
    assert state() == "active"
    assert process() != before

    type_("apt-get purge -y veilnet-conflux")
    assert state() == "inactive"
    assert debian.files("/etc/systemd", "/usr", "/run/systemd") == []
    assert debian.run("ls", "/root/.config/conflux/conflux.json").returncode == 0
