"""What we use of aiortc, imported without its media side.

`import aiortc` brings PyAV, and with it FFmpeg: 17 MB of memory, 127 MB on disk, and decoders of
foreign media in a process with privileges, none of which a data channel needs. So placeholders
stand for PyAV while aiortc is imported, and are gone afterwards: whoever imports `av` later gets
the real one. If somebody imported `av` or aiortc before, that is what we get; and PyAV it is, where
a release of aiortc cannot be imported so.

Other modules of this package import aiortc's names from here, and from nowhere else.
"""

from __future__ import annotations

import importlib
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


def _import_aiortc() -> None:
    """Import all of aiortc: without PyAV or, should a release need it at import, with it."""
    try:
        with _without_media():
            importlib.import_module("aiortc")
    except Exception:  # noqa: BLE001 (whatever a class that cannot be made leads to)
        for name in [name for name in sys.modules if name.partition(".")[0] == "aiortc"]:
            del sys.modules[name]
        importlib.import_module("aiortc")


_import_aiortc()

from aiortc.rtcdtlstransport import (  # noqa: E402 (that is the point)
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    State,
)
from aiortc.rtcicetransport import (  # noqa: E402
    RTCIceGatherer,
    RTCIceParameters,
    RTCIceTransport,
    parse_stun_turn_uri,
)
from aiortc.rtcsctptransport import (  # noqa: E402
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
