"""The daemon `org.veilnet.conflux` by way of launchctl(1) and launchd.plist(5).

Installed is the file in LaunchDaemons, which launchd loads at boot; running or failed is what
launchd has loaded; stopped is not loaded.
"""

from __future__ import annotations

import os
import plistlib
import re
import subprocess
import tempfile
import time
from pathlib import Path

from conflux.api import (
    ServiceDriver,
    ServiceState,
    ServiceUnit,
    Settings,
    Unavailable,
    UsageError,
)

LABEL = "org.veilnet.conflux"
FOLDER = Path("/Library/LaunchDaemons")
LOG = Path("/var/log/veilnet.log")
TARGET = f"system/{LABEL}"
PATIENCE_S = 60.0
STEADY_S = 3.0
"""launchd knows no readiness: a process that lives this long has come up."""
THROTTLE_S = 10
"""launchd's own least time between two starts."""


class LaunchdService(ServiceDriver):
    """Everything but `state` needs root."""

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path = FOLDER,
        log: Path = LOG,
        launchctl: str = "/bin/launchctl",
        steady_s: float = STEADY_S,
    ) -> None:
        if settings:
            raise UsageError(
                f"conflux.toml, [plugin.service.launchd]: no setting {next(iter(settings))!r}, "
                "there are none"
            )
        self._path = folder / f"{LABEL}.plist"
        self._log = log
        self._launchctl = launchctl
        self._steady_s = steady_s

    def check(self) -> None:
        if os.geteuid() != 0:
            raise Unavailable("a system service needs root: use sudo, or --foreground (-d)")
        if not os.access(self._path.parent, os.W_OK):
            raise Unavailable(f"{self._path.parent} cannot be written: make it writable")

    def install(self, unit: ServiceUnit) -> None:
        self.check()
        former = self._path.read_bytes() if self._path.exists() else None
        self.stop()
        try:
            self._unlink(self._torn())
            self._write(plist(unit, self._log))
            self._ask("enable", TARGET)
        except BaseException:
            if former is None:
                self._path.unlink(missing_ok=True)
            else:
                self._write(former)
            raise

    def start(self) -> None:
        if not self._path.exists():
            raise UsageError(
                "the service is not installed: run `veilnet-conflux register` or `up` first"
            )
        if self.state() is not ServiceState.RUNNING:
            self._unload()
            self._ask("bootstrap", "system", str(self._path))
        self._wait_until_steady()

    def stop(self) -> None:
        self._unload()

    def restart(self) -> None:
        self.stop()
        self.start()

    def state(self) -> ServiceState:
        shown = self._shown()
        if shown is None:
            return ServiceState.STOPPED if self._path.exists() else ServiceState.ABSENT
        if shown.get("state") == "running":
            return ServiceState.RUNNING
        ended = shown.get("last exit code", "")
        return ServiceState.STOPPED if ended in ("", "0", "(never exited)") else ServiceState.FAILED

    def remove(self) -> None:
        traces = [path for path in (self._path, self._log, *self._torn()) if path.exists()]
        if self._shown() is None and not traces:
            return
        self.check()
        self._unload()
        self._unlink(traces)

    def _torn(self) -> list[Path]:
        """What a killed `_write` left."""
        return list(self._path.parent.glob(f".{LABEL}.*"))

    def _unlink(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"{path} cannot be removed: {error.strerror}") from None

    def _wait_until_steady(self) -> None:
        """Raises UsageError if the process ends, or none is there in time."""
        ends, since, process = time.monotonic() + PATIENCE_S, time.monotonic(), ""
        while time.monotonic() < ends:
            shown = self._shown() or {}
            if shown.get("state") != "running":
                if shown.get("last exit code", "(never exited)") != "(never exited)":
                    break
            elif shown.get("pid", "") != process:
                since, process = time.monotonic(), shown.get("pid", "")
            elif time.monotonic() - since >= self._steady_s:
                return
            time.sleep(0.1)
        raise UsageError(f"the service did not come up: {self._last_line()}")

    def _last_line(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"see {self._log}"

    def _unload(self) -> None:
        """Take it out of launchd, which ends it; return once it has ended."""
        if self._shown() is None:
            return
        self._run("bootout", TARGET)
        ends = time.monotonic() + PATIENCE_S
        while self._shown() is not None:
            if time.monotonic() > ends:
                raise UsageError(f"{LABEL} does not end: see `launchctl print {TARGET}`")
            time.sleep(0.1)

    def _shown(self) -> dict[str, str] | None:
        """What launchd says of the service; None if it has not loaded it."""
        done = self._run("print", TARGET)
        return dict(_PAIR.findall(done.stdout)) if done.returncode == 0 else None

    def _write(self, octets: bytes) -> None:
        """Whole or not at all; owned by root, as launchd wants it. Raises UsageError."""
        try:
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{LABEL}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(octets)
                os.chmod(name, 0o644)
                os.replace(name, self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error.strerror}") from None

    def _ask(self, *words: str) -> None:
        done = self._run(*words)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise UsageError(
                f"launchctl {' '.join(words)}: {lines[0] if lines else done.returncode}"
            )

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603  # words of our own
                [self._launchctl, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except FileNotFoundError:
            raise Unavailable(f"{self._launchctl} is missing: is this macOS?") from None
        except subprocess.TimeoutExpired:
            raise UsageError(f"launchctl {' '.join(words)} does not end: try again") from None


_PAIR = re.compile(r"^\t(state|pid|last exit code) = (.+?)(?:: .*)?$", re.MULTILINE)
"""Of the outermost table of `launchctl print`; an exit code may have its meaning behind it."""


def plist(unit: ServiceUnit, log: Path) -> bytes:
    """The property list. Started at boot and whenever the process failed, not when it ended well.

    The key for back-off is launchd's own: a job that ends early waits THROTTLE_S.
    """
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(unit.command),
            "EnvironmentVariables": {"NO_COLOR": "1", **unit.environment},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": THROTTLE_S,
            "ExitTimeOut": 20,
            "ProcessType": "Interactive",  # no throttling of CPU and I/O: others wait for packets
            "Umask": 0o077,
            "HardResourceLimits": {"Core": 0},
            "SoftResourceLimits": {"Core": 0},
            "StandardErrorPath": str(log),
            "StandardOutPath": str(log),
        }
    )
