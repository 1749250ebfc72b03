"""The local API: one JSON object a line over a Unix socket that only its owner can reach.

request   {"verb": "status"}            verbs: status, info, stop
reply     {"ok": ...}  or  {"error": "one line"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conflux.api import UsageError

SYSTEM_SOCKET = Path("/run/veilnet/api.sock")
MAX_LINE_BYTES = 1 << 20
REPLY_S = 5.0
STOP_S = 10.0
MAX_CLIENTS = 32

Verb = Callable[[], object]


class LocalApi:
    """Serves verbs on a Unix socket of mode 0600. One node a socket: a second one is refused."""

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self._path = path
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen. Raises UsageError if another node is there or the folder cannot be written."""
        if await asyncio.to_thread(is_running, self._path):
            raise UsageError(
                f"a node is running already on {self._path}: stop it, "
                "or give this one a folder of its own with --config-dir"
            )
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            # Bound under a mask: at no moment can another user connect.
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, self._path, limit=MAX_LINE_BYTES
                )
            finally:
                os.umask(before)
        except OSError as error:
            raise UsageError(
                f"{self._path} cannot be made ({error.strerror}): run as root, "
                "or give a folder of your own with --config-dir"
            ) from None

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(REPLY_S):
                if self._clients <= MAX_CLIENTS:
                    line = await reader.readline()
                    writer.write(json.dumps(self._reply(line)).encode() + b"\n")
                    await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # a client that is slow, gone or sends a line without end
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _reply(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            verb = self._verbs[request["verb"]]
        except (ValueError, KeyError, TypeError):
            return {"error": f"no such verb; there are {', '.join(self._verbs)}"}
        return {"ok": verb()}


def call(path: Path, verb: str) -> Any:
    """Ask the running node; waits at most REPLY_S. Raises UsageError if none runs."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(REPLY_S)
            client.connect(str(path))
            client.sendall(json.dumps({"verb": verb}).encode() + b"\n")
            with client.makefile("rb") as lines:
                reply = json.loads(lines.readline(MAX_LINE_BYTES))
    except (FileNotFoundError, ConnectionRefusedError):
        raise UsageError(
            f"no node runs at {path}: start one with `veilnet-conflux run`, "
            "or name its folder with --config-dir"
        ) from None
    except PermissionError:
        raise UsageError(f"{path} belongs to somebody else: run this as root") from None
    except (OSError, ValueError):
        raise UsageError(f"the node at {path} does not answer: restart it") from None
    if "error" in reply:
        raise UsageError(f"the node at {path} says: {reply['error']}")
    return reply["ok"]


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
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(REPLY_S)
            probe.connect(str(path))
    except OSError:
        return False
    return True
