"""The sections of `suite1.json` for what travels inside streams: REPORT and packet authentication.

`make.py` puts them into the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from make_values import Values, case, packet_auth_values, report_values

from conflux.anchor.handshake import Standing
from conflux.anchor.merkle import Tree
from conflux.anchor.notary import CONTEXT, digest_of, digests_hash
from conflux.wire.checkpoint import (
    AuthKind,
    Checkpoint,
    Covered,
    Digests,
    Leaf,
    Message,
    Wanted,
)
from conflux.wire.report import Report

TRANSCRIPT = bytes(range(32))
STREAM_ID = 0x1122334455667788
LONG = (8_200, 8_201, 16_390, 16_391, 16_392, 16_393, 62_442, 65_535)
"""Bytes of frames, outer header included, about where another block begins."""


# The sections of the file


def reports() -> list[Values]:
    made = [
        ("the worked example of report.md", Report(STREAM_ID, 19, 25_000, bytes.fromhex("feff0b"))),
        ("the first frame", Report(STREAM_ID, 1, 0, b"\x02")),
        ("a range far up, held for the longest", Report(1, 2**63, 2**32 - 1, b"\x80\x00\x01")),
    ]
    return [case(comment, r.encode(), report_values(r)) for comment, r in made]


def packet_auth(signer: Standing, frames: Sequence[Mapping[str, Any]]) -> Values:
    """Leaves over *frames*, whose stream is STREAM_ID, two leaves of others under one signature."""
    with_packets = [frame for frame in frames if not frame["values"]["control"]]
    counters = [frame["values"]["counter"] for frame in with_packets]
    digests = [digest_of(bytes.fromhex(frame["bytes"])) for frame in with_packets]
    leaf = Leaf(TRANSCRIPT, STREAM_ID, counters, digests_hash(digests))
    others = [Leaf(bytes(32), number, [number, number + 4_095], bytes(32)) for number in (1, 2)]
    leaves = [others[0], leaf, others[1]]
    tree = Tree([one.encode() for one in leaves])
    covered = len(leaves).to_bytes(2, "big") + tree.root
    signature = signer.identity.signer.sign(covered, CONTEXT)

    def checkpoint(at: int, inline: Sequence[bytes]) -> Checkpoint:
        return Checkpoint(leaves[at], at, len(leaves), tree.path(at), signature, inline)

    messages: list[tuple[str, Message]] = [
        ("CHECKPOINT with its digests", checkpoint(1, digests)),
        ("CHECKPOINT without, the tree's odd leaf", checkpoint(2, ())),
        ("COVERED", Covered(STREAM_ID, counters[0])),
        ("WANTED, of which the first is not", Wanted(STREAM_ID, counters[0], counters[1:])),
        ("DIGESTS", Digests(STREAM_ID, 1, dict(list(zip(counters, digests, strict=True))[1:]))),
    ]
    return {
        "comment": "packet-auth.md section 2 and 3; the digests are of `frames` without control",
        "ml_dsa_public": signer.identity.signer.public.hex(),
        "digests": [digest.hex() for digest in digests],
        "long_comment": "digests of a frame of so many bytes, of which byte i is i mod 251",
        "long": [{"size": size, "digest": digest_of(patterned(size)).hex()} for size in LONG],
        "signed": covered.hex(),
        "signed_sha256": hashlib.sha256(covered).hexdigest(),
        "messages": [
            case(comment, message.encode(), packet_auth_values(message))
            for comment, message in messages
        ],
    }


def patterned(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def refused() -> list[tuple[str, str, bytes]]:
    """(section, comment, bytes) of what a decoder must not let pass."""
    ids, head = bytes(7) + b"\x01", b"\x01"
    covered = head + bytes((AuthKind.COVERED,)) + ids + bytes(8)
    wanted = head + bytes((AuthKind.WANTED,)) + ids
    digests = head + bytes((AuthKind.DIGESTS,)) + ids + ids
    leaf = Leaf(bytes(32), 1, [1, 2], bytes(32)).encode()
    late = leaf.replace(b"\x00\x01\xc0", b"\x00\x01\x40")

    def checkpoint(leaf: bytes, index: int, size: int, path: int, inline: int) -> bytes:
        parts = (
            head + bytes((AuthKind.CHECKPOINT,)),
            len(leaf).to_bytes(2, "big") + leaf,
            index.to_bytes(2, "big") + size.to_bytes(2, "big"),
            bytes((path,)) + bytes(32 * path),
            bytes(3_309),
            inline.to_bytes(2, "big") + bytes(32 * inline),
        )
        return b"".join(parts)

    def report(highest: int, bitmap: bytes) -> bytes:
        return ids + highest.to_bytes(8, "big") + bytes(4) + len(bitmap).to_bytes(2, "big") + bitmap

    return [
        ("packet_auth", "version 2", b"\x02" + covered[1:]),
        ("packet_auth", "kind 15", b"\x01\x0f" + covered[2:]),
        ("packet_auth", "kind 20", b"\x01\x14" + covered[2:]),
        ("packet_auth", "a byte more", covered + b"\x00"),
        ("packet_auth", "a byte less", covered[:-1]),
        ("packet_auth", "empty set of counters", wanted + ids + b"\x00\x00"),
        ("packet_auth", "set that ends in a zero byte", wanted + ids + b"\x00\x02\x80\x00"),
        ("packet_auth", "set of 513 bytes", wanted + ids + b"\x02\x01" + b"\x80" * 513),
        ("packet_auth", "counter 0", wanted + bytes(8) + b"\x00\x01\x80"),
        ("packet_auth", "counter beyond 64 bits", wanted + b"\xff" * 8 + b"\x00\x01\x80"),
        ("packet_auth", "no digests", digests + b"\x00\x00"),
        ("packet_auth", "offsets that fall", digests + b"\x00\x02" + two_digests(1, 0)),
        ("packet_auth", "an offset twice", digests + b"\x00\x02" + two_digests(1, 1)),
        ("packet_auth", "offset 4,096", digests + b"\x00\x02" + two_digests(1, 4_096)),
        ("packet_auth", "257 digests", digests + b"\x01\x01" + many_digests(257)),
        ("packet_auth", "place behind the last", checkpoint(leaf, 2, 2, 1, 0)),
        ("packet_auth", "tree without a leaf", checkpoint(leaf, 0, 0, 0, 0)),
        ("packet_auth", "tree of 257 leaves", checkpoint(leaf, 0, 257, 8, 0)),
        ("packet_auth", "path of nine", checkpoint(leaf, 0, 256, 9, 0)),
        ("packet_auth", "one digest for two frames", checkpoint(leaf, 0, 1, 0, 1)),
        ("packet_auth", "leaf with a tail", checkpoint(leaf + b"\x00", 0, 1, 0, 0)),
        ("packet_auth", "leaf whose first is not set", checkpoint(late, 0, 1, 0, 0)),
        ("report", "highest 0", report(0, b"\x01")),
        ("report", "no bitmap", report(9, b"")),
        ("report", "bitmap of 1,025 bytes", report(9_000 * 8, bytes(1_024) + b"\x01")),
        ("report", "bitmap below counter 0", report(9, b"\x00\x00\x02")),
        ("report", "bit of counter 0", report(9, b"\x01\x02")),
        ("report", "the highest's bit not set", report(9, b"\x01")),
        ("report", "a bit above the highest", report(9, b"\x06")),
        ("report", "a byte more", report(9, b"\x02") + b"\x00"),
    ]


def two_digests(one: int, other: int) -> bytes:
    return b"".join(offset.to_bytes(2, "big") + bytes(32) for offset in (one, other))


def many_digests(count: int) -> bytes:
    return b"".join(offset.to_bytes(2, "big") + bytes(32) for offset in range(count))
