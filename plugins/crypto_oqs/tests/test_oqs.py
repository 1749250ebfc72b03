"""What the contract leaves to this plugin: finding liboqs without a download, and wiping keys."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conflux.api import Unavailable
from conflux_crypto_oqs import library
from conflux_crypto_oqs.driver import OqsCrypto
from conflux_crypto_oqs.plugin import conflux_crypto_driver


@pytest.fixture
def oqs() -> OqsCrypto:
    try:
        return OqsCrypto({})
    except Unavailable as error:
        pytest.skip(f"{error}; plugins/crypto_oqs/tools/build-liboqs builds it")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the only place where liboqs may be looked for."""
    monkeypatch.setenv(library.INSTALL_PATH, str(tmp_path))
    monkeypatch.setattr(library, "_SONAMES", ())
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    return tmp_path


def test_description_names_this_driver() -> None:
    info = conflux_crypto_driver()
    assert (info.name, info.priority, info.api) == ("oqs", 60, (1, 0))
    assert info.target == f"{OqsCrypto.__module__}:{OqsCrypto.__qualname__}"
    assert info.probe is not None


# Finding


def test_no_library_is_unavailable_and_says_how_to_get_one(nowhere: Path) -> None:
    with pytest.raises(Unavailable, match=r"not found: install liboqs .* OQS_INSTALL_PATH"):
        library.locate()


def test_without_the_library_nothing_is_downloaded_and_no_program_is_started(
    tmp_path: Path,
) -> None:
    """In a process of its own: neither `git` nor `cmake`, nor those of `find_library`."""
    code = """
import os, sys
sys.addaudithook(lambda event, args: os._exit(9) if event == "subprocess.Popen" else None)
from conflux_crypto_oqs import library
library._SONAMES = ("liboqs-that-is-not-there.so",)
from conflux.api import Unavailable
from conflux_crypto_oqs.driver import OqsCrypto
try:
    OqsCrypto({})
except Unavailable:
    sys.exit(7 if "oqs" in sys.modules else 0)
sys.exit(8)
"""
    environment = {**os.environ, "HOME": str(tmp_path), library.INSTALL_PATH: "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_file_that_is_no_library_is_unavailable(nowhere: Path) -> None:
    (nowhere / "lib").mkdir()
    (nowhere / "lib" / "liboqs.so").write_bytes(b"not a library")
    with pytest.raises(Unavailable, match=r"liboqs\.so: "):
        library.locate()


def test_library_without_the_functions_is_too_old(nowhere: Path) -> None:
    (nowhere / "lib64").mkdir()
    libm = _loaded_file("libm")
    (nowhere / "lib64" / "liboqs.so").symlink_to(libm)
    with pytest.raises(Unavailable, match="older than"):
        library.locate()


def test_found_library_is_the_one_in_the_named_folder(oqs: OqsCrypto, nowhere: Path) -> None:
    found = Path(_loaded_file("liboqs"))
    (nowhere / "lib").mkdir()
    (nowhere / "lib" / "liboqs.so").symlink_to(found)
    assert library.locate() == str(nowhere / "lib" / "liboqs.so")


def test_library_that_only_the_loader_knows_is_found_by_its_soname(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_SONAMES", ("libnone.so.1", Path(_loaded_file("libc")).name))
    with pytest.raises(Unavailable, match=r"^libc\.so\.6: older than"):
        library.locate()


def test_import_prints_nothing_starts_nothing_and_leaves_all_as_it_was(oqs: OqsCrypto) -> None:
    code = """
import ctypes.util, os, sys
sys.addaudithook(lambda event, args: os._exit(9) if event == "subprocess.Popen" else None)
search, before = ctypes.util.find_library, dict(os.environ)
from conflux_crypto_oqs.driver import OqsCrypto
OqsCrypto({})
assert (ctypes.util.find_library, dict(os.environ)) == (search, before)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


class ForeignLibrary:
    """Stands in for a C library: its functions by name. No faulty liboqs can be kept around."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self._functions = {
            "OQS_KEM_alg_is_enabled": lambda name: 1,
            "OQS_SIG_alg_is_enabled": lambda name: 1,
            "OQS_SIG_supports_ctx_str": lambda name: True,
            "OQS_SIG_new": lambda name: 1,
            "OQS_SIG_free": lambda scheme: None,
            **functions,
        }

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._functions[name]


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ({"OQS_KEM_alg_is_enabled": lambda name: 0}, "without ML-KEM-768"),
        ({"OQS_SIG_alg_is_enabled": lambda name: 0}, "without ML-DSA-65"),
        ({"OQS_SIG_supports_ctx_str": lambda name: False}, "context"),
        ({"OQS_SIG_verify": lambda *arguments: 0}, "verifier is faulty"),
        ({"OQS_SIG_verify": lambda *arguments: -1}, "verifier is faulty"),
    ],
    ids=["no ML-KEM", "no ML-DSA", "no contexts", "takes all", "refuses all"],
)
def test_library_that_cannot_serve_is_told_by_its_fault(
    functions: dict[str, Callable[..., Any]], reason: str
) -> None:
    fault = library.fault(ForeignLibrary(**functions))  # type: ignore[arg-type]
    assert fault is not None
    assert reason in fault


def test_real_library_has_no_fault(oqs: OqsCrypto) -> None:
    assert library.fault(oqs._oqs.native()) is None


# Wiping


def test_erase_overwrites_the_private_keys(oqs: OqsCrypto) -> None:
    key, signer = oqs.generate_kem(), oqs.generate_signer()
    for secret, erase in (
        (key._kem.secret_key, key.erase),
        (signer._signature.secret_key, signer.erase),
    ):
        assert any(secret.raw)
        erase()
        assert not any(secret.raw)


def test_forgotten_keys_are_overwritten_when_they_are_collected(oqs: OqsCrypto) -> None:
    key, signer = oqs.generate_kem(), oqs.generate_signer()
    secrets = [key._kem.secret_key, signer._signature.secret_key]
    del key, signer
    gc.collect()
    assert not any(any(secret.raw) for secret in secrets)


def test_erased_keys_are_of_no_use(oqs: OqsCrypto) -> None:
    key, signer = oqs.generate_kem(), oqs.generate_signer()
    _, ciphertext = oqs.encapsulate(key.public)
    key.erase()
    signer.erase()
    with pytest.raises(ValueError, match="erased"):
        key.decapsulate(ciphertext)
    with pytest.raises(ValueError, match="erased"):
        signer.sign(b"m", b"c")


def _loaded_file(name: str) -> str:
    """The path of a shared library that this process has loaded."""
    ctypes.CDLL("libm.so.6")
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if os.path.basename(path).startswith(f"{name}.so"):
            return path
    pytest.fail(f"{name} is not loaded")
