"""What travels inside streams, read a second time: report.md §1, packet-auth.md §2 and §3.

As `second_decoder.py`: from the documents, with the standard library alone, BLAKE3 included.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from second_decoder import HASH, SIGNATURE, Fields, Values, require, sha256, whole

DIGEST = 32


# report.md §1


def report(data: bytes) -> Values:
    return whole(data, _report)


def _report(f: Fields) -> Values:
    stream, highest, held, bitmap = f.raw(8), f.u(64), f.u(32), f.vec(16)
    require(highest, "highest 0")
    require(1 <= len(bitmap) <= 1_024, "bitmap of an impossible length")
    first = 8 * (highest // 8 - len(bitmap) + 1)
    require(first >= 0, "bitmap begins below counter 0")
    arrived = [
        first + 8 * at + bit
        for at, byte in enumerate(bitmap)
        for bit in range(8)
        if byte >> bit & 1
    ]
    require(arrived and arrived[-1] == highest, "the last bit is not the highest counter's")
    require(arrived[0] != 0, "a bit for counter 0")
    return {
        "stream_id": stream.hex(),
        "highest": highest,
        "held_us": held,
        "first": first,
        "arrived": arrived,
    }


# packet-auth.md §2, §3


def packet_auth(data: bytes) -> Values:
    return whole(data, _packet_auth)


def _packet_auth(f: Fields) -> Values:
    f.one_of(8, 1)
    kind = f.one_of(8, 16, 17, 18, 19)
    if kind == 16:
        return {"kind": kind, **_checkpoint(f)}
    values: Values = {"kind": kind, "stream_id": f.raw(8).hex()}
    if kind == 17:
        return values | {"first": f.u(64)}
    if kind == 18:
        first, counters = _counters(f)
        return values | {"first": first, "counters": counters}
    return values | _digests(f)


def _checkpoint(f: Fields) -> Values:
    told = leaf(f.vec(16))
    index, size = f.u(16), f.u(16)
    require(index < size <= 256, "place outside of the tree")
    path = f.list(8, lambda: f.raw(HASH).hex(), most=8)
    signature = f.raw(SIGNATURE).hex()
    digests = f.list(16, lambda: f.raw(DIGEST).hex(), most=256)
    require(not digests or len(digests) == len(told["counters"]), "digests of other frames")
    return {
        "leaf": told,
        "index": index,
        "size": size,
        "path": path,
        "signature": signature,
        "digests": digests,
    }


def leaf(data: bytes) -> Values:
    return whole(data, _leaf)


def _leaf(f: Fields) -> Values:
    transcript, stream = f.raw(HASH).hex(), f.raw(8).hex()
    first, counters = _counters(f)
    require(counters[0] == first, "the first bit is not set")
    return {
        "transcript": transcript,
        "stream_id": stream,
        "counters": counters,
        "digests_hash": f.raw(HASH).hex(),
    }


def leaf_of(message: bytes) -> bytes:
    """The leaf of a CHECKPOINT as it was signed."""
    return Fields(message[2:]).vec(16)


def _counters(f: Fields) -> tuple[int, list[int]]:
    first, bitmap = f.u(64), f.vec(16)
    require(1 <= len(bitmap) <= 512 and bitmap[-1], "set of counters of an impossible length")
    require(first >= 1 and first + 8 * len(bitmap) < 1 << 64, "counter out of range")
    bits = "".join(f"{byte:08b}" for byte in bitmap)
    return first, [first + at for at, bit in enumerate(bits) if bit == "1"]


def _digests(f: Fields) -> Values:
    first = f.u(64)
    given = f.list(16, lambda: (f.u(16), f.raw(DIGEST).hex()), most=256)
    offsets = [offset for offset, _ in given]
    require(offsets, "no digests")
    require(offsets == sorted(set(offsets)) and offsets[-1] < 4_096, "offsets out of order")
    return {"first": first, "digests": {str(first + at): digest for at, digest in given}}


def digests_hash(digests: Sequence[bytes]) -> bytes:
    return sha256(b"".join(digests))


def frame_digest(message: bytes) -> bytes:
    """§2: of a message of the datagram lane, without its outer header of 8 bytes."""
    body = message[8:]
    if len(body) <= 8_192:
        return blake3(body)
    blocks = (len(body) + 2 + 16_383) // 16_384
    return blake3(body.ljust(blocks * 16_384 - 2, b"\0") + len(body).to_bytes(2, "big"))


def signed_bytes(told: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """§2: what the signature covers; the root by RFC 9162 §2.1.3.2, whose trees are RFC 6962's."""
    node, at, last = sha256(b"\0" + told), index, size - 1
    for step in path:
        require(last, "audit path too long")
        if at & 1 or at == last:
            node = sha256(b"\1" + step + node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = sha256(b"\1" + node + step)
        at, last = at >> 1, last >> 1
    require(not last, "audit path too short")
    return size.to_bytes(2, "big") + node


# BLAKE3 (its specification, §2): a hash of 32 bytes, without key


_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_CHUNK_BYTES, _BLOCK_BYTES = 1_024, 64
_MASK = 0xFFFFFFFF

Words = tuple[int, ...]


def blake3(data: bytes) -> bytes:
    return struct.pack("<8L", *_subtree(data, 0, _ROOT))


def _subtree(data: bytes, chunk: int, root: int) -> Words:
    """The chaining value of *data*, whose first chunk is number *chunk*."""
    if len(data) <= _CHUNK_BYTES:
        return _chunk(data, chunk, root)
    # The left subtree has the greatest power of two of chunks that leaves something to the right.
    left = 1 << ((len(data) - 1) // _CHUNK_BYTES).bit_length() - 1
    at = left * _CHUNK_BYTES
    words = _subtree(data[:at], chunk, 0) + _subtree(data[at:], chunk + left, 0)
    return _compress(_IV, words, 0, _BLOCK_BYTES, _PARENT | root)


def _chunk(data: bytes, number: int, root: int) -> Words:
    value: Words = _IV
    blocks = [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)] or [b""]
    for at, block in enumerate(blocks):
        flags = _CHUNK_START if at == 0 else 0
        if at == len(blocks) - 1:
            flags |= _CHUNK_END | root
        words = struct.unpack("<16L", block.ljust(_BLOCK_BYTES, b"\0"))
        value = _compress(value, words, number, len(block), flags)
    return value


def _compress(value: Words, words: Words, counter: int, size: int, flags: int) -> Words:
    state = [*value, *_IV[:4], counter & _MASK, counter >> 32, size, flags]
    for turn in range(7):
        for at, quarter in enumerate(_COLUMNS + _DIAGONALS):
            _mix(state, quarter, words[2 * at], words[2 * at + 1])
        if turn < 6:
            words = tuple(words[at] for at in _PERMUTATION)
    return tuple(state[at] ^ state[at + 8] for at in range(8))


def _mix(state: list[int], quarter: Words, x: int, y: int) -> None:
    a, b, c, d = quarter
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        state[a] = state[a] + state[b] + word & _MASK
        state[d] = _rotated(state[d] ^ state[a], first)
        state[c] = state[c] + state[d] & _MASK
        state[b] = _rotated(state[b] ^ state[c], second)


def _rotated(word: int, by: int) -> int:
    return word >> by | word << 32 - by & _MASK
