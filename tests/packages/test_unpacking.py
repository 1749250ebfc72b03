"""The executable unpacks itself once, wholly or not at all, and becomes what it unpacked.

With a program of ten lines in the archive; tests/lab/test_packages.py has the real one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("on Windows the executable is not a script", allow_module_level=True)

PROGRAM = '#!/bin/sh\necho "$$ $CONFLUX_EXECUTABLE $*"\nexit 7\n'


def archive(**files: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("_", "-"))
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return raw.getvalue()


@pytest.fixture
def executable(release, tmp_path) -> Path:
    path = tmp_path / "a folder" / "veilnet-conflux"
    path.parent.mkdir()
    path.write_bytes(release.executable.packed(archive(veilnet_conflux=PROGRAM), "1.2", "here"))
    path.chmod(0o755)
    return path


def start(executable: Path, unpack_dir: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [executable, *words],
        env={"PATH": os.environ["PATH"], "CONFLUX_UNPACK_DIR": str(unpack_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_becomes_the_program_with_its_words_its_name_and_its_process_id(executable, tmp_path):
    process = start(executable, tmp_path / "unpacked", "status", "--json")
    said, errors = process.communicate(timeout=30)
    assert said.split(" ", 1) == [str(process.pid), f"{executable} status --json\n"], errors
    assert process.returncode == 7


def test_second_start_unpacks_nothing(executable, tmp_path):
    unpacked = tmp_path / "unpacked"
    start(executable, unpacked).communicate(timeout=30)
    [folder] = unpacked.iterdir()
    marker = folder / "veilnet-conflux"
    before = marker.stat()
    start(executable, unpacked).communicate(timeout=30)
    after = marker.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_first_starts_at_once_leave_one_folder_and_all_run(executable, tmp_path):
    unpacked = tmp_path / "unpacked"
    processes = [start(executable, unpacked) for _ in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (7, "")
    [folder] = unpacked.iterdir()
    assert [path.name for path in folder.iterdir()] == ["veilnet-conflux"]


def test_program_has_the_umask_of_its_user_and_its_folder_is_nobody_elses_to_write(
    release, executable, tmp_path
):
    umask = archive(veilnet_conflux="#!/bin/sh\numask\n")
    executable.write_bytes(release.executable.packed(umask, "1.2", "here"))
    before = os.umask(0o007)
    try:
        said = [start(executable, tmp_path / "unpacked").communicate(timeout=30)[0] for _ in "12"]
    finally:
        os.umask(before)
    assert said == ["0007\n", "0007\n"]
    [folder] = (tmp_path / "unpacked").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o755


def test_another_version_has_a_folder_of_its_own(release, executable, tmp_path):
    unpacked = tmp_path / "unpacked"
    start(executable, unpacked).communicate(timeout=30)
    other = archive(veilnet_conflux=PROGRAM.replace("exit 7", "exit 8"))
    executable.write_bytes(release.executable.packed(other, "1.2", "here"))
    process = start(executable, unpacked)
    process.communicate(timeout=30)
    assert process.returncode == 8
    assert len(list(unpacked.iterdir())) == 2


def test_file_that_was_cut_short_is_refused_and_leaves_nothing(executable, tmp_path):
    unpacked = tmp_path / "unpacked"
    whole = executable.read_bytes()
    executable.write_bytes(whole[:-40])
    process = start(executable, unpacked)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert errors.startswith(f"veilnet-conflux: cannot unpack into {unpacked}: ")
    assert list(unpacked.iterdir()) == []


def test_folder_that_cannot_be_made_is_one_line_that_says_what_to_do(executable, tmp_path):
    (tmp_path / "file").touch()
    process = start(executable, tmp_path / "file" / "below")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert errors.count("\n") == 1
    assert errors.endswith("; name a folder in CONFLUX_UNPACK_DIR\n")


@pytest.fixture
def as_user(tmp_path):
    """Run the executable as somebody who is not root, with these variables."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "bin" / "id").chmod(0o755)

    def as_user(executable, **variables):
        env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **variables}
        return subprocess.run([executable], env=env, capture_output=True, text=True, check=False)

    return as_user


def test_user_has_it_in_the_cache(executable, as_user, tmp_path):
    assert as_user(executable, HOME=str(tmp_path / "home")).returncode == 7
    assert list((tmp_path / "home" / ".cache" / "veilnet-conflux").iterdir())
    assert as_user(executable, HOME="/nowhere", XDG_CACHE_HOME=str(tmp_path / "c")).returncode == 7
    assert list((tmp_path / "c" / "veilnet-conflux").iterdir())


def test_user_without_a_home_is_told_what_to_do(executable, as_user):
    done = as_user(executable)
    assert done.returncode == 2
    assert done.stderr.endswith("HOME: is not set: name a folder in CONFLUX_UNPACK_DIR\n")


def test_root_never_has_it_in_a_home(executable):
    script = executable.read_bytes().partition(b"\nexec ")[0].decode()
    root = script.split('[ "$(id -u)" = 0 ]; then\n', 1)[1].partition("else")[0]
    assert [line.strip() for line in root.splitlines() if "=" in line] == [
        "base=/var/lib/veilnet-conflux"
    ]
