"""Which wintun.dll is taken, and which is not."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from conflux.api import API_VERSION, Unavailable
from conflux_tun_wintun import library, plugin

MACHINES = {"win-amd64": 0x8664, "win-arm64": 0xAA64, "win32": 0x014C}  # IMAGE_FILE_MACHINE_*


@pytest.mark.parametrize("platform", MACHINES)
def test_package_has_the_signed_dll_of_each_machine(platform: str) -> None:
    """Signed: the data directory of certificates (PE format, optional header) is not empty."""
    image = library.find(platform).read_bytes()
    (header,) = struct.unpack_from("<I", image, 0x3C)
    assert image[header : header + 4] == b"PE\0\0"
    machine, magic = (
        *struct.unpack_from("<H", image, header + 4),
        *struct.unpack_from("<H", image, header + 24),
    )
    assert machine == MACHINES[platform]
    directories = header + 24 + (112 if magic == 0x20B else 96)
    where, size = struct.unpack_from("<II", image, directories + 4 * 8)
    assert size > 0
    assert b"WireGuard LLC" in image[where : where + size]


@pytest.mark.parametrize("name", library.PROTOTYPES)
def test_functions_are_exported_by_the_dll(name: str) -> None:
    assert name.encode() + b"\0" in library.find("win-amd64").read_bytes()


def test_dll_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bytearray(library.find("win-amd64").read_bytes())
    image[-1] ^= 1
    other = tmp_path / "wintun.dll"
    other.write_bytes(image)
    monkeypatch.setattr(library, "_in_package", lambda folder: other)
    with pytest.raises(
        Unavailable, match=r"is not the signed DLL of Wintun 0\.14\.1: `pip install"
    ):
        library.find("win-amd64")


def test_missing_package_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "CARRIER", "no_such_package")
    with pytest.raises(Unavailable, match=r"wintun\.dll is missing: `pip install .*pytun-pmd3"):
        library.find("win-amd64")


def test_machine_without_a_dll_is_told() -> None:
    with pytest.raises(Unavailable, match=r"no wintun\.dll for win-ia64"):
        library.find("win-ia64")


def test_finding_the_dll_runs_nothing_of_its_package() -> None:
    script = (
        "import sys\n"
        "from conflux_tun_wintun import library\n"
        "library.find('win-amd64')\n"
        "print('pytun_pmd3' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "False\n"


def test_plugin_describes_the_driver() -> None:
    info = plugin.conflux_tun_driver()
    assert (info.name, info.api, info.platforms) == ("wintun", API_VERSION, {"win32"})
    assert info.target == "conflux_tun_wintun.device:WintunDriver"


def test_describing_the_driver_imports_nothing_heavy() -> None:
    script = "import sys, conflux_tun_wintun.plugin; print('ctypes' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "False\n"
