"""conflux/anchor/merkle.py: the reference vectors of RFC 6962, and no other leaf fits a root."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.merkle import Tree, root_of
from conflux.api import WireError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "rfc6962_sha256.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
trees = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_vectors(size):
    assert Tree(LEAVES[:size]).root == ROOTS[size - 1]


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: f"{v['index']}-{v['size']}")
def test_audit_paths_are_those_of_the_reference_vectors(vector):
    index, size = vector["index"], vector["size"]
    path = [bytes.fromhex(node) for node in vector["path"]]
    assert Tree(LEAVES[:size]).path(index) == path
    assert root_of(LEAVES[index], index, size, path) == ROOTS[size - 1]


def defined_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 §2.1 writes it down: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = defined_root(leaves[:half]), defined_root(leaves[half:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(trees)
def test_roots_of_every_shape_are_the_definitions(leaves):
    assert Tree(leaves).root == defined_root(leaves)


@given(trees, st.data())
def test_every_path_leads_to_the_root_and_for_its_own_leaf_alone(leaves, data):
    tree = Tree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(index)
    assert root_of(leaves[index], index, len(leaves), path) == tree.root
    other = data.draw(st.binary(max_size=40))
    if other != leaves[index]:
        assert root_of(other, index, len(leaves), path) != tree.root
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bent = [*path]
        bent[at] = bytes(32)
        assert root_of(leaves[index], index, len(leaves), bent) != tree.root


@given(trees, st.data())
def test_paths_of_a_wrong_length_are_refused(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = Tree(leaves).path(index)
    with pytest.raises(WireError):
        root_of(leaves[index], index, len(leaves), [*path, bytes(32)])
    if path:
        with pytest.raises(WireError):
            root_of(leaves[index], index, len(leaves), path[:-1])


@pytest.mark.parametrize(("index", "size"), [(1, 1), (0, 0), (-1, 2), (300, 256)])
def test_a_place_outside_of_the_tree_is_refused(index, size):
    with pytest.raises(WireError):
        root_of(b"leaf", index, size, [])


def test_a_node_does_not_pass_for_a_leaf():
    tree = Tree(LEAVES[:4])
    left = Tree(LEAVES[:2]).root
    right = Tree(LEAVES[2:4]).root
    assert root_of(left + right, 0, 1, []) != tree.root


def test_a_tree_without_leaves_is_a_bug():
    with pytest.raises(ValueError, match="at least one"):
        Tree([])
