"""Fields of the presentation language of docs/protocol/encoding.md: big-endian integers, raw runs
of known length, and runs behind a length of 1 or 2 bytes."""

from __future__ import annotations

from conflux.api import Buffer, WireError


class Writer:
    """Appends fields; `done` returns the bytes. ValueError for a value that does not fit."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = bytearray()

    def uint(self, value: int, size: int) -> Writer:
        try:
            self._parts += value.to_bytes(size, "big")
        except OverflowError:
            raise ValueError(f"{value} does not fit in {size} bytes") from None
        return self

    def u8(self, value: int) -> Writer:
        return self.uint(value, 1)

    def u16(self, value: int) -> Writer:
        return self.uint(value, 2)

    def u32(self, value: int) -> Writer:
        return self.uint(value, 4)

    def u64(self, value: int) -> Writer:
        return self.uint(value, 8)

    def raw(self, value: Buffer, size: int | None = None) -> Writer:
        """Append *value* bare; a *size* is the length that it must have."""
        if size is not None and len(value) != size:
            msg = f"field of {len(value)} bytes where {size} belong"
            raise ValueError(msg)
        self._parts += value
        return self

    def vec8(self, value: Buffer) -> Writer:
        return self.u8(len(value)).raw(value)

    def vec16(self, value: Buffer) -> Writer:
        return self.u16(len(value)).raw(value)

    def text8(self, value: str) -> Writer:
        return self.vec8(value.encode())

    def text16(self, value: str) -> Writer:
        return self.vec16(value.encode())

    def done(self) -> bytes:
        return bytes(self._parts)


class Reader:
    """Takes fields off the front. `end` insists that nothing is left: no message has a tail."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: Buffer) -> None:
        self._data = bytes(data)
        self._at = 0

    def raw(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise WireError("message shorter than its fields")
        return self._data[start : self._at]

    def uint(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "big")

    def u8(self) -> int:
        return self.uint(1)

    def u16(self) -> int:
        return self.uint(2)

    def u32(self) -> int:
        return self.uint(4)

    def u64(self) -> int:
        return self.uint(8)

    def vec8(self) -> bytes:
        return self.raw(self.u8())

    def vec16(self) -> bytes:
        return self.raw(self.u16())

    def text8(self) -> str:
        return _text(self.vec8())

    def text16(self) -> str:
        return _text(self.vec16())

    def rest(self) -> bytes:
        return self.raw(len(self._data) - self._at)

    @property
    def at(self) -> int:
        """How many bytes have been taken."""
        return self._at

    def end(self) -> None:
        if self._at != len(self._data):
            raise WireError("message longer than its fields")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WireError("text is not UTF-8") from None
