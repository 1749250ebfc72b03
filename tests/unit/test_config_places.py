"""Where the keys of a conflux.toml stand, however they are written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.config.toml import places

EXAMPLES = [
    ("a = 1", {("a",): (1, 1)}),
    ("# a\n\n  a = 1", {("a",): (3, 3)}),
    ("[t]\na.b = 1", {("t",): (1, 2), ("t", "a"): (2, 1), ("t", "a", "b"): (2, 3)}),
    ("[ t . u ]\n", {("t",): (1, 3), ("t", "u"): (1, 7)}),
    ("\"a b\" = 1\n'c' = 2", {("a b",): (1, 1), ("c",): (2, 1)}),
    ('"\\u0061" = 1', {("a",): (1, 1)}),
    ("t = {a = 1, b = {c = 2}}", {
        ("t",): (1, 1), ("t", "a"): (1, 6), ("t", "b"): (1, 13), ("t", "b", "c"): (1, 18),
    }),
    ('a = """\nb = 1\n"""\nb = 2', {("a",): (1, 1), ("b",): (4, 1)}),
    ("a = '''\n[b]\n'''''\nb = 2", {("a",): (1, 1), ("b",): (4, 1)}),
    ('a = "\\"# b = 1"\nb = 2', {("a",): (1, 1), ("b",): (2, 1)}),
    ("a = [ # b\n 1, '2]',\n {c = 3} ]\nb = 2", {
        ("a",): (1, 1), ("a", "c"): (3, 3), ("b",): (4, 1),
    }),
    ("[[t]]\na = 1\n[[t]]\na = 2", {("t",): (1, 3), ("t", "a"): (2, 1)}),
    ("a = 2026-01-01 00:00:00 # b\r\nb = 1", {("a",): (1, 1), ("b",): (2, 1)}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_keys_are_found_where_they_stand(text, expected):
    tomllib.loads(text)
    assert places(text) == expected


NAMES = st.sampled_from(["a", "b-c", "d e", "é", 'q"', "#", "="])
VALUES = st.recursive(
    st.sampled_from(["1", "true", "1.5", '"# x = 1"', "'[x]'", '"""\nx = "1"\n"""', "'''\n}\n'''"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ " + " ,\n".join(items) + " ]"),
        st.dictionaries(NAMES, inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key(n)} = {v}" for n, v in table.items()) + "}"
        ),
    ),
    max_leaves=6,
)


def key(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else '"' + name.replace('"', '\\"') + '"'


def paths(table: dict[str, Any], here: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*here, name)
        if isinstance(value, dict):
            yield from paths(value, (*here, name))


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_key_has_a_place_where_it_is_written(top, table):
    text = "".join(f"{key(n)} = {v} # {n} =\n" for n, v in top.items())
    text += "[ table ]\n" + "".join(f"  {key(n)}={v}\n" for n, v in table.items())
    found = places(text)
    assert set(paths(tomllib.loads(text))) <= found.keys()
    lines = text.split("\n")
    for path, (line, column) in found.items():
        assert lines[line - 1][column - 1 :].startswith(key(path[-1]))
