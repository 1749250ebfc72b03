"""What a node keeps on disk: whole or not at all, for its owner's eyes, never half understood."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conflux.api import UsageError
from conflux.runtime import saved
from conflux.runtime.saved import Attempt, Membership

MEMBERSHIP = Membership(
    guardian="https://guardian.example",
    conflux_token="secret.token.here",
    conflux_id="0b5e",
    tag="london",
    plane="home",
    address="10.99.0.1/24",
)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """As on a disk that is full after so many bytes: a write beyond fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(st.builds(Membership, **{
    "guardian": st.text(min_size=1),
    "conflux_token": st.text(min_size=1),
    **{name: st.text() for name in ("conflux_id", "tag", "plane", "address")},
}))  # fmt: skip
def test_what_is_saved_is_loaded(tmp_path_factory, membership):
    path = tmp_path_factory.mktemp("saved") / "conflux.json"
    saved.save(path, membership)
    assert saved.load(path) == membership


def test_nothing_saved_is_no_error(tmp_path):
    assert saved.load(tmp_path / "conflux.json") is None
    assert saved.load(tmp_path / "no" / "such" / "folder" / "conflux.json") is None
    saved.remove(tmp_path / "conflux.json")


@given(st.binary(max_size=300))
@example(b"")
@example(b"{}")
@example(b"[]")
@example(b"null")
@example(b'{"guardian": "https://g", "conflux_token": 7}')
@example(b'{"guardian": "", "conflux_token": "x"}')
@example(b'{"guardian": "https://g"}')
@example(b"[" * 100_000)
@example(b"\xff\xfe")
def test_corrupt_file_gives_one_line_that_names_it(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("saved") / "conflux.json"
    path.write_bytes(noise)
    with pytest.raises(UsageError, match=r"is corrupt .*remove it and register again") as caught:
        saved.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == noise


@given(st.data())
def test_file_cut_short_is_never_taken_for_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("saved") / "conflux.json"
    saved.save(path, MEMBERSHIP)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(UsageError, match="is corrupt"):
        saved.load(path)


def test_fields_of_a_later_version_are_ignored(tmp_path):
    path = tmp_path / "conflux.json"
    path.write_text(json.dumps({"guardian": "g", "conflux_token": "t", "colour": [1]}))
    assert saved.load(path) == Membership(guardian="g", conflux_token="t")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_it(tmp_path, umask):
    path = tmp_path / "config" / "conflux" / "conflux.json"
    before = os.umask(umask)
    try:
        saved.save(path, MEMBERSHIP)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_file_that_others_could_read_is_replaced_by_one_that_they_cannot(tmp_path):
    path = tmp_path / "conflux.json"
    path.touch(mode=0o644)
    saved.save(path, MEMBERSHIP)
    assert path.stat().st_mode & 0o777 == 0o600


def test_failed_write_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "conflux.json"
    saved.save(path, MEMBERSHIP)
    before = path.read_bytes()
    other = Membership(guardian="https://other.example", conflux_token="other")
    with files_of_at_most(20), pytest.raises(UsageError, match="cannot be written") as caught:
        saved.save(path, other)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["conflux.json"]


def test_check_finds_a_full_disk_and_leaves_nothing(tmp_path):
    path = tmp_path / "conflux.json"
    with files_of_at_most(100), pytest.raises(UsageError, match="cannot be written"):
        saved.check_writable(path)
    saved.check_writable(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("act", [
    lambda path: saved.save(path, MEMBERSHIP),
    saved.check_writable,
    saved.load,
    saved.remove,
])  # fmt: skip
def test_file_in_the_place_of_the_folder_is_named(tmp_path, act):
    (tmp_path / "conflux").write_text("a file")
    with pytest.raises(UsageError, match=r"conflux\.json cannot be") as caught:
        act(tmp_path / "conflux" / "conflux.json")
    assert "None" not in str(caught.value)


def test_folder_in_the_place_of_the_file_is_named(tmp_path):
    path = tmp_path / "conflux.json"
    path.mkdir()
    for act in (saved.load, lambda path: saved.save(path, MEMBERSHIP), saved.remove):
        with pytest.raises(UsageError, match=r"conflux\.json cannot be"):
            act(path)
    assert os.listdir(tmp_path) == ["conflux.json"]


def test_token_is_not_shown():
    assert "secret" not in repr(MEMBERSHIP)
    assert "secret" not in str(MEMBERSHIP)


def test_reader_sees_the_former_or_the_new_file_at_any_moment(tmp_path, monkeypatch):
    path = tmp_path / "conflux.json"
    saved.save(path, MEMBERSHIP)
    other = Membership(guardian="https://other.example", conflux_token="other")
    seen = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def watched(name):
        def call(*arguments):
            seen.append(saved.load(path))
            result = real[name](*arguments)
            seen.append(saved.load(path))
            return result

        return call

    for name in real:
        monkeypatch.setattr(os, name, watched(name))
    saved.save(path, other)
    assert set(seen) == {MEMBERSHIP, other}
    assert seen == sorted(seen, key=lambda found: found == other)
    assert isinstance(path, Path)


def test_attempt_is_the_same_until_it_is_over(tmp_path):
    folder = tmp_path / "conflux"
    first = Attempt(folder)
    assert not first.was_cut_short
    assert not folder.exists()
    value = first.begin()
    assert re.fullmatch("[A-Za-z0-9_-]{43}", value)
    assert (folder / "registering").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    again = Attempt(folder)
    assert again.was_cut_short
    assert again.begin() == first.begin() == value
    again.forget()
    assert list(folder.iterdir()) == []
    third = Attempt(folder)
    assert not third.was_cut_short
    assert third.begin() != value


@pytest.mark.parametrize(
    "torn", [b"", b"abc\n", b"A" * 43, b"A" * 44 + b"\n", b"\xff" * 43 + b"\n"]
)
def test_torn_attempt_counts_as_none(tmp_path, torn):
    (tmp_path / "registering").write_bytes(torn)
    attempt = Attempt(tmp_path)
    assert not attempt.was_cut_short
    value = attempt.begin()
    assert (tmp_path / "registering").read_text() == value + "\n"


def test_attempt_that_cannot_be_read_or_saved_is_named(tmp_path):
    (tmp_path / "registering").mkdir()
    with pytest.raises(UsageError, match="registering cannot be read: Is a directory"):
        Attempt(tmp_path)
    with files_of_at_most(10), pytest.raises(UsageError, match="cannot be written"):
        Attempt(tmp_path / "other").begin()
    assert list((tmp_path / "other").iterdir()) == []
