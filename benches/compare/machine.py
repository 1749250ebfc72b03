"""Facts of the machine that a reader needs to judge figures."""

from __future__ import annotations

import os
import platform
import re
import ssl
import time
from importlib.metadata import version
from pathlib import Path

from benches.compare import meters

LOOK_S = 1.0


def facts() -> dict[str, str]:
    """By name, in the order of the page."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": kernel(),
        "system": _system(),
        "Python": platform.python_version(),
        "cryptography": f"{version('cryptography')}, {_openssl()}",
    }


def kernel() -> str:
    """Without what distributors append."""
    return "Linux " + "".join(re.findall(r"^[\d.]*\d", platform.release()))


def busy() -> float:
    """Share of the processors that something took during one second."""
    before, began = meters.machine_cpu_s(), time.perf_counter()
    time.sleep(LOOK_S)
    took = meters.machine_cpu_s() - before
    return took / (time.perf_counter() - began) / (os.cpu_count() or 1)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _openssl() -> str:
    """That of the library which encrypts, not Python's own."""
    try:
        from cryptography.hazmat.backends.openssl.backend import backend

        return str(backend.openssl_version_text())
    except ImportError:
        return ssl.OPENSSL_VERSION
