"""The local API's way on Windows: a named pipe that the system, administrators and its owner reach.

Python has no Unix sockets there. A pipe belongs to the folder that it stands for: its name is made
from the path that the socket would have. Nobody reaches it from another machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from ctypes import byref, c_int, c_uint32, c_void_p, c_wchar_p
from pathlib import Path
from typing import Any

PIPE_ACCESS_DUPLEX = 0x3
FILE_FLAG_FIRST_PIPE_INSTANCE = 0x80000
FILE_FLAG_OVERLAPPED = 0x40000000
PIPE_REJECT_REMOTE_CLIENTS = 0x8
PIPE_UNLIMITED_INSTANCES = 255
GENERIC_READ_WRITE = 0xC0000000
OPEN_EXISTING = 3
SECURITY_IDENTIFICATION = 0x00110000
"""With SECURITY_SQOS_PRESENT: a server may know who asks, and may not act in their name."""
INVALID_HANDLE = c_void_p(-1).value
ERROR_PIPE_BUSY = 231

ACCESS = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;OW)"
"""SDDL: everything to the system, to administrators, to the owner; nothing to anybody else."""
BUFFER_BYTES = 65_536
POLL_S = 0.01

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def name_of(path: Path) -> str:
    """Return the name of the pipe that stands for the socket *path*."""
    folder = os.path.normcase(os.path.abspath(path))
    return rf"\\.\pipe\veilnet-{hashlib.sha256(folder.encode()).hexdigest()[:32]}"


class PipeServer:
    """Serves a pipe from the running loop, a Proactor loop."""

    def __init__(self, path: Path, serve: Serve, *, limit: int) -> None:
        """Listen. Raises BlockingIOError if somebody has this pipe, OSError for anything else."""
        self._name = name_of(path)
        self._serve = serve
        self._limit = limit
        self._loop: Any = asyncio.get_running_loop()
        self._closed = False
        self._accepting: asyncio.Future[Any] | None = None
        # The flag alone would do, but Wine 8 does not know it.
        if is_served(path, within_s=0):
            raise _taken()
        self._accept(self._make(FILE_FLAG_FIRST_PIPE_INSTANCE))

    def close(self) -> None:
        """Listen no more. Who is connected stays so. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            if self._accepting is not None:
                self._accepting.cancel()
            self._pipe.close()

    def _accept(self, pipe: Any) -> None:
        self._pipe = pipe
        try:
            self._accepting = self._loop._proactor.accept_pipe(pipe)  # noqa: SLF001
        except BrokenPipeError:  # a client came and went between the two calls
            pipe.close()
            self._loop.call_soon(self._again)
        else:
            self._accepting.add_done_callback(self._connected)

    def _again(self) -> None:
        if not self._closed:
            self._accept(self._make(0))

    def _connected(self, accepting: asyncio.Future[Any]) -> None:
        if self._closed or accepting.cancelled():
            return
        pipe = self._pipe
        self._again()
        if accepting.exception() is not None:  # the client went away at once
            pipe.close()
            return
        reader = asyncio.StreamReader(limit=self._limit, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._serve, loop=self._loop)
        # As the loop's own start_serving_pipe, which knows no access rights.
        self._loop._make_duplex_pipe_transport(pipe, protocol)  # noqa: SLF001

    def _make(self, flags: int) -> Any:
        from asyncio.windows_utils import PipeHandle

        with _SecurityAttributes(ACCESS) as attributes:
            handle = _kernel32().CreateNamedPipeW(
                self._name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | flags,
                PIPE_REJECT_REMOTE_CLIENTS, PIPE_UNLIMITED_INSTANCES,
                BUFFER_BYTES, BUFFER_BYTES, 0, byref(attributes),
            )  # fmt: skip
        if handle == INVALID_HANDLE:
            error = ctypes.WinError(ctypes.get_last_error())
            if flags and isinstance(error, PermissionError):
                raise _taken()
            raise error
        return PipeHandle(handle)


def _taken() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "another process has this pipe")


class _SecurityAttributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES with a descriptor in SDDL, which is freed at the end of the block."""

    _fields_ = (("length", c_uint32), ("descriptor", c_void_p), ("inherit", c_int))

    def __init__(self, sddl: str) -> None:
        super().__init__(ctypes.sizeof(type(self)), None, 0)
        convert = ctypes.WinDLL(
            "advapi32", use_last_error=True
        ).ConvertStringSecurityDescriptorToSecurityDescriptorW
        convert.argtypes = [c_wchar_p, c_uint32, c_void_p, c_void_p]
        where = type(self).descriptor.offset
        if not convert(sddl, 1, ctypes.addressof(self) + where, None):  # SDDL_REVISION_1
            raise ctypes.WinError(ctypes.get_last_error())

    def __enter__(self) -> _SecurityAttributes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        free = _kernel32().LocalFree
        free.argtypes = [c_void_p]
        free(self.descriptor)


def ask(path: Path, request: bytes, *, within_s: float, most_bytes: int) -> bytes:
    """Send *request*, a line, and return the first line of the answer, shorter if it ends before.

    Raises FileNotFoundError if nobody listens, PermissionError if this user may not ask,
    TimeoutError and other OSErrors.
    """
    ends = time.monotonic() + within_s
    with os.fdopen(_connect(path, ends), "r+b", buffering=0) as pipe:
        pipe.write(request)
        answer = b""
        while b"\n" not in answer and len(answer) < most_bytes:
            waiting = _waiting_bytes(pipe.fileno())
            if waiting is None:
                break
            if waiting:
                answer += pipe.read(waiting) or b""
            elif time.monotonic() > ends:
                raise TimeoutError("no answer")
            else:
                time.sleep(POLL_S)
    return answer.partition(b"\n")[0]


def is_served(path: Path, *, within_s: float) -> bool:
    """Tell whether somebody listens at the pipe that stands for *path*."""
    try:
        os.close(_connect(path, time.monotonic() + within_s))
    except PermissionError:
        return True
    except OSError as error:
        return error.winerror == ERROR_PIPE_BUSY
    return True


def _connect(path: Path, ends: float) -> int:
    """Open the pipe; return a descriptor, which is the caller's. Raises OSError."""
    import msvcrt

    while True:
        handle = _kernel32().CreateFileW(
            name_of(path), GENERIC_READ_WRITE, 0, None, OPEN_EXISTING, SECURITY_IDENTIFICATION, None
        )
        if handle != INVALID_HANDLE:
            return msvcrt.open_osfhandle(handle, os.O_RDWR | os.O_BINARY)
        error = ctypes.WinError(ctypes.get_last_error())
        if error.winerror != ERROR_PIPE_BUSY or time.monotonic() > ends:
            raise error
        time.sleep(POLL_S)


def _waiting_bytes(descriptor: int) -> int | None:
    """How many bytes can be read at once; None if the other end is closed and all is read."""
    import msvcrt

    count = c_uint32()
    handle = c_void_p(msvcrt.get_osfhandle(descriptor))
    done = _kernel32().PeekNamedPipe(handle, None, c_uint32(0), None, byref(count), None)
    return count.value if done else None


def _kernel32() -> Any:
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    create = kernel32.CreateNamedPipeW
    create.restype = c_void_p
    create.argtypes = [c_wchar_p, *[c_uint32] * 6, c_void_p]
    open_file = kernel32.CreateFileW
    open_file.restype = c_void_p
    open_file.argtypes = [c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p]
    return kernel32
