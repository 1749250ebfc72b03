"""nats-py's client, hardened for a channel whose server and peers are not trusted.

    open() ──> connected <──> reconnecting        by itself, for ever
                   │               │
                   └───> closed <──┘              finish(), or the server ended it for good

`MasterClient` overrides a few inner methods of nats-py, which is therefore pinned to one minor
version. Each override says what nats-py does without it, and each has its test.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
import logging
import random
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import ParseResult, urlsplit

import nkeys
from nats.aio.client import Client, Server
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from conflux.api import MAX_CONTROL_BYTES, ControlCredentials, Refused, Unreachable

CONNECT_S = 5.0
RELAY_QUEUE = "relay"

_PER_SERVER_S = 2
_PENDING_BYTES = 512 * 1024
_COMMAND_BYTES = 64 * 1024  # room for what is no message, so that nats-py never waits for it
_PUB_OVERHEAD_BYTES = 32
_BACKLOG_BYTES = 8 * 1024 * 1024
_DEFAULT_PORT = 4222
_OUTSTANDING_PINGS = 1
_FIRST_RETRY_S = 0.1
_SLOWEST_RETRY_S = 2.0
_RETRY_GROWTH = 1.5
_REFUSAL = re.compile(r"violation|expired|revoked", re.IGNORECASE)
_CHANCE = random.SystemRandom()

_log = logging.getLogger("conflux.control")


class _Phase(enum.Enum):
    CONNECTING = enum.auto()
    SUBSCRIBING = enum.auto()
    OPEN = enum.auto()


class MasterClient(Client):
    """One connection under one set of credentials. All calls come from the event loop's thread.

    *on_subject(subject, payload)* gets every message, as the server sent it. *on_change()* is
    called after `connected` may have changed. Neither may raise: both run inside nats-py's tasks.
    """

    def __init__(
        self,
        credentials: ControlCredentials,
        on_subject: Callable[[bytes, bytes], None],
        *,
        on_change: Callable[[], None],
        ping_s: float,
    ) -> None:
        super().__init__()
        self._servers = servers(credentials.urls)
        self._tls = tls_context(credentials.ca_pem)
        self._key = _key_pair(credentials.seed)
        self._credentials = credentials
        self._on_subject = on_subject
        self._on_change = on_change
        self._ping_s = ping_s
        self._wire = _Transport(self)
        self._transport = self._wire
        self._phase = _Phase.CONNECTING
        self._failures = 0
        self._refusal = ""

    @property
    def backlog_bytes(self) -> int:
        """What has come in and is no whole message yet."""
        return len(self._ps.buf)

    async def open(self) -> None:
        """Connect and subscribe, within CONNECT_S; a failure leaves nothing behind.

        Raises Unreachable once every server of the credentials has failed, and Refused as soon as
        one does not accept them.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connect()
                self._phase = _Phase.SUBSCRIBING
                await self._listen()
                self._phase = _Phase.OPEN
        except TimeoutError:
            await self.close()
            raise Unreachable(f"{self._name()} does not answer: check that it runs") from None
        except BaseException:
            await self.close()
            raise

    def post(self, subject: str, payload: bytes) -> bool:
        """Publish without waiting; False if not connected or the buffer has no room.

        nats-py's `publish` is a coroutine that waits only to make room in its buffer, so with
        room it ends in its first step: no task, no queue, no second copy.
        """
        size = len(subject) + len(payload) + _PUB_OVERHEAD_BYTES
        if not self.is_connected or self.pending_data_size + size > _PENDING_BYTES:
            return False
        step = self.publish(subject, payload)
        try:
            step.send(None)
        except StopIteration:
            return True
        except NatsError:
            return False
        step.close()
        raise RuntimeError("nats-py waited in publish with room in its buffer")

    async def finish(self, within_s: float) -> None:
        """Unsubscribe, take what is on its way, have sent what was published, then close.

        What takes longer than *within_s* is lost. Finishing twice is fine.
        """
        try:
            if self.is_connected:
                async with asyncio.timeout(within_s):
                    for subscription in list(self._subs.values()):
                        await subscription.unsubscribe()
                    await self._settle()
        except (TimeoutError, NatsError, OSError):
            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Close at once. What was not yet sent is lost; `finish` is the patient way."""
        await super().close()
        self._wire.close()

    async def _connect(self) -> None:
        await self.connect(
            servers=self._servers,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_state,
            closed_cb=self._on_state,
            reconnect_to_server_handler=_next_server,
            connect_timeout=_PER_SERVER_S,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_FIRST_RETRY_S,  # type: ignore[arg-type]  # seconds, not whole
            ping_interval=self._ping_s,  # type: ignore[arg-type]  # seconds, not whole
            max_outstanding_pings=_OUTSTANDING_PINGS,
            pending_size=_PENDING_BYTES + _COMMAND_BYTES,
            no_echo=True,
            tls=self._tls,
            signature_cb=self._sign,
            user_jwt_cb=self._credentials.jwt.encode,
        )
        if not self.is_connected:
            raise Unreachable(f"{self._name()} does not answer as a NATS server does")
        if self.max_payload < MAX_CONTROL_BYTES:
            raise Refused(
                f"{self._name()} takes messages of at most {self.max_payload} bytes: "
                f"set its max_payload to {MAX_CONTROL_BYTES} or more"
            )

    async def _listen(self) -> None:
        prefix = self._credentials.prefix
        for tag in self._credentials.tags:
            await self.subscribe(f"{prefix}.{tag.hex()}.*")
        if shared := self._credentials.shared_tag:
            await self.subscribe(f"{prefix}.{shared.hex()}.*", queue=RELAY_QUEUE)
        await self._settle()
        if self._refusal:
            raise Refused(f"{self._name()} {self._refusal}")

    async def _settle(self) -> None:
        """Wait until the server has handled all that was sent before.

        nats-py's PING overtakes what still lies in its buffer; the second one cannot.
        """
        await self.flush()
        await self.flush()

    def _sign(self, nonce: str) -> bytes:
        return base64.b64encode(self._key.sign(nonce.encode()))

    async def _on_error(self, error: Exception) -> None:
        """While connecting: raise the verdict, which ends `connect`. Later: note refusals."""
        refusal = _refusal(error)
        if self._phase is not _Phase.CONNECTING:
            self._note(refusal, error)
            return
        if refusal:
            raise Refused(f"{self._name()} {refusal}") from error
        self._failures += 1
        if self._failures >= len(self._servers):
            raise Unreachable(
                f"{self._name()} does not answer ({_reason(error)}): check that it runs"
            ) from error

    def _note(self, refusal: str, error: Exception) -> None:
        # Retries meet the same refusal again and again: it is worth one line when it is new.
        news = self._phase is _Phase.OPEN and refusal not in ("", self._refusal)
        self._refusal = refusal or self._refusal
        _log.log(
            logging.WARNING if news else logging.DEBUG,
            "%s %s",
            self._name(),
            refusal or _reason(error),
        )

    async def _on_disconnected(self) -> None:
        # nats-py would send what was pending when the connection comes back, minutes later.
        self._pending = []
        self._pending_data_size = 0
        self._on_change()

    async def _on_state(self) -> None:
        if self.is_connected:
            self._refusal = ""
        self._on_change()

    async def _process_connect_init(self) -> None:
        # nats-py handles only some kinds of nonsense during the handshake; any other would end
        # its reconnecting for good.
        try:
            await super()._process_connect_init()
        except OSError:  # among them a certificate that is not trusted, also a ValueError
            raise
        except (ValueError, TypeError, LookupError, AttributeError):
            raise NatsError("what answers there is no NATS server") from None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py adds every address that a server advertises to its own list, which has no bound.
        # It may be an overlay address or somebody's own server: only what Guardian named counts.
        # And it would send the JWT in the clear to whoever offers no TLS on a tls:// URL.
        server = self._current_server
        if server and server.uri.scheme == "tls" and not info.get("tls_required"):
            raise _NoTlsError

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        # nats-py decodes the reply subject and the headers, which any member of the plane may
        # choose, and stops reading for good if that fails. Here both are ignored.
        self._on_subject(subject, data)

    def _name(self) -> str:
        return f"the Master at {', '.join(self._servers)}"


class _Transport(TcpTransport):
    """TCP that never waits for a peer which may be gone."""

    def __init__(self, client: MasterClient) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped
        self._client = client

    def __bool__(self) -> bool:
        # nats-py replaces a transport that is false.
        return True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.close()  # nats-py leaves the socket of a failed handshake open
        await super().connect(uri, buffer_size, connect_timeout)

    async def read(self, buffer_size: int) -> bytes:
        # nats-py collects a message of any length that a server announces.
        if self._client.backlog_bytes > _BACKLOG_BYTES:
            raise ConnectionError("a message is longer than any that the Master lets through")
        chunk: bytes = await super().read(buffer_size)
        return chunk

    def writelines(self, payload: list[bytes]) -> None:
        # asyncio's own, in Python 3.12 before 3.12.9 and in 3.13 before 3.13.2, never asks the
        # writer to pause: towards a server that hangs its buffer has no bound (CVE-2024-12254).
        self.write(b"".join(payload))  # type: ignore[no-untyped-call]  # nats-py leaves it untyped

    async def drain(self) -> None:
        # nats-py drains once more while it closes, which a server that hangs never lets end.
        if not self._client.is_closed:
            await super().drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped

    def close(self) -> None:
        # A plain close waits for the buffer to empty (TCP, for ever) or for the peer's farewell
        # (TLS, 30 s), and nats-py waits for it before it looks for another server.
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    async def wait_closed(self) -> None:
        # There is nothing to wait for after an abort, and after a failed TLS handshake asyncio
        # never tells the stream that nats-py waits for that its connection is gone.
        await asyncio.sleep(0)


class _NoTlsError(NatsError):
    """The URL asks for TLS and the server offers none."""


def _next_server(pool: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    server = min(pool, key=lambda server: server.reconnects)
    return server, retry_delay(server.reconnects, _CHANCE.uniform)


def retry_delay(attempts: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds before the next attempt at a server that failed *attempts* times in a row.

    The whole span is random, since a server that restarts loses all of its clients at once.
    """
    growth = _RETRY_GROWTH ** min(attempts, 32)
    return uniform(0, min(_SLOWEST_RETRY_S, _FIRST_RETRY_S * growth))


