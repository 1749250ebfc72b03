"""A service manager for tests: it keeps units in a folder, starts them, hears what they notify."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from conflux.api import (
    API_VERSION,
    DriverInfo,
    ServiceDriver,
    ServiceState,
    ServiceUnit,
    UsageError,
    hookimpl,
)

PATIENCE_S = 40.0


@hookimpl
def conflux_service_driver():
    return DriverInfo(name="standin", target="standin_service:StandIn", api=API_VERSION)


class StandIn(ServiceDriver):
    """Files: `unit`, `pid`, `failed`, `heard`; `broken` with a verb's name makes that verb fail."""

    def __init__(self, settings) -> None:
        self._home = Path(os.environ["STANDIN_SERVICE"])
        self._home.mkdir(exist_ok=True)

    def check(self) -> None:
        self._may("check")

    def install(self, unit: ServiceUnit) -> None:
        self.stop()
        self._may("install")
        words = {"command": list(unit.command), "environment": dict(unit.environment)}
        (self._home / "unit").write_text(json.dumps(words))

    def start(self) -> None:
        if self.state() is ServiceState.ABSENT:
            raise UsageError("the service is not installed")
        self._may("start")
        if self.state() is ServiceState.RUNNING:
            return
        unit = json.loads((self._home / "unit").read_text())
        heard = self._home / "notify"
        heard.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(heard))
            ear.settimeout(0.1)
            kept = {k: v for k, v in os.environ.items() if not k.startswith("VEILNET_CONFLUX")}
            manager = {"NOTIFY_SOCKET": str(heard), "WATCHDOG_USEC": "400000"}
            with (self._home / "log").open("a") as log:
                process = subprocess.Popen(
                    unit["command"], env={**kept, **unit["environment"], **manager},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            (self._home / "pid").write_text(str(process.pid))
            self._hear(ear, process)

    def _hear(self, ear, process) -> None:
        ends, said = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < ends:
            try:
                words = ear.recv(4096).decode()
            except TimeoutError:
                if process.poll() is not None:
                    break
                continue
            with (self._home / "heard").open("a") as file:
                file.write(words + "\n")
            said = next((w[7:] for w in words.split("\n") if w.startswith("STATUS=")), said)
            if "READY=1" in words.split("\n"):
                process.returncode = 0  # it outlives this one
                return
        process.kill()
        (self._home / "failed").touch()
        raise UsageError(f"the service did not come up: {said}")

    def stop(self) -> None:
        (self._home / "failed").unlink(missing_ok=True)
        pid = self._pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            ends = time.monotonic() + PATIENCE_S
            while self._pid():
                assert time.monotonic() < ends, "it does not stop"
                time.sleep(0.02)

    def restart(self) -> None:
        self.stop()
        self.start()

    def state(self) -> ServiceState:
        if not (self._home / "unit").exists():
            return ServiceState.ABSENT
        if self._pid():
            return ServiceState.RUNNING
        failed = (self._home / "failed").exists()
        return ServiceState.FAILED if failed else ServiceState.STOPPED

    def remove(self) -> None:
        self.stop()
        (self._home / "unit").unlink(missing_ok=True)

    def _may(self, verb: str) -> None:
        broken = self._home / "broken"
        if broken.exists() and broken.read_text() == verb:
            raise UsageError(f"the manager refuses to {verb}")

    def _pid(self) -> int:
        """0 unless it runs; what has ended and was not reaped does not run."""
        try:
            pid = int((self._home / "pid").read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return 0 if state in "ZX" else pid
