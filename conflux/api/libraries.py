"""Libraries for Python that look for a C library at import: they are told, and start nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def named_libraries(known: Mapping[str, str | None]) -> Iterator[None]:
    """Let `ctypes.util.find_library` answer from *known*, by name, as long as the block runs.

    For the import of a library that calls it: on Linux it may start ldconfig, gcc and ld, and a
    node runs as root. None says that there is none, which `CDLL(None)` takes for what is in this
    process already, libc among it. Whatever else is asked for goes to the function that was there.
    """
    import ctypes.util  # here: `--help` needs no ctypes

    former, answers = ctypes.util.find_library, dict(known)

    def find(name: str) -> str | None:
        return answers[name] if name in answers else former(name)

    ctypes.util.find_library = find
    try:
        yield
    finally:
        # Another thread may have put one of its own over ours meanwhile: it still needs that, and
        # then brings ours back, which has no answers of its own any more.
        answers.clear()
        if ctypes.util.find_library is find:
            ctypes.util.find_library = former
