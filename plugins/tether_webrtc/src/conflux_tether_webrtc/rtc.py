"""What we use of aiortc, imported without its media side.

`import aiortc` brings PyAV, and with it FFmpeg: 17 MB of memory, 127 MB on disk, and decoders of
foreign media in a process with privileges, none of which a data channel needs. So placeholders
stand for PyAV while aiortc is imported, and are gone afterwards: whoever imports `av` later gets
the real one. If somebody imported `av` or aiortc before, that is what we get.

Other modules of this package import aiortc's names from here, and from nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

MEDIA = "av"


class _Absent:
    """Stands for any class of PyAV: it can be named in an annotation, and not be made."""

    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise ImportError("aiortc was imported without PyAV: this process has no media")


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent


class _Finder(MetaPathFinder, Loader):
    """Finds PyAV's modules, and has nothing in them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != MEDIA:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


@contextmanager
def _without_media() -> Iterator[None]:
    if MEDIA in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == MEDIA]:
            del sys.modules[name]


with _without_media():
    from aiortc.rtcdtlstransport import (
        RTCCertificate,
        RTCDtlsFingerprint,
        RTCDtlsParameters,
        RTCDtlsTransport,
        State,
    )
    from aiortc.rtcicetransport import (
        RTCIceGatherer,
        RTCIceParameters,
        RTCIceTransport,
        parse_stun_turn_uri,
    )
    from aiortc.rtcsctptransport import (
        AbortChunk,
        Chunk,
        CookieAckChunk,
        CookieEchoChunk,
        ErrorChunk,
        HeartbeatChunk,
        InitAckChunk,
        InitChunk,
        RTCSctpCapabilities,
        RTCSctpTransport,
    )

__all__ = [
    "AbortChunk",
    "Chunk",
    "CookieAckChunk",
    "CookieEchoChunk",
    "ErrorChunk",
    "HeartbeatChunk",
    "InitAckChunk",
    "InitChunk",
    "RTCCertificate",
    "RTCDtlsFingerprint",
    "RTCDtlsParameters",
    "RTCDtlsTransport",
    "RTCIceGatherer",
    "RTCIceParameters",
    "RTCIceTransport",
    "RTCSctpCapabilities",
    "RTCSctpTransport",
    "State",
    "parse_stun_turn_uri",
]
