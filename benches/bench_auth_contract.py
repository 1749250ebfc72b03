"""What the auth contract costs: per packet nothing, per call little over bare httpx.

First how often two whole nodes call their auth drivers while they start, carry packets and end;
then milliseconds of CPU of one call to a Guardian on loopback, through the driver and through httpx
alone, both with a connection of their own each time. Medians of interleaved rounds; the server,
which answers by heart, shares the process and is in both.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import statistics
from collections.abc import Awaitable, Callable
from time import process_time

import httpx

from benches.whole_nodes import carry
from conflux.api import RegistrationRequest
from conflux_auth_guardian.driver import GuardianAuth

PACKETS = 20_000
ROUNDS = 60
TOKEN = "x" * 300  # as long as conflux tokens are
LOGIN_REQUEST = bytes(6_500)
GRANT_BYTES = 12_000
REGISTERED = {
    "conflux_id": "3f0c5a52-1f0e-4d0b-8a3c-0a4d5f3b2c11",
    "conflux_token": TOKEN,
    "tag": "bench",
    "plane": "home",
    "address": "10.8.0.1/24",
    "addresses": ["10.8.0.1/24"],
    "teams": ["dev"],
    "ignored_teams": [],
}
LOGGED_IN = {"session": TOKEN, "grant": base64.b64encode(bytes(GRANT_BYTES)).decode()}

Call = Callable[[], Awaitable[object]]


def main() -> None:
    carry(PACKETS).print("auth")
    logging.disable(logging.WARNING)  # that this Guardian is spoken to without TLS
    gc.freeze()  # or looking through what the nodes left would hit every nth call
    print(f"\n{'one call':<12}{'driver ms':>11}{'httpx ms':>10}{'ratio':>7}")
    asyncio.run(measure())


async def measure() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        driver = GuardianAuth({})
        alone = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, limits=alone, trust_env=False) as client:
            for name, ours, theirs in ways(driver, client, url):
                await compare(name, ours, theirs)
        await driver.close()


def ways(driver: GuardianAuth, client: httpx.AsyncClient, url: str) -> list[tuple[str, Call, Call]]:
    """Each call of the contract, and the same request by httpx."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    wanted = {"tag": "bench", "cidr": "", "teams": ["dev"], "portal": False}

    def bare(verb: str, path: str, **body: object) -> Call:
        async def call() -> object:
            answer = await client.request(verb, path, headers=bearer, **body)  # type: ignore[arg-type]
            return answer.json() if answer.content else None

        return call

    request = RegistrationRequest(token=TOKEN, tag="bench", teams=["dev"])
    return [
        (
            "register",
            lambda: driver.register(url, request),
            bare("POST", "/conflux/register", json=wanted),
        ),
        (
            "login",
            lambda: driver.login(url, conflux_token=TOKEN, request=LOGIN_REQUEST),
            bare("POST", "/conflux/session/login", content=LOGIN_REQUEST),
        ),
        (
            "logout",
            lambda: driver.logout(url, session=TOKEN),
            bare("POST", "/conflux/session/logout"),
        ),
        (
            "unregister",
            lambda: driver.unregister(url, conflux_token=TOKEN),
            bare("DELETE", "/conflux/unregister"),
        ),
    ]


async def compare(name: str, ours: Call, theirs: Call) -> None:
    rounds = [(await seconds(ours), await seconds(theirs)) for _ in range(ROUNDS)]
    driver, library = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{name:<12}{driver * 1e3:>11.2f}{library * 1e3:>10.2f}{driver / library:>7.2f}")


async def seconds(call: Call) -> float:
    start = process_time()
    await call()
    return process_time() - start


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
    await reader.readexactly(int(fields.get(b"content-length", b"0")))
    path = head.split(b" ", 2)[1]
    answer = {b"/conflux/register": REGISTERED, b"/conflux/session/login": LOGGED_IN}.get(path)
    body = b"" if answer is None else json.dumps(answer).encode()
    status = "200 OK" if body else "204 No Content"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
