"""Finds liboqs, the C library, and only then imports liboqs-python.

Importing liboqs-python without the library starts `git clone` and a build, and ends the process
with SystemExit if that fails; on the way it prints to standard output. So the library is looked
for, loaded and questioned here first, and liboqs-python is told its name when it asks for one: what
loads here loads there, and the import never gets as far as a download.

No other program is started to find it: `ctypes.util.find_library`, which both would use, may run
ldconfig, gcc and ld, and a node runs as root.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from conflux.api import Unavailable, named_libraries

KEM = "ML-KEM-768"
SIGNATURE = "ML-DSA-65"

INSTALL_PATH = "OQS_INSTALL_PATH"
"""The variable by which liboqs-python is told where liboqs was installed."""

_ADVICE = f"install liboqs 0.16 or newer, or name its folder in {INSTALL_PATH}"


_CASES = Path(__file__).with_name("self_test.json")

_SONAMES = ("liboqs.so", *(f"liboqs.so.{number}" for number in range(8, 24)))
"""What the loader may know, from liboqs 0.14 on: it searches itself, and quickly."""


def locate() -> str:
    """Return the path or soname of a liboqs with both algorithms.

    Raises Unavailable, saying what was wrong where.
    Looks in OQS_INSTALL_PATH, else in the Python environment's own folder `liboqs` (where
    tools/build-liboqs puts it) and in `~/_oqs`, then where the system keeps libraries.
    """
    reasons = []
    for candidate in _candidates():
        reason = _load_fault(candidate)
        if reason is None:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise Unavailable(f"{'; '.join(reasons) or 'liboqs was not found'}: {_ADVICE}")


def import_oqs() -> ModuleType:
    """Import liboqs-python, quietly. Raises Unavailable if it cannot be or liboqs is not there."""
    liboqs = locate()
    # Its logger gets a handler on standard output, which belongs to `--json` here.
    logging.getLogger("oqs.oqs").disabled = True
    with named_libraries({"oqs": liboqs, "liboqs": None}), warnings.catch_warnings():
        # It warns of any other version than its own; the driver checks what matters.
        warnings.simplefilter("ignore", UserWarning)
        try:
            import oqs
        except (ImportError, AttributeError, RuntimeError, SystemExit) as error:
            raise Unavailable(
                f"liboqs-python does not run with {liboqs} ({error}): {_ADVICE}"
            ) from error
    module: ModuleType = oqs
    return module


def fault(library: ctypes.CDLL) -> str | None:
    """Return in a few words why *library* cannot serve, None if it can. Takes 1 ms."""
    # By item, not by attribute: these function objects are nobody else's.
    try:
        if not library["OQS_KEM_alg_is_enabled"](KEM.encode()):
            return f"built without {KEM}"
        if not library["OQS_SIG_alg_is_enabled"](SIGNATURE.encode()):
            return f"built without {SIGNATURE}"
        supports = library["OQS_SIG_supports_ctx_str"]
    except AttributeError:
        return "older than 0.14"
    supports.restype = ctypes.c_bool
    if not supports(SIGNATURE.encode()):
        return f"{SIGNATURE} without context strings"
    return _verify_fault(library)


def _candidates() -> Iterator[str]:
    for prefix in _prefixes():
        for path in _files(prefix):
            if path.exists():
                yield str(path)
    if sys.platform == "linux":
        yield from filter(_is_known, _SONAMES)
    elif name := ctypes.util.find_library("oqs"):  # macOS, Windows: it starts nothing
        yield name


def _is_known(soname: str) -> bool:
    """Tell whether the loader finds it. An unfit one stays loaded: that is harmless."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def _prefixes() -> list[Path]:
    if named := os.environ.get(INSTALL_PATH):
        return [Path(named)]
    prefixes = [Path(sys.prefix) / "liboqs", Path.home() / "_oqs"]
    # Root must not load code from a home that its environment names and somebody else owns.
    return [prefix for prefix in prefixes if not _is_foreign(prefix)]


def _is_foreign(prefix: Path) -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        return prefix.stat().st_uid != 0
    except OSError:
        return False


def _files(prefix: Path) -> list[Path]:
    """Where liboqs lies below the folder that it was installed to."""
    if sys.platform == "win32":
        return [prefix / "bin" / "oqs.dll", prefix / "bin" / "liboqs.dll"]
    name = "liboqs.dylib" if sys.platform == "darwin" else "liboqs.so"
    return [prefix / "lib" / name, prefix / "lib64" / name]


def _load_fault(name: str) -> str | None:
    try:
        return fault(ctypes.CDLL(name))
    except OSError as error:
        return str(error)


def _verify_fault(library: ctypes.CDLL) -> str | None:
    """Hold the verifier against two published cases that some versions of liboqs get wrong.

    The AVX2 code of older ones (0.13 was tried) takes signatures whose z is too large (FIPS 204
    §6.3) and refuses some good ones: pq-crystals/dilithium issue 113.
    """
    new, verify, free = library["OQS_SIG_new"], library["OQS_SIG_verify"], library["OQS_SIG_free"]
    new.restype = ctypes.c_void_p
    scheme = ctypes.c_void_p(new(SIGNATURE.encode()))
    try:
        for case in json.loads(_CASES.read_bytes())["cases"]:
            public, message, signature = (bytes.fromhex(case[k]) for k in ("public", "msg", "sig"))
            sizes = ctypes.c_size_t(len(message)), ctypes.c_size_t(len(signature))
            status = verify(scheme, message, sizes[0], signature, sizes[1], public)
            if (status == 0) != case["valid"]:
                return "its ML-DSA-65 verifier is faulty (pq-crystals/dilithium issue 113)"
    finally:
        free(scheme)
    return None
