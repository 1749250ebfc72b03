"""The process that Windows starts as the service: it keeps the node as its child.

    manager ── StartServiceCtrlDispatcher, control handler ──► host ── pipes ──► veilnet-conflux run

The node tells how it goes by lines on its standard output (VEILNET_NOTIFY=stdio): READY=1 makes the
service "running"; it stops when its standard input ends, so it cannot outlive the host. What it
logs goes to conflux.log; its last STATUS stays in conflux.status for whoever started the service.

The manager gives a process 30 s to answer, from its start (ServicesPipeTimeout). So nothing of the
product is imported here: what takes long is done by the child, while the service is "start pending"
with a check point for each line of the child.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from conflux_service_windows import advapi
from conflux_service_windows.advapi import Advapi

NAME = "VeilNet Conflux"


def _program_data() -> Path:
    r"""C:\ProgramData, as Windows says: variables of a terminal and of a service may differ."""
    name = ctypes.create_unicode_buffer(_MAX_PATH)
    if sys.platform == "win32":
        ctypes.WinDLL("shell32").SHGetFolderPathW(None, _CSIDL_COMMON_APPDATA, None, 0, name)
    return Path(name.value or r"C:\ProgramData")


_CSIDL_COMMON_APPDATA, _MAX_PATH = 0x23, 260
FOLDER = _program_data() / "VeilNet Conflux"
LOG = FOLDER / "conflux.log"
FORMER_LOG = FOLDER / "conflux.log.1"
LAST_WORDS = FOLDER / "conflux.status"
MAX_LOG_BYTES = 10_000_000
"""A longer log is put aside once, at a start."""
START_HINT_MS, STOP_HINT_MS = 60_000, 20_000
STOP_S = 15.0


class Host:
    """One run of the service."""

    def __init__(self, api: Advapi, command: list[str]) -> None:
        self._api = api
        self._command = command
        self._status = advapi.SERVICE_STATUS(dwServiceType=advapi.SERVICE_WIN32_OWN_PROCESS)
        self._handle = 0
        self._telling = threading.Lock()
        self._stop = threading.Event()
        # Kept here: the system calls them for as long as this process lives.
        self._main_c = _MAIN(self._main)
        self._handler_c = _HANDLER(self._handler)

    def run(self) -> None:
        """Be the service; returns once it has stopped. Raises OSError if nobody wants a service."""
        table = (advapi.SERVICE_TABLE_ENTRY * 2)()
        table[0].lpServiceName = NAME
        table[0].lpServiceProc = ctypes.cast(self._main_c, ctypes.c_void_p)
        self._api.call("StartServiceCtrlDispatcherW", table)

    def _main(self, _count: int, _words: Any) -> None:
        self._handle = self._api.call("RegisterServiceCtrlHandlerExW", NAME, self._handler_c, None)
        self._tell(advapi.SERVICE_START_PENDING, hint_ms=START_HINT_MS)
        try:
            code = self._keep()
        except OSError as error:
            _leave(f"{self._command[0]}: {error.strerror}")
            code = 1
        stopped = advapi.SERVICE_STOPPED
        self._tell(stopped, code=code if not self._stop.is_set() else 0)

    def _keep(self) -> int:
        """Start the node, hear it, end it when told to; return its exit code."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        if LOG.exists() and LOG.stat().st_size > MAX_LOG_BYTES:
            LOG.replace(FORMER_LOG)
        with (
            LOG.open("ab") as log,
            subprocess.Popen(  # noqa: S603 (what the service was installed with)
                self._command,
                env={**os.environ, "VEILNET_NOTIFY": "stdio"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as node,
        ):
            hearing = threading.Thread(target=self._hear, args=(node,), daemon=True)
            hearing.start()
            threading.Thread(target=self._end, args=(node,), daemon=True).start()
            code = node.wait()
            hearing.join(STOP_S)  # its last words
            return code

    def _hear(self, node: subprocess.Popen[bytes]) -> None:
        for line in node.stdout or ():
            words = line.decode("utf-8", errors="replace").strip()
            if words == "READY=1":
                accepts = advapi.SERVICE_ACCEPT_STOP | advapi.SERVICE_ACCEPT_SHUTDOWN
                self._tell(advapi.SERVICE_RUNNING, accepts=accepts)
            elif words.startswith("STATUS="):
                _leave(words.removeprefix("STATUS="))
                self._tell_of_progress()

    def _end(self, node: subprocess.Popen[bytes]) -> None:
        self._stop.wait()
        if node.stdin is not None:
            node.stdin.close()
        try:
            node.wait(STOP_S)
        except subprocess.TimeoutExpired:
            node.kill()

    def _handler(self, control: int, _event: int, _data: Any, _context: Any) -> int:
        if control in (advapi.SERVICE_CONTROL_STOP, advapi.SERVICE_CONTROL_SHUTDOWN):
            self._tell(advapi.SERVICE_STOP_PENDING, hint_ms=STOP_HINT_MS)
            self._stop.set()
        elif control != advapi.SERVICE_CONTROL_INTERROGATE:
            return advapi.ERROR_CALL_NOT_IMPLEMENTED
        return advapi.NO_ERROR

    def _tell(self, state: int, *, accepts: int = 0, code: int = 0, hint_ms: int = 0) -> None:
        with self._telling:
            status = self._status
            goes_on = state == status.dwCurrentState and hint_ms
            status.dwCheckPoint = status.dwCheckPoint + 1 if goes_on else int(bool(hint_ms))
            status.dwCurrentState = state
            status.dwControlsAccepted = accepts
            failed = advapi.ERROR_SERVICE_SPECIFIC_ERROR if code else advapi.NO_ERROR
            status.dwWin32ExitCode = failed
            status.dwServiceSpecificExitCode = code
            status.dwWaitHint = hint_ms
            self._api.call("SetServiceStatus", self._handle, ctypes.byref(status))

    def _tell_of_progress(self) -> None:
        if self._status.dwCurrentState == advapi.SERVICE_START_PENDING:
            self._tell(advapi.SERVICE_START_PENDING, hint_ms=START_HINT_MS)


def _leave(words: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    LAST_WORDS.write_text(words + "\n", encoding="utf-8")


# Windows' x64 has one calling convention: WINFUNCTYPE is CFUNCTYPE there.
_MAIN = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p)
_HANDLER = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p
)


if __name__ == "__main__":
    Host(Advapi(), sys.argv[1:]).run()
