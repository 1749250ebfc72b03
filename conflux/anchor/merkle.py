"""Merkle hash trees of RFC 6962 §2.1, with SHA-256: one signature over the root signs each leaf.

A leaf and a node hash differently (§2.1), so no node passes for a leaf. Whoever gets one leaf and
its audit path learns nothing of the others but their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from conflux.api import WireError


class Tree:
    """The tree over *leaves*, at least one. Hashes each leaf and node once."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a tree has at least one leaf")
        level = [_leaf_hash(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            # An odd one moves up as it is: the same as splitting at powers of two (§2.1).
            pairs = zip(level[::2], level[1::2], strict=False)
            above = [_node_hash(left, right) for left, right in pairs]
            level = above + level[len(level) & ~1 :]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """Return the audit path of the leaf at *index* (§2.1.1), nearest first."""
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index >>= 1
        return path


def root_of(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root of the tree of *size* leaves that *path* leads to from *leaf* at *index*.

    Raises WireError if no path of that length belongs to that place.
    """
    node, last = _leaf_hash(leaf), size - 1
    if not 0 <= index <= last:
        raise WireError("audit path of no leaf")
    steps = iter(path)
    try:
        while last:
            if index & 1:
                node = _node_hash(next(steps), node)
            elif index < last:
                node = _node_hash(node, next(steps))
            index, last = index >> 1, last >> 1
    except StopIteration:
        raise WireError("audit path too short") from None
    if next(steps, None) is not None:
        raise WireError("audit path too long")
    return node


def _leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
