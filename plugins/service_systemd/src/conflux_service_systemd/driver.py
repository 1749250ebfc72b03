"""The unit `veilnet` by way of systemctl(1)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

from conflux.api import (
    ServiceDriver,
    ServiceState,
    ServiceUnit,
    Settings,
    Unavailable,
    UsageError,
)
from conflux_service_systemd.unit import render

NAME = "veilnet.service"
FOLDER = Path("/etc/systemd/system")
GROUP = "veilnet"
TORN = ".veilnet."
"""How the name of a unit begins that is not whole yet."""
PATIENCE_S = 120.0
"""More than any job of the unit may take: TimeoutStartSec and TimeoutStopSec."""


class SystemdService(ServiceDriver):
    """Writes the unit and has systemd do the rest. Everything but `state` needs root."""

    def __init__(
        self, settings: Settings, *, folder: Path = FOLDER, systemctl: str = "systemctl"
    ) -> None:
        if settings:
            raise UsageError(
                f"conflux.toml, [plugin.service.systemd]: no setting {next(iter(settings))!r}, "
                "there are none: put what you want into veilnet.service.d/*.conf"
            )
        self._path = folder / NAME
        self._systemctl = systemctl

    def check(self) -> None:
        if os.geteuid() != 0:
            raise Unavailable("a system service needs root: use sudo, or --foreground (-d)")
        if not os.access(self._path.parent, os.W_OK):
            raise Unavailable(f"{self._path.parent} cannot be written: make it writable")

    def install(self, unit: ServiceUnit) -> None:
        self.check()
        text = render(
            unit,
            version=self._version(),
            group=GROUP if _group_exists() else None,
            writable=unit.environment.get("VEILNET_CONFIG_DIR"),
        )
        former = self._path.read_text(encoding="utf-8") if self._path.exists() else None
        self.stop()
        try:
            self._write(text)
            self._ask("daemon-reload")
            self._ask("enable", NAME)
        except BaseException:
            self._go_back(former)
            raise
        self._try("reset-failed", NAME)

    def start(self) -> None:
        self._come_up("start")

    def stop(self) -> None:
        if self.state() is not ServiceState.ABSENT:
            self._ask("stop", NAME)
            self._try("reset-failed", NAME)

    def restart(self) -> None:
        self._come_up("restart")

    def state(self) -> ServiceState:
        shown = self._show("LoadState", "ActiveState", "SubState")
        match shown["LoadState"], shown["ActiveState"], shown["SubState"]:
            case "not-found" | "masked", "inactive" | "failed", _:
                return ServiceState.ABSENT
            case _, _, "auto-restart" | "auto-restart-queued":
                return ServiceState.FAILED
            case _, "active" | "activating" | "reloading", _:
                return ServiceState.RUNNING
            case _, "failed", _:
                return ServiceState.FAILED
        return ServiceState.STOPPED

    def remove(self) -> None:
        if self.state() is ServiceState.ABSENT and not self._path.exists():
            self._unlink()
            return
        self.check()
        self._try("stop", NAME)
        self._try("disable", NAME)
        # What systemd keeps for the unit, before it forgets the unit.
        self._try("clean", "--what=all", NAME)
        self._unlink()
        self._ask("daemon-reload")
        self._try("reset-failed", NAME)

    def _come_up(self, verb: str) -> None:
        if self.state() is ServiceState.ABSENT:
            raise UsageError(
                "the service is not installed: run `veilnet-conflux register` or `up` first"
            )
        if self._try(verb, NAME):
            return
        said = self._show("StatusText")["StatusText"]
        raise UsageError(f"the service did not come up: {said or 'see `journalctl -u veilnet`'}")

    def _go_back(self, former: str | None) -> None:
        """Leave what was before `install`: nothing, or the former unit, not running."""
        with contextlib.suppress(UsageError):
            if former is None:
                self._try("disable", NAME)
                self._unlink()
            else:
                self._write(former)
            self._ask("daemon-reload")

    def _write(self, text: str) -> None:
        """Whole or not at all. Raises UsageError."""
        try:
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=TORN)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error.strerror}") from None

    def _unlink(self) -> None:
        """Remove the unit, and what a killed `_write` left. Raises UsageError."""
        try:
            for torn in self._path.parent.glob(f"{TORN}*"):
                torn.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be removed: {error.strerror}") from None

    def _version(self) -> int:
        found = re.match(r"systemd (\d+)", self._run("--version").stdout)
        return int(found[1]) if found else 0

    def _show(self, *properties: str) -> dict[str, str]:
        done = self._run("show", NAME, *(f"--property={name}" for name in properties))
        if done.returncode:
            raise UsageError(f"systemctl show {NAME}: {_reason(done)}")
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        return {**dict.fromkeys(properties, ""), **{name: value for name, _, value in pairs}}

    def _try(self, *words: str) -> bool:
        return self._run(*words).returncode == 0

    def _ask(self, *words: str) -> None:
        done = self._run(*words)
        if done.returncode:
            raise UsageError(f"systemctl {' '.join(words)}: {_reason(done)}")

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603  # words of our own
                [self._systemctl, "--no-ask-password", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
                env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
            )
        except FileNotFoundError:
            raise Unavailable(f"{self._systemctl} is missing: install systemd") from None
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"systemctl {' '.join(words)} does not end: see `systemctl list-jobs`"
            ) from None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The first line of what it said."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[0] if lines else f"exit code {done.returncode}"


def _group_exists() -> bool:
    import grp

    try:
        grp.getgrnam(GROUP)
    except KeyError:
        return False
    return True
