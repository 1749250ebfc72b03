"""The local API: one JSON object a line over a Unix socket, for root and the group `veilnet`; on
Windows over a named pipe that stands for it.

request   {"verb": "status"}            verbs: status, info, underlay, stop
reply     {"ok": ...}  or  {"error": "one line"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

from conflux.api import UsageError
from conflux.runtime import peers

if sys.platform == "win32":
    from conflux.runtime import winpipe
else:
    import fcntl

SYSTEM_SOCKET = Path("/var/run" if sys.platform == "darwin" else "/run", "veilnet/api.sock")
MAX_LINE_BYTES = 1 << 20
"""Of a request."""
MAX_REPLY_BYTES = 64 << 20
"""`status` has about 1 kB for each peer, of which there may be thousands."""
REPLY_S = 5.0
STOP_S = 10.0
MAX_CLIENTS = 128
NO_SUCH_VERB = "no such verb"
MAX_PATH_BYTES = 103
"""sun_path of macOS without its final zero; Linux has four more."""

Verb = Callable[[], object]


class _Listening(Protocol):
    def close(self) -> None: ...


class LocalApi:
    """Serves verbs on a Unix socket. One node a folder: a second one is refused.

    Root and whoever runs the node may ask; where it is the system's, so may the group `veilnet`, if
    there is one. Modes say so, and the credentials of each who connects are looked at.
    """

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self._path = path
        self._verbs = verbs
        self._server: _Listening | None = None
        self._lock: int | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen. Raises UsageError if another node is there or the folder cannot be written."""
        check_path(self._path)
        try:
            if sys.platform == "win32":
                self._server = winpipe.PipeServer(self._path, self._serve, limit=MAX_LINE_BYTES)
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(self._path.parent)
            group = _shared_group(self._path)
            if group is not None:
                _share(self._path.parent, 0o750, group)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=_bound(self._path, group), limit=MAX_LINE_BYTES
            )
        except BlockingIOError:
            raise UsageError(
                f"a node is running already on {self._path}: stop it, "
                "or give this one a folder of its own with --config-dir"
            ) from None
        except OSError as error:
            await self.close()
            raise UsageError(
                f"{self._path} cannot be made ({error.strerror or error}): run as root, "
                "or give a folder of your own with --config-dir"
            ) from None

    async def close(self) -> None:
        """Stop listening and remove the socket. Closing twice is fine."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        # Nothing stays behind in a buffer of ours: once drained, the kernel has the whole reply.
        writer.transport.set_write_buffer_limits(0)
        try:
            async with asyncio.timeout(REPLY_S):
                if self._clients > MAX_CLIENTS:
                    reply: dict[str, object] = {"error": "too many ask at once: ask again"}
                else:
                    # Read in any case: what is unread at the end would take the answer with it.
                    line = await reader.readline()
                    welcome = _is_welcome(writer)
                    reply = self._reply(line) if welcome else {"error": peers.REFUSED}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # a client that is slow, gone or sends a line without end
        finally:
            self._clients -= 1
            writer.transport.abort()  # a plain close would wait for a client that does not read

    def _reply(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            verb = self._verbs[request["verb"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": f"{NO_SUCH_VERB}; there are {', '.join(self._verbs)}"}
        return {"ok": verb()}


def _is_welcome(writer: asyncio.StreamWriter) -> bool:
    if sys.platform == "win32":
        return True  # the pipe's own list of who may open it has decided
    connection = writer.get_extra_info("socket")
    try:
        return peers.is_welcome(peers.peer_of(connection))
    except OSError:
        return False


def _shared_group(path: Path) -> int | None:
    """The group that may ask the system's node; None for a node in a folder of somebody's own."""
    return peers.group_id() if path == SYSTEM_SOCKET and os.geteuid() == 0 else None


def _share(path: Path, mode: int, group: int) -> None:
    """Let the group in; without the right to do so root stays alone."""
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, group)
        path.chmod(mode)


def _bound(path: Path, group: int | None) -> socket.socket:
    """A socket at *path* to which nobody else can ever connect: it does not listen yet.

    Without umask(2), which is the whole process's: another thread's files would get it, too.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
        if group is not None:
            _share(path, 0o660, group)
    except OSError:
        bound.close()
        raise
    return bound


def check_path(path: Path) -> None:
    """Raise UsageError if no Unix socket can have this path. The pipe for it can always be."""
    if sys.platform != "win32" and len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise UsageError(
            f"{path} is too long for a socket, which has at most {MAX_PATH_BYTES} bytes: "
            "give a shorter folder with --config-dir"
        )


class Answer(dict[str, Any]):
    """An object of a node's answer. A field that it lacks raises UsageError: an older node's."""

    def __init__(self, fields: Mapping[str, Any], path: Path) -> None:
        super().__init__(fields)
        self._path = path

    def __missing__(self, field: str) -> NoReturn:
        raise _of_another_version(self._path, f"its answer has no {field}")


def _of_another_version(path: Path, lack: str) -> UsageError:
    return UsageError(
        f"the node at {path} is of another version, {lack}: "
        "restart it with `veilnet-conflux restart`"
    )


def call(path: Path, verb: str) -> Any:
    """Ask the running node; waits REPLY_S for each piece of its answer. Raises UsageError.

    The answer's objects are each an Answer.
    """
    try:
        line = _ask(path, json.dumps({"verb": verb}).encode() + b"\n")
        reply = json.loads(line, object_hook=partial(Answer, path=path))
    except (FileNotFoundError, ConnectionRefusedError):
        raise UsageError(
            f"no node runs at {path}: start one with `veilnet-conflux run`, "
            "or name its folder with --config-dir"
        ) from None
    except PermissionError:
        raise UsageError(f"{path}: {peers.REFUSED}") from None
    except (OSError, ValueError, RecursionError):
        reply = None
    match reply:
        case {"ok": answer}:
            return answer
        case {"error": str(reason)} if reason.startswith(NO_SUCH_VERB):
            raise _of_another_version(path, f"it knows no {verb}")
        case {"error": reason}:
            raise UsageError(f"the node at {path} says: {reason}")
    raise UsageError(f"the node at {path} does not answer: restart it")


def _ask(path: Path, request: bytes) -> bytes:
    if sys.platform == "win32":
        return winpipe.ask(path, request, within_s=REPLY_S, most_bytes=MAX_REPLY_BYTES)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(REPLY_S)
        client.connect(str(path))
        # One that has too many callers answers and closes without reading: its answer is there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request)
        with client.makefile("rb") as lines:
            return lines.readline(MAX_REPLY_BYTES)


def stop(path: Path) -> None:
    """Ask the node to stop and wait until it has closed everything. Raises UsageError."""
    call(path, "stop")
    ends = time.monotonic() + STOP_S
    while is_running(path):
        if time.monotonic() > ends:
            raise UsageError(f"the node at {path} does not stop: end its process")
        time.sleep(0.05)


def is_running(path: Path) -> bool:
    """Tell whether somebody listens at *path*."""
    if sys.platform == "win32":
        return winpipe.is_served(path, within_s=REPLY_S)
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(REPLY_S)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _lock(folder: Path) -> int:
    """Take the folder for this process; return the descriptor that holds it.

    Raises BlockingIOError if another process has it. The lock ends with the process at the latest,
    so that a socket which a killed node left behind is no obstacle.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
