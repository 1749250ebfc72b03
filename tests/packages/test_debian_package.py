"""The outside of the Debian package; tests/lab/test_packages.py has what is in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

if shutil.which("dpkg-deb") is None:
    pytest.skip("no dpkg-deb here: Debian packages are built on Debian", allow_module_level=True)


def deb(*words: object) -> str:
    argv = ["dpkg-deb", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def package(release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debian")
    work = folder / "work"
    home = work / "usr" / "lib" / "veilnet-conflux"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "veilnet-conflux").write_text("#!/bin/sh\n")
    (home / "library.so").write_text("")
    # As uv and a careless umask leave them.
    (home / "bin" / "veilnet-conflux").chmod(0o700)
    (home / "library.so").chmod(0o777)
    target = folder / "veilnet-conflux_1.2_amd64.deb"
    release.debian_package.pack(work, "3.11", "amd64", "1.2", target)
    return target


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Package", "veilnet-conflux"),
        ("Version", "1.2"),
        ("Architecture", "amd64"),
        ("Depends", "python3.11, libc6 (>= 2.34), passwd"),
    ],
)
def test_its_fields(package, field, value):
    assert deb("--field", package, field).strip() == value


def test_everything_is_roots_and_only_programs_can_be_executed(package):
    modes = {}
    for line in deb("--contents", package).splitlines():
        mode, owner, *_, path = line.split(" -> ")[0].split()
        assert owner == "root/root"
        modes[path] = mode
    home = "./usr/lib/veilnet-conflux"
    assert modes[f"{home}/bin/veilnet-conflux"] == "-rwxr-xr-x"
    assert modes[f"{home}/library.so"] == "-rw-r--r--"
    assert modes["./usr/bin/veilnet-conflux"].startswith("l")
    assert not [path for path in modes if "systemd" in path or path.startswith("./etc")]


def test_its_sums_are_right_and_no_placeholder_is_left(package, tmp_path):
    deb("--raw-extract", package, tmp_path)
    subprocess.run(["md5sum", "--quiet", "-c", "DEBIAN/md5sums"], cwd=tmp_path, check=True)
    for path in (tmp_path / "DEBIAN").iterdir():
        assert "@" not in path.read_text().replace("conflux@veilnet.net", "")


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_scripts_are_sound_and_do_nothing_at_an_upgrade_of_what_does_not_run(
    package, tmp_path, script
):
    deb("--control", package, tmp_path)
    path = tmp_path / script
    subprocess.run(["sh", "-n", path], check=True)
    # These are the programs: whatever else is called is an error.
    for name, does in {"systemctl": "[ $2 = is-active ] && exit 3; echo $*", "getent": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for words in (["configure", "1.1"], ["upgrade", "1.2"], ["abort-upgrade", "1.1"]):
        argv, env = ["/bin/sh", path, *words], {"PATH": str(tmp_path)}
        done = subprocess.run(argv, env=env, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
