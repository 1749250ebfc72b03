"""Connections that ask nothing, or too slowly, end by themselves; those that ask go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from veilnet_guardian import connection
from veilnet_guardian.connection import BoundedRequests

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def application(scope, receive, send) -> None:
    if scope["path"] == "/never":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """Serve `application` on a port of the loopback; nothing of it is left afterwards."""
    config = uvicorn.Config(application, http=BoundedRequests, log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedRequests(config, state, {}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for kept in list(state.connections):
            kept.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def opened(port: int) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port)


async def ended(streams: Streams) -> bool:
    """Wait until the server has closed; what came before does not matter."""
    reader, writer = streams
    try:
        await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return True


async def keep_asking(streams: Streams, until: asyncio.Event) -> int:
    """Ask and wait for the answer, over and over; return how often that went well."""
    reader, writer = streams
    answers = 0
    while not until.is_set():
        writer.write(REQUEST)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 204")
        answers += 1
    writer.close()
    return answers


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="half a head"),
        pytest.param(REQUEST + b"GET / HT", id="half a second head"),
        pytest.param(REQUEST.replace(b" / ", b" /never "), id="no answer to be had"),
    ],
)
def test_connection_without_an_answer_ends_and_one_with_answers_goes_on(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)

    async def main() -> None:
        async with served() as port:
            idle, busy = await opened(port), await opened(port)
            idle[1].write(said)
            over = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                answers = tasks.create_task(keep_asking(busy, over))
                assert await ended(idle)
                over.set()
            assert answers.result() > 1

    asyncio.run(main())
