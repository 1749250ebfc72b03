"""The service "VeilNet Conflux" by way of the service manager of Windows.

What Windows starts is `host`, which speaks the manager's protocol and keeps the node as a child.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from conflux.api import (
    ServiceDriver,
    ServiceState,
    ServiceUnit,
    Settings,
    Unavailable,
    UsageError,
)
from conflux_service_windows import advapi
from conflux_service_windows.advapi import Advapi
from conflux_service_windows.host import FOLDER, FORMER_LOG, LAST_WORDS, LOG

if sys.platform == "win32":
    import winreg

NAME = "VeilNet Conflux"
KEY = rf"SYSTEM\CurrentControlSet\Services\{NAME}"
PATIENCE_S = 90.0
RESTARTS_MS = (2_000, 10_000, 60_000, 300_000)
"""The last one is for every failure after it."""
RESET_S = 86_400


class WindowsService(ServiceDriver):
    """Runs as LocalSystem, from boot on. Everything but `state` needs an administrator."""

    def __init__(self, settings: Settings) -> None:
        if settings:
            raise UsageError(
                f"conflux.toml, [plugin.service.windows]: no setting {next(iter(settings))!r}, "
                "there are none"
            )
        self._api = Advapi()

    def check(self) -> None:
        with self._manager(advapi.SC_MANAGER_CREATE_SERVICE):
            pass

    def install(self, unit: ServiceUnit) -> None:
        """Disabled until it is whole: so much as that counts as absent."""
        self.stop()
        command = subprocess.list2cmdline([*host_of(unit.command), *unit.command])
        with self._manager(advapi.SC_MANAGER_CREATE_SERVICE) as manager:
            try:
                with self._created(manager, command) as service:
                    self._describe(service, unit)
                    _write_environment(unit)
                    self._configure(service, advapi.SERVICE_AUTO_START)
            except BaseException:
                self.remove()
                raise

    def start(self) -> None:
        self._start(fresh=False)

    def restart(self) -> None:
        self.stop()
        self._start(fresh=True)

    def stop(self) -> None:
        with self._service() as service:
            if service is not None:
                self._await(service, (advapi.SERVICE_STOPPED,), meanwhile=self._tell_to_stop)

    def state(self) -> ServiceState:
        access = advapi.SERVICE_QUERY_STATUS | advapi.SERVICE_QUERY_CONFIG
        with self._service(access) as service:
            if service is None:
                return ServiceState.ABSENT
            status, is_whole = self._query(service), self._is_whole(service)
        if status.dwCurrentState != advapi.SERVICE_STOPPED:
            return ServiceState.RUNNING
        if not is_whole:
            return ServiceState.ABSENT
        # A host that was killed, or was not up in time, has a code that is none of ours.
        well = status.dwWin32ExitCode in (advapi.NO_ERROR, advapi.ERROR_SERVICE_NEVER_STARTED)
        return ServiceState.STOPPED if well else ServiceState.FAILED

    def remove(self) -> None:
        self.stop()
        with self._service() as service:
            if service is not None:
                try:
                    self._api.call("DeleteService", service)
                except OSError as error:
                    if error.winerror != advapi.ERROR_SERVICE_MARKED_FOR_DELETE:  # type: ignore[attr-defined]
                        raise _usage(error) from None
        self._await_absence()
        _remove_folder()

    def _tell_to_stop(self, service: int) -> None:
        """It hears only once it has started, and not while it stops."""
        status = advapi.SERVICE_STATUS()
        with contextlib.suppress(OSError):
            self._api.call(
                "ControlService", service, advapi.SERVICE_CONTROL_STOP, ctypes.byref(status)
            )

    def _start(self, *, fresh: bool) -> None:
        with self._service() as service:
            if service is None or not self._is_whole(service):
                raise UsageError(
                    "the service is not installed: run `veilnet-conflux register` or `up` first"
                )
            state = self._query(service).dwCurrentState
            if not fresh and state == advapi.SERVICE_RUNNING:
                return
            if state == advapi.SERVICE_STOP_PENDING:
                self._await(service, (advapi.SERVICE_STOPPED,))
            LAST_WORDS.unlink(missing_ok=True)
            try:
                self._api.call("StartServiceW", service, 0, None)
            except OSError as error:
                if error.winerror == advapi.ERROR_SERVICE_REQUEST_TIMEOUT:  # type: ignore[attr-defined]
                    raise _not_up() from None
                if error.winerror != advapi.ERROR_SERVICE_ALREADY_RUNNING:  # type: ignore[attr-defined]
                    raise _usage(error) from None
            states = (advapi.SERVICE_RUNNING, advapi.SERVICE_STOPPED)
            if self._await(service, states) != advapi.SERVICE_RUNNING:
                raise _not_up()

    def _describe(self, service: int, unit: ServiceUnit) -> None:
        """The line for people; restart with back-off after a crash and after an exit code.

        The flag for exit codes is newer than the rest (Windows 6.0; Wine has it not).
        """
        actions = (advapi.SC_ACTION * len(RESTARTS_MS))(
            *(advapi.SC_ACTION(advapi.SC_ACTION_RESTART, delay_ms) for delay_ms in RESTARTS_MS)
        )
        for level, info in (
            (advapi.SERVICE_CONFIG_DESCRIPTION, advapi.SERVICE_DESCRIPTION(unit.description)),
            (
                advapi.SERVICE_CONFIG_FAILURE_ACTIONS,
                advapi.SERVICE_FAILURE_ACTIONS(RESET_S, None, None, len(actions), actions),
            ),
            (
                advapi.SERVICE_CONFIG_FAILURE_ACTIONS_FLAG,
                advapi.SERVICE_FAILURE_ACTIONS_FLAG(True),  # noqa: FBT003 (a field of C)
            ),
        ):
            try:
                self._api.call("ChangeServiceConfig2W", service, level, ctypes.byref(info))
            except OSError as error:
                if error.winerror != advapi.ERROR_INVALID_LEVEL:  # type: ignore[attr-defined]
                    raise _usage(error) from None

    @contextlib.contextmanager
    def _created(self, manager: int, command: str) -> Iterator[int]:
        """The service with this command line, disabled, whether it is new or was there."""
        with self._service() as there:
            if there is not None:
                self._configure(there, advapi.SERVICE_DISABLED, command)
                yield there
                return
        try:
            handle = self._api.call(
                "CreateServiceW", manager, NAME, NAME, advapi.SERVICE_ALL_ACCESS,
                advapi.SERVICE_WIN32_OWN_PROCESS, advapi.SERVICE_DISABLED,
                advapi.SERVICE_ERROR_NORMAL, command, None, None, None, None, None,
            )  # fmt: skip
        except OSError as error:
            raise _usage(error) from None
        with self._closing(handle):
            yield handle

    def _configure(self, service: int, start_type: int, command: str | None = None) -> None:
        try:
            self._api.call(
                "ChangeServiceConfigW", service, advapi.SERVICE_NO_CHANGE, start_type,
                advapi.SERVICE_NO_CHANGE, command, None, None, None, None, None, None,
            )  # fmt: skip
        except OSError as error:
            raise _usage(error) from None

    @contextlib.contextmanager
    def _manager(self, access: int = advapi.SC_MANAGER_CONNECT) -> Iterator[int]:
        try:
            handle = self._api.call("OpenSCManagerW", None, None, access)
        except OSError as error:
            raise _usage(error) from None
        with self._closing(handle):
            yield handle

    @contextlib.contextmanager
    def _service(self, access: int = advapi.SERVICE_ALL_ACCESS) -> Iterator[int | None]:
        """Its handle; None if there is no such service."""
        with self._manager() as manager:
            try:
                handle = self._api.call("OpenServiceW", manager, NAME, access)
            except OSError as error:
                if error.winerror != advapi.ERROR_SERVICE_DOES_NOT_EXIST:  # type: ignore[attr-defined]
                    raise _usage(error) from None
                handle = None
            if handle is None:
                yield None
                return
            with self._closing(handle):
                yield handle

    @contextlib.contextmanager
    def _closing(self, handle: int) -> Iterator[None]:
        try:
            yield
        finally:
            self._api.call("CloseServiceHandle", handle)

    def _is_whole(self, service: int) -> bool:
        there = ctypes.create_string_buffer(advapi.MAX_CONFIG_BYTES)
        needed = ctypes.c_uint32()
        self._api.call("QueryServiceConfigW", service, there, len(there), ctypes.byref(needed))
        config = advapi.QUERY_SERVICE_CONFIGW.from_buffer(there)
        return int(config.dwStartType) != advapi.SERVICE_DISABLED

    def _query(self, service: int) -> Any:
        status, needed = advapi.SERVICE_STATUS_PROCESS(), ctypes.c_uint32()
        self._api.call(
            "QueryServiceStatusEx", service, advapi.SC_STATUS_PROCESS_INFO, ctypes.byref(status),
            ctypes.sizeof(status), ctypes.byref(needed),
        )  # fmt: skip
        return status

    def _await_absence(self) -> None:
        """Windows deletes a service when its process has ended and nobody has it open any more."""
        ends = time.monotonic() + PATIENCE_S
        while self._exists():
            if time.monotonic() > ends:
                raise UsageError(
                    f'the service "{NAME}" is marked for deletion, but another program has it '
                    "open: close the Services window, or restart Windows"
                )
            time.sleep(0.1)

    def _exists(self) -> bool:
        with self._service(advapi.SERVICE_QUERY_STATUS) as service:
            return service is not None

    def _await(
        self,
        service: int,
        states: tuple[int, ...],
        *,
        meanwhile: Callable[[int], None] = lambda service: None,
    ) -> int:
        """Wait until it is in one of *states*; return which. Raises UsageError."""
        ends = time.monotonic() + PATIENCE_S
        while (state := int(self._query(service).dwCurrentState)) not in states:
            if time.monotonic() > ends:
                raise UsageError(f'the service "{NAME}" neither starts nor stops: restart Windows')
            meanwhile(service)
            time.sleep(0.1)
        return state


def host_of(command: Sequence[str]) -> list[str]:
    """The command line of the host: by the node's own interpreter, as isolated as that."""
    return [
        command[0],
        "-I" if "-I" in command[1:2] else "-P",
        "-m",
        "conflux_service_windows.host",
    ]


