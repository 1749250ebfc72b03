"""wintun.dll 0.14.1: where it is, whether it is the one that we know, its functions (wintun.h).

It runs with the rights of the node, those of the system account: only a file of known digest is
loaded, and what it needs in turn from the system's folder alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import sysconfig
from ctypes import POINTER, c_uint32, c_uint64, c_void_p, c_wchar_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conflux.api import Unavailable

CARRIER = "pytun_pmd3"
"""The package that has the four DLLs of the project's own archive, each as it is signed there."""

DIGESTS = {
    "win-amd64": ("amd64", "e5da8447dc2c320edc0fc52fa01885c103de8c118481f683643cacc3220dafce"),
    "win-arm64": ("arm64", "f7ba89005544be9d85231a9e0d5f23b2d15b3311667e2dad0debd344918a3f80"),
    "win32": ("x86", "d694fa46ab4cfebcb2632d094c7aa97278eef2f8052438621766d863ae98a931"),
}
"""By the platform of this Python: the folder in the package, and SHA-256 of Wintun 0.14.1."""

REMEDY = "`pip install --force-reinstall pytun-pmd3==3.0.3`"


def find(platform: str = "") -> Path:
    """Return where the DLL of the package is. Raises Unavailable if it lacks or is another one.

    *platform* is that of the process (sysconfig.get_platform).
    """
    platform = platform or sysconfig.get_platform()
    if platform not in DIGESTS:
        raise Unavailable(f"there is no wintun.dll for {platform}: use a 64-bit Python")
    folder, digest = DIGESTS[platform]
    path = _in_package(folder)
    if path is None:
        raise Unavailable(f"wintun.dll is missing: {REMEDY}")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
    if found != digest:
        raise Unavailable(f"{path} is not the signed DLL of Wintun 0.14.1: {REMEDY}")
    return path


def _in_package(folder: str) -> Path | None:
    spec = importlib.util.find_spec(CARRIER)  # finds a package without running its code
    for where in (spec and spec.submodule_search_locations) or ():
        path = Path(where, "wintun", "bin", folder, "wintun.dll")
        if path.is_file():
            return path
    return None


# Result and arguments of each function that is called, in the order of wintun.h. The DLL's licence
# permits the use of that header's interface and of nothing else.
_ADAPTER = _SESSION = _HANDLE = _PACKET = c_void_p
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "WintunCreateAdapter": (_ADAPTER, [c_wchar_p, c_wchar_p, c_void_p]),
    "WintunCloseAdapter": (None, [_ADAPTER]),
    "WintunGetAdapterLUID": (None, [_ADAPTER, POINTER(c_uint64)]),
    "WintunStartSession": (_SESSION, [_ADAPTER, c_uint32]),
    "WintunEndSession": (None, [_SESSION]),
    "WintunGetReadWaitEvent": (_HANDLE, [_SESSION]),
    "WintunReceivePacket": (_PACKET, [_SESSION, POINTER(c_uint32)]),
    "WintunReleaseReceivePacket": (None, [_SESSION, _PACKET]),
    "WintunAllocateSendPacket": (_PACKET, [_SESSION, c_uint32]),
    "WintunSendPacket": (None, [_SESSION, _PACKET]),
}

RING_BYTES = 0x400000
"""Of each direction: a power of two, 128 kB to 64 MB (wintun.h). 4 MB hold 32 ms at 1 Gbit/s."""

# winerror.h
ERROR_ACCESS_DENIED = 5
ERROR_HANDLE_EOF = 38
ERROR_BUFFER_OVERFLOW = 111
ERROR_NO_MORE_ITEMS = 259

NO_ADMIN = "no right to make network interfaces: run as administrator"
LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800  # libloaderapi.h


def load(path: Path) -> Any:
    """Return the functions of PROTOTYPES by name. Raises Unavailable."""
    try:
        dll = ctypes.WinDLL(str(path), use_last_error=True, winmode=LOAD_LIBRARY_SEARCH_SYSTEM32)
        return bind(dll, PROTOTYPES)
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from None


def check_rights() -> None:
    """Raise Unavailable unless this process may make an interface."""
    if not ctypes.windll.shell32.IsUserAnAdmin():
        raise Unavailable(NO_ADMIN)


def bind(dll: Any, prototypes: dict[str, tuple[Any, list[Any]]]) -> Any:
    """Return the functions of *dll* with their types set. Raises AttributeError if one lacks."""
    functions = {}
    for name, (result, arguments) in prototypes.items():
        function = getattr(dll, name)
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    return SimpleNamespace(**functions)
