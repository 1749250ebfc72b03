"""Receiver reports (docs/protocol/report.md): which frames of a stream have arrived.

    report := stream id (8) ‖ highest (8) ‖ held (4) ‖ bitmap (2 + n)

Bit c & 7 of a bitmap's byte stands for counter c; its last byte is the one of the highest counter,
so bytes line up with those of the replay window and are copied, not computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from conflux.api import Buffer, WireError
from conflux.wire.codec import Reader, Writer

MAX_BITMAP_BYTES = 1_024
MAX_HELD_US = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Report:
    """Says nothing about counters below `first` or above `highest`, which itself has arrived."""

    stream_id: int
    highest: int
    held_us: int
    """How long ago `highest` came in when the report was made, in microseconds."""
    bitmap: bytes

    @property
    def first(self) -> int:
        """The counter of the bitmap's first bit."""
        return ((self.highest >> 3) - len(self.bitmap) + 1) << 3

    def has(self, counter: int) -> bool:
        """Tell whether *counter*, from `first` to `highest`, has arrived."""
        return bool(self.bitmap[(counter - self.first) >> 3] >> (counter & 7) & 1)

    def encode(self) -> bytes:
        out = Writer().u64(self.stream_id).u64(self.highest).u32(self.held_us)
        return out.vec16(self.bitmap).done()

    @classmethod
    def decode(cls, data: Buffer) -> Report:
        """Raises WireError."""
        take = Reader(data)
        report = cls(take.u64(), take.u64(), take.u32(), take.vec16())
        take.end()
        size = len(report.bitmap)
        if not report.highest or not 1 <= size <= MAX_BITMAP_BYTES or report.first < 0:
            raise WireError("report about an impossible range")
        # No bit above the highest counter, and that one set: each report has one encoding.
        if report.bitmap[-1] >> (report.highest & 7) != 1 or (
            report.first == 0 and report.bitmap[0] & 1
        ):
            raise WireError("report that contradicts itself")
        return report