def _write_environment(unit: ServiceUnit) -> None:
    """The service's own variables, which the manager lays over the system's."""
    if sys.platform == "win32":
        pairs = [f"{name}={value}" for name, value in unit.environment.items()]
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY, 0, winreg.KEY_SET_VALUE) as key:
            winreg.SetValueEx(key, "Environment", 0, winreg.REG_MULTI_SZ, pairs)


def _remove_folder() -> None:
    """The log and the last words; whatever else lies there is not ours."""
    try:
        for path in (LAST_WORDS, LOG, FORMER_LOG):
            path.unlink(missing_ok=True)
        if FOLDER.exists() and not any(FOLDER.iterdir()):
            FOLDER.rmdir()
    except OSError as error:
        raise UsageError(f"{FOLDER} cannot be emptied: {error.strerror}") from None


def _not_up() -> UsageError:
    words = ""
    with contextlib.suppress(OSError):
        words = LAST_WORDS.read_text(encoding="utf-8").strip()
    return UsageError(f"the service did not come up: {words or f'see {LOG}'}")


def _usage(error: OSError) -> UsageError:
    if error.winerror == advapi.ERROR_ACCESS_DENIED:  # type: ignore[attr-defined]
        return Unavailable(
            "a system service needs an administrator: open the terminal as one, "
            "or use --foreground (-d)"
        )
    return UsageError(f"the service manager says: {error.strerror}")
