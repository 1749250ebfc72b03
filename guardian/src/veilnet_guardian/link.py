"""Guardian's own connection to the Master: it pushes grants, and it is the sink.

The sink subscribes to everything and reads nothing. With it NATS never answers "no responders",
which would tell a prober which tags exist (docs/protocol/control.md §2).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from veilnet_guardian.natsjwt import MasterKeys, NKey

log = logging.getLogger("veilnet_guardian.master")

CONNECT_S = 2
RETRY_S = 0.2
ANSWER_S = 2.0
SINK_BYTES = 8 * 1_048_576
"""How much the sink holds before it drops; dropping is all that it does anyway."""


class MasterLink:
    """A connection that mends itself. `run` it in a task."""

    def __init__(
        self, urls: Sequence[str], keys: MasterKeys, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._urls = list(urls)
        self._keys = keys
        self._clock = clock
        self._client: Client | None = None
        self.up = asyncio.Event()
        """Set while grants can be pushed."""
        self.generation = 0
        """Grows with each connection: what was sent over the one before may be lost."""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        told = False
        while True:
            try:
                await self._stay_connected()
            except (NatsError, OSError, TimeoutError) as error:
                if not told:
                    log.warning("the Master does not answer (%s): trying on", error or "timeout")
                    told = True
            else:
                told = False
            await asyncio.sleep(RETRY_S)

    async def _stay_connected(self) -> None:
        closed = asyncio.Event()

        async def on_closed() -> None:
            self.up.clear()
            closed.set()

        async def on_disconnected() -> None:
            self.up.clear()

        async def on_reconnected() -> None:
            self._went_up()

        user = self._keys.guardian_user()
        client = await self._connect(
            user,
            self._keys.guardian_jwt(now=int(self._clock())),
            closed_cb=on_closed,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
        )
        try:
            await client.subscribe("v1.>", cb=_swallow, pending_bytes_limit=SINK_BYTES)
            await client.flush(CONNECT_S)
            self._client = client
            self._went_up()
            await closed.wait()
        finally:
            self._client = None
            self.up.clear()
            await client.close()

    def _went_up(self) -> None:
        self.generation += 1
        self.up.set()

    async def publish(self, subject: str, payload: bytes) -> bool:
        """Send; False if there is no connection now. Best effort, as everything on the channel."""
        if self._client is None or not self.up.is_set():
            return False
        try:
            await self._client.publish(subject, payload)
        except (NatsError, OSError):
            return False
        return True

    async def flush(self) -> None:
        """Wait, two seconds at most, until the Master has all that was published."""
        if self._client is not None and self.up.is_set():
            try:
                await self._client.flush(CONNECT_S)
            except (NatsError, OSError, TimeoutError):
                log.debug("the Master did not confirm")

    async def update_account(self, account_jwt: str) -> bool:
        """Give every server of the Master new claims of the nodes' account, revocations above all.

        False if none took them.
        """
        user = self._keys.system_user()
        try:
            client = await self._connect(
                user,
                self._keys.system_user_jwt(now=int(self._clock())),
                allow_reconnect=False,
            )
        except (NatsError, OSError, TimeoutError):
            return False
        try:
            subject = f"$SYS.REQ.ACCOUNT.{self._keys.account.public}.CLAIMS.UPDATE"
            answer = await client.request(subject, account_jwt.encode(), timeout=ANSWER_S)
        except (NatsError, OSError, TimeoutError):
            return False
        finally:
            await client.close()
        return b'"error"' not in answer.data

    async def _connect(self, user: NKey, jwt: str, **options: Any) -> Client:
        def give_jwt() -> bytes:
            return jwt.encode()

        def sign(nonce: str) -> bytes:
            return base64.b64encode(user.sign(nonce.encode()))

        settings: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "reconnect_time_wait": RETRY_S,
            # Then it closes, and `run` begins anew and says so.
            "max_reconnect_attempts": 10,
            "ping_interval": 2,
            "max_outstanding_pings": 2,
            "error_cb": _note_error,
            "user_jwt_cb": give_jwt,
            "signature_cb": sign,
        }
        return await nats.connect(self._urls, **(settings | options))


async def _swallow(_message: Msg) -> None:
    """What the sink does with everything."""


async def _note_error(error: Exception) -> None:
    log.debug("Master: %s", error)