def servers(urls: Sequence[str]) -> list[str]:
    """Check each URL and give it its port. Raises Refused."""
    found = []
    for url in urls:
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORT
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("nats", "tls") or not parts.hostname or "@" in parts.netloc:
            raise Refused(
                f"Guardian names {one_line(url)!r} as a Master: "
                "it must be nats://HOST:PORT or tls://HOST:PORT"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        found.append(f"{parts.scheme}://{host}:{port}")
    if not found:
        raise Refused("Guardian names no Master: ask whoever runs it to set one up")
    return found


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Trust *ca_pem*, or what the system trusts. Raises Refused."""
    try:
        return ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError:
        raise Refused("Guardian hands out a CA for the Master that is no PEM") from None


def _key_pair(seed: str) -> Any:
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except (nkeys.NkeysError, binascii.Error, ValueError, IndexError):
        raise Refused("Guardian hands out a key for the Master that is no nkey seed") from None


def _refusal(error: Exception) -> str:
    """Say of the Master what is final until somebody changes something; empty for the rest."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that is not trusted ({one_line(error.verify_message)}): "
            "correct it, or the CA that Guardian hands out"
        )
    if isinstance(error, _NoTlsError):
        return "offers no TLS, which its URL asks for: switch it on, or correct the URL"
    if isinstance(error, NatsError) and _REFUSAL.search(str(error)):
        # A refused publish or subscription quotes its subject, which changes each time.
        what, _, _subject = _reason(error).partition(' "')
        return f"refuses this node: {what}"
    return ""


def _reason(error: Exception) -> str:
    return one_line(str(error).removeprefix("nats: ")) or type(error).__name__


def one_line(text: str) -> str:
    """Foreign text as at most 200 printable characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:200]
