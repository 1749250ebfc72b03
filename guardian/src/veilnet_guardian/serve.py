"""`veilnet-guardian serve`: REST, pusher and Master under one roof, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from veilnet_guardian.app import create_app
from veilnet_guardian.connection import KEEP_ALIVE_S, BoundedRequests
from veilnet_guardian.context import Guardian
from veilnet_guardian.database import Database
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.grants import GrantMaker
from veilnet_guardian.keys import Keys
from veilnet_guardian.link import MasterLink
from veilnet_guardian.master import EmbeddedMaster
from veilnet_guardian.push import Pusher
from veilnet_guardian.sessions import Logins, dead_users
from veilnet_guardian.settings import EMBEDDED, HostPort, ServeSettings, master_url_for

log = logging.getLogger("veilnet_guardian")

MASTER_START_S = 5.0
EXTERNAL_MASTER_START_S = 2.0
GRACE_S = 2
"""How long requests in progress may take once Guardian was told to stop."""


async def serve(settings: ServeSettings, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. *announce* gets one line once everything is up.

    Raises GuardianError if something that was asked for cannot be had.
    """
    data_dir = DataDir(settings.data_dir)
    _check_tls(settings)
    with data_dir.lock("serve.lock", wait=False) as alone, contextlib.ExitStack() as cleanup:
        if not alone:
            raise GuardianError(
                f"another veilnet-guardian serves {data_dir.root}: stop it or use another folder"
            )
        listener = cleanup.enter_context(_listener(settings.listen))
        db = Database(data_dir, settings.database_url)
        try:
            await db.open()
            await _run(_assemble(settings, data_dir, db, listener), announce)
        finally:
            await db.close()


@dataclass(frozen=True, kw_only=True)
class _Parts:
    guardian: Guardian
    listener: socket.socket
    http: _Http
    master: EmbeddedMaster | None
    link: MasterLink
    pusher: Pusher
    title: str


def _assemble(
    settings: ServeSettings, data_dir: DataDir, db: Database, listener: socket.socket
) -> _Parts:
    keys, master = Keys(data_dir), None
    if settings.master == EMBEDDED:
        folder = data_dir.subfolder("master")
        master = EmbeddedMaster(folder, keys.master, settings.master_listen)
    link = MasterLink([master.url] if master else settings.master.split(","), keys.master)

    def master_url(host_header: str) -> str:
        if settings.public_master_url or master is None:
            return settings.public_master_url or settings.master
        return master_url_for(host_header, master.listen)

    maker = GrantMaker(keys)
    guardian = Guardian(
        db=db,
        keys=keys,
        logins=Logins(db, keys, maker, certificate_s=settings.certificate_s),
        wall=time.time,
        monotonic=time.monotonic,
        master_url=master_url,
        master_up=link.up.is_set,
        max_conflux=settings.max_conflux,
    )
    pusher = Pusher(db, maker, keys.master, link, master, monotonic=time.monotonic, wall=time.time)
    scheme = "https" if settings.tls_cert else "http"
    at = HostPort(settings.listen.host, listener.getsockname()[1])
    return _Parts(
        guardian=guardian,
        listener=listener,
        http=_Http(_http_config(guardian, settings)),
        master=master,
        link=link,
        pusher=pusher,
        title=f"Guardian listens on {scheme}://{at}, Master on "
        + (f"nats://{master.listen}" if master else settings.master),
    )


async def _run(parts: _Parts, announce: Callable[[str], None]) -> None:
    """Run everything until a signal. Whatever fails ends the rest."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    failed: GuardianError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            if parts.master is not None:
                await _configure(parts.master, parts.guardian)
                tasks.append(group.create_task(parts.master.run()))
            tasks.append(group.create_task(parts.link.run()))
            await _await_master(parts)
            serving = group.create_task(parts.http.serve([parts.listener]))
            tasks.append(group.create_task(parts.pusher.run()))
            await parts.http.up.wait()
            announce(parts.title)
            await stop.wait()
            # Requests in progress are answered while the Master is still there.
            parts.http.should_exit = True
            await serving
            for task in reversed(tasks):
                task.cancel()
    except* GuardianError as failures:
        # Raised below: Python 3.11.2, that of Debian 12, would wrap it in a group of its own.
        failed = _first(failures)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if failed is not None:
        raise failed


async def _configure(master: EmbeddedMaster, guardian: Guardian) -> None:
    now, keys = guardian.now(), guardian.keys.master
    async with guardian.db.read() as session:
        dead = await dead_users(session, now=now)
    revoked = {keys.node_user(serial).public: began for serial, began in dead.items()}
    master.configure(revoked, now=now)


async def _await_master(parts: _Parts) -> None:
    """Wait for the Master, an external one not for long: it may come later."""
    try:
        async with asyncio.timeout(MASTER_START_S if parts.master else EXTERNAL_MASTER_START_S):
            await parts.link.up.wait()
    except TimeoutError:
        if parts.master is not None:
            raise GuardianError(
                f"the Master did not answer within {MASTER_START_S:.0f} s: see {parts.master.log}"
            ) from None


def _first(failed: BaseExceptionGroup[GuardianError]) -> GuardianError:
    for error in failed.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError  # a group is never empty


def _http_config(guardian: Guardian, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(guardian),
        http=BoundedRequests,
        access_log=False,
        log_config=None,
        log_level="error",  # a warning for each refused stranger would fill the disk
        lifespan="off",
        server_header=False,
        ws="none",
        limit_concurrency=512,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


class _Http(uvicorn.Server):
    """uvicorn without its own ideas about signals; `up` is set once it accepts requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.contextmanager
def _listener(listen: HostPort) -> Iterator[socket.socket]:
    try:
        info = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = info[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise GuardianError(f"cannot listen on {listen}: {error.strerror}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise GuardianError(
                f"cannot listen on {listen} ({error.strerror}): choose another with --listen"
            ) from None
        yield listener


def _check_tls(settings: ServeSettings) -> None:
    if settings.tls_cert is None and settings.tls_key is None:
        if not settings.listen.is_sheltered:
            log.warning(
                "plain http on %s: anyone on the way can read tokens and passwords; "
                "give --tls-cert and --tls-key, or put a TLS proxy in front",
                settings.listen,
            )
        return
    if settings.tls_cert is None or settings.tls_key is None:
        raise GuardianError("--tls-cert and --tls-key belong together: give both")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        raise GuardianError(
            f"--tls-cert and --tls-key cannot be used ({error.strerror or error}): "
            "both are PEM files, and the key is the certificate's"
        ) from None
