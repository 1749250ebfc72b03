"""Cutting bursts into superframes (docs/protocol/frame.md §3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conflux.api import Layout
from conflux.wire.frame import SIZE, records
from conflux.wire.segment import split

Run = list[int]
"""[start, end] of whole records, side by side in a burst."""


def add(runs: list[Run], start: int, end: int) -> None:
    """Add a record, which stands behind those of *runs*."""
    if runs and runs[-1][1] == start:
        runs[-1][1] = end
    else:
        runs.append([start, end])


def superframes(burst: memoryview, runs: Sequence[Run], limit_bytes: int) -> Iterator[memoryview]:
    """Yield the records in *runs* of *burst*, in order, as superframes of at most *limit_bytes*.

    *burst* is a layout byte and records, runs ascend. A record that stands for several packets
    becomes several if it is longer; one packet alone is yielded even if it is longer.

    Records that lie side by side stay where they are: the byte before them, which belongs to
    another record, is their layout until the next superframe is asked for. So each is valid until
    then, *burst* must be writable, and is in the end what it was.
    """
    if len(runs) == 1 and runs[0][0] == 1 and runs[0][1] <= limit_bytes:
        yield burst[: runs[0][1]]  # by far the most bursts are for one peer
        return
    for chunk, size in _chunks(burst, runs, limit_bytes):
        start, end = chunk[0][0], chunk[-1][1]
        if size > limit_bytes and burst[0] == Layout.VIRTIO:
            for body in split(burst[start + SIZE.size : end], limit_bytes - 1 - SIZE.size):
                yield memoryview(b"".join((burst[:1], SIZE.pack(len(body)), body)))
        elif size != 1 + end - start:
            yield memoryview(b"".join((burst[:1], *(burst[a:b] for a, b in chunk))))
        else:
            before, burst[start - 1] = burst[start - 1], burst[0]
            try:
                yield burst[start - 1 : end]
            finally:
                burst[start - 1] = before


def _chunks(
    burst: memoryview, runs: Sequence[Run], limit_bytes: int
) -> Iterator[tuple[list[Run], int]]:
    """Yield what goes into one superframe, and its size: over the limit if it is one record."""
    chunk: list[Run] = []
    size = 1
    for run in runs:
        start, end = run
        if size + end - start <= limit_bytes:
            chunk.append(run)
            size += end - start
            continue
        for record, _, after in records(burst, start, end):
            if size + after - record > limit_bytes and chunk:
                yield chunk, size
                chunk, size = [], 1
            add(chunk, record, after)
            size += after - record
    if chunk:
        yield chunk, size
