"""The data folder: private, agreed on by concurrent commands, and clear about what is wrong."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from veilnet_guardian.datadir import DataDir, write_private
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.keys import Keys


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "deep" / "guardian")
    data_dir.secret("guardian.key")
    assert mode(data_dir.root) == 0o700
    assert mode(data_dir.root / "guardian.key") == 0o600


def test_secret_stays_the_same_and_names_differ(data_dir: DataDir) -> None:
    first = data_dir.secret("token.key")
    assert len(first) == 32
    assert DataDir(data_dir.root).secret("token.key") == first
    assert data_dir.secret("master.key") != first


def test_concurrent_first_uses_agree_on_one_secret(data_dir: DataDir) -> None:
    start, found = threading.Barrier(8), []

    def use() -> None:
        start.wait()
        found.append(data_dir.secret("guardian.key"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in data_dir.root.iterdir()] == ["guardian.key"]


def test_truncated_secret_is_named_and_never_replaced(data_dir: DataDir) -> None:
    path = data_dir.root / "guardian.key"
    write_private(path, b"short")
    with pytest.raises(GuardianError, match=r"guardian.key does not hold 32 bytes"):
        data_dir.secret("guardian.key")
    assert path.read_bytes() == b"short"


def test_folder_that_others_can_enter_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(GuardianError, match="open to other users: chmod 700"):
        DataDir(tmp_path)
    assert mode(tmp_path) == 0o755


def test_empty_folder_is_closed_to_others(tmp_path: Path) -> None:
    mounted = tmp_path / "volume"
    mounted.mkdir(mode=0o755)
    DataDir(mounted)
    assert mode(mounted) == 0o700


@pytest.mark.parametrize("below", ["", "guardian"])
def test_file_in_place_of_the_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GuardianError, match="is not a folder: choose another with --data-dir"):
        DataDir(tmp_path / "file" / below)


def test_lock_is_held_by_one_at_a_time(data_dir: DataDir) -> None:
    lock = data_dir.lock
    with lock("serve.lock", wait=False) as first, lock("serve.lock", wait=False) as second:
        assert (first, second) == (True, False)
    with data_dir.lock("serve.lock", wait=False) as again:
        assert again


def test_guardian_key_survives_a_restart(data_dir: DataDir) -> None:
    assert Keys(data_dir).fingerprint == Keys(DataDir(data_dir.root)).fingerprint


def test_no_secret_shows_in_a_repr(data_dir: DataDir) -> None:
    keys = Keys(data_dir).master
    assert keys.operator.seed not in repr(keys.operator)
    assert keys.operator.public in repr(keys.operator)
