"""The functions of advapi32.dll that make up the service manager's interface, winsvc.h."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_uint32, c_void_p, c_wchar_p
from typing import Any

SC_MANAGER_CONNECT, SC_MANAGER_CREATE_SERVICE = 0x1, 0x2
SERVICE_ALL_ACCESS, SERVICE_QUERY_CONFIG, SERVICE_QUERY_STATUS = 0xF01FF, 0x1, 0x4
SERVICE_WIN32_OWN_PROCESS, SERVICE_ERROR_NORMAL = 0x10, 1
SERVICE_AUTO_START, SERVICE_DISABLED, SERVICE_NO_CHANGE = 2, 4, 0xFFFFFFFF
SERVICE_CONFIG_DESCRIPTION, SERVICE_CONFIG_FAILURE_ACTIONS = 1, 2
SERVICE_CONFIG_FAILURE_ACTIONS_FLAG = 4
SC_STATUS_PROCESS_INFO = 0
SC_ACTION_RESTART = 1
SERVICE_CONTROL_STOP, SERVICE_CONTROL_INTERROGATE, SERVICE_CONTROL_SHUTDOWN = 1, 4, 5
SERVICE_STOPPED, SERVICE_START_PENDING, SERVICE_STOP_PENDING, SERVICE_RUNNING = 1, 2, 3, 4
SERVICE_ACCEPT_STOP, SERVICE_ACCEPT_SHUTDOWN = 1, 4
NO_ERROR = 0
ERROR_ACCESS_DENIED = 5
ERROR_SERVICE_REQUEST_TIMEOUT = 1053
ERROR_SERVICE_ALREADY_RUNNING = 1056
ERROR_SERVICE_DOES_NOT_EXIST = 1060
ERROR_SERVICE_NOT_ACTIVE = 1062
ERROR_SERVICE_SPECIFIC_ERROR = 1066
ERROR_SERVICE_MARKED_FOR_DELETE = 1072
ERROR_SERVICE_NEVER_STARTED = 1077
ERROR_CALL_NOT_IMPLEMENTED = 120
ERROR_INVALID_LEVEL = 124


class SERVICE_STATUS(ctypes.Structure):  # noqa: N801 (its name there)
    _fields_ = (
        ("dwServiceType", c_uint32),
        ("dwCurrentState", c_uint32),
        ("dwControlsAccepted", c_uint32),
        ("dwWin32ExitCode", c_uint32),
        ("dwServiceSpecificExitCode", c_uint32),
        ("dwCheckPoint", c_uint32),
        ("dwWaitHint", c_uint32),
    )


class SERVICE_STATUS_PROCESS(ctypes.Structure):  # noqa: N801
    _fields_ = (
        *SERVICE_STATUS._fields_,
        ("dwProcessId", c_uint32),
        ("dwServiceFlags", c_uint32),
    )


class QUERY_SERVICE_CONFIGW(ctypes.Structure):  # noqa: N801
    """Its strings lie behind it."""

    _fields_ = (
        ("dwServiceType", c_uint32),
        ("dwStartType", c_uint32),
        ("dwErrorControl", c_uint32),
        ("lpBinaryPathName", c_wchar_p),
        ("lpLoadOrderGroup", c_wchar_p),
        ("dwTagId", c_uint32),
        ("lpDependencies", c_wchar_p),
        ("lpServiceStartName", c_wchar_p),
        ("lpDisplayName", c_wchar_p),
    )


MAX_CONFIG_BYTES = 8192
"""What QueryServiceConfigW needs at most."""


class SC_ACTION(ctypes.Structure):  # noqa: N801
    _fields_ = (("Type", c_int), ("Delay", c_uint32))


class SERVICE_FAILURE_ACTIONS(ctypes.Structure):  # noqa: N801
    _fields_ = (
        ("dwResetPeriod", c_uint32),
        ("lpRebootMsg", c_wchar_p),
        ("lpCommand", c_wchar_p),
        ("cActions", c_uint32),
        ("lpsaActions", ctypes.POINTER(SC_ACTION)),
    )


class SERVICE_DESCRIPTION(ctypes.Structure):  # noqa: N801
    _fields_ = (("lpDescription", c_wchar_p),)


class SERVICE_FAILURE_ACTIONS_FLAG(ctypes.Structure):  # noqa: N801
    _fields_ = (("fFailureActionsOnNonCrashFailures", c_int),)


class SERVICE_TABLE_ENTRY(ctypes.Structure):  # noqa: N801
    _fields_ = (("lpServiceName", c_wchar_p), ("lpServiceProc", c_void_p))


# Prototypes: result, then arguments. Handles are pointers.
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "OpenSCManagerW": (c_void_p, c_wchar_p, c_wchar_p, c_uint32),
    "CreateServiceW": (
        c_void_p, c_void_p, c_wchar_p, c_wchar_p, c_uint32, c_uint32, c_uint32, c_uint32, c_wchar_p,
        c_wchar_p, c_void_p, c_wchar_p, c_wchar_p, c_wchar_p,
    ),
    "ChangeServiceConfigW": (
        c_int, c_void_p, c_uint32, c_uint32, c_uint32, c_wchar_p, c_wchar_p, c_void_p, c_wchar_p,
        c_wchar_p, c_wchar_p, c_wchar_p,
    ),
    "ChangeServiceConfig2W": (c_int, c_void_p, c_uint32, c_void_p),
    "OpenServiceW": (c_void_p, c_void_p, c_wchar_p, c_uint32),
    "StartServiceW": (c_int, c_void_p, c_uint32, c_void_p),
    "ControlService": (c_int, c_void_p, c_uint32, c_void_p),
    "QueryServiceConfigW": (c_int, c_void_p, c_void_p, c_uint32, c_void_p),
    "QueryServiceStatusEx": (c_int, c_void_p, c_int, c_void_p, c_uint32, c_void_p),
    "DeleteService": (c_int, c_void_p),
    "CloseServiceHandle": (c_int, c_void_p),
    "StartServiceCtrlDispatcherW": (c_int, c_void_p),
    "RegisterServiceCtrlHandlerExW": (c_void_p, c_wchar_p, c_void_p, c_void_p),
    "SetServiceStatus": (c_int, c_void_p, c_void_p),
}  # fmt: skip


class Advapi:
    """advapi32.dll. `call` raises OSError, whose `winerror` says what the system said."""

    def __init__(self) -> None:
        dll = ctypes.WinDLL("advapi32", use_last_error=True)  # type: ignore[attr-defined]
        self._functions: dict[str, Any] = {}
        for name, (result, *arguments) in _PROTOTYPES.items():
            function = getattr(dll, name)
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function

    def call(self, name: str, *arguments: Any) -> Any:
        result = self._functions[name](*arguments)
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined]
        return result
