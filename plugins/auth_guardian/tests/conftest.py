"""A small HTTP server on loopback that plays any answer, hostile ones too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest


class Stage:
    """Plays one answer to each request and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._answer = b""
        self._drip_s = 0.0

    def plays(self, answer: bytes, *, drip_s: float = 0.0) -> None:
        """Answer with these bytes and close; *drip_s* seconds before each byte if given."""
        self._answer = answer
        self._drip_s = drip_s

    def answers(
        self, status: int, value: object, *, headers: str = "Content-Type: application/json\r\n"
    ) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} Status\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self.plays(head.encode() + body)

    @asynccontextmanager
    async def open(self, *, tls=None, host: str = "127.0.0.1") -> AsyncIterator[Stage]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        async with server:
            yield self

    async def _serve(self, reader, writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b""
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    body = await reader.readexactly(int(line.partition(b":")[2]))
            self.requests.append(head + body)
            if self._drip_s:
                for byte in self._answer:
                    await asyncio.sleep(self._drip_s)
                    writer.write(bytes([byte]))
                    await writer.drain()
            else:
                writer.write(self._answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what would send the tests' requests elsewhere."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
