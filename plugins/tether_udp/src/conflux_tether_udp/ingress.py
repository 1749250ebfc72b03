"""From a batch of datagrams to tethers: runs of one message each, told apart by their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conflux_tether_udp.datagram import HEADER, HEADER_BYTES, run_length, split_tail
from conflux_tether_udp.paths import Path

Take = Callable[[memoryview, int, int, int, int, int, memoryview, int, Path, float], None]
"""`Hop.receive`."""


def distribute(
    headers: memoryview,
    pieces: memoryview,
    size: int,
    each: int,
    count: int,
    path: Path,
    now: float,
    takers: Mapping[bytes, Take | None],
) -> int:
    """Hand every run of a batch to its tether; return how many datagrams had none.

    The batch has *size* bytes in *count* datagrams of *each* bytes, the last one maybe shorter;
    its headers lie in *headers*, the rest in *pieces*. What is no datagram of ours is passed over.
    """
    if size - (count - 1) * each <= HEADER_BYTES:
        count -= 1  # the last one is too short for a header and a piece
    piece_bytes = each - HEADER_BYTES
    end = min(size, count * each) - count * HEADER_BYTES
    at = strangers = 0
    while at < count:
        start = at * HEADER_BYTES
        receiver, high, low, first, last = HEADER.unpack_from(headers, start)
        take = takers.get(receiver)
        kind, index = split_tail(first, last)
        run = 1
        if take is None:
            strangers += 1
        elif kind >= 0:
            if last:
                run = run_length(headers, at, count, index, last)
            take(
                headers[start : start + HEADER_BYTES],
                high << 32 | low,
                kind,
                index,
                last,
                run,
                pieces[at * piece_bytes : min((at + run) * piece_bytes, end)],
                piece_bytes,
                path,
                now,
            )
        at += run
    return strangers
