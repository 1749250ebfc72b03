"""HTTP connections with a clock: whoever asks nothing, or too slowly, must not use up the limit.

uvicorn's own clock starts after the first answer only, and the first byte of the next request stops
it. Without this one whoever opens as many connections as `limit_concurrency` allows, and then says
nothing, shuts everybody else out for good.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 30.0
"""From the connection, or from the answer before, to the end of the answer."""

KEEP_ALIVE_S = 5
"""How long a connection may idle after an answer: well below REQUEST_S, so that a request which
comes at the last moment still has time."""


class BoundedRequests(H11Protocol):
    """Aborts a connection on which no answer was completed for REQUEST_S, whatever the reason."""

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself narrows it
        super().connection_made(transport)
        self._restart_clock()

    def on_response_complete(self) -> None:
        # Before uvicorn's own, which may begin with a request that has come in already.
        self._restart_clock()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        super().connection_lost(exc)

    def _restart_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(REQUEST_S, self.transport.abort)
