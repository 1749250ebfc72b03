"""The kit's checks, over real HTTP on a server that puts the kit's Guardian behind the REST."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import socket
from contextlib import asynccontextmanager

from conflux.api import Refused, RegistrationRequest
from conflux.testing import AuthConformance, MemoryGuardian, PluginConformance
from conflux_auth_guardian.driver import GuardianAuth


class Rest:
    """The four calls of a node, as Guardian's REST has them."""

    def __init__(self, url: str, dead_url: str) -> None:
        self.url = url
        self.dead_url = dead_url
        self._guardian = MemoryGuardian()
        self.registration_token = self._guardian.registration_token
        self.login_request = self._guardian.login_request

    async def serve(self, reader, writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (f.partition(": ") for f in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        scheme, _, token = headers["authorization"].partition(" ")
        assert scheme == "Bearer"
        try:
            status, answer = 200, self._answer(line.rpartition(" ")[0], token, body)
        except Refused as refusal:
            status, answer = 401, {"detail": str(refusal)}
        payload = b"" if answer is None else json.dumps(answer).encode()
        status = status if payload else 204
        length = f"Content-Length: {len(payload)}\r\n" if payload else ""
        writer.write(f"HTTP/1.1 {status} Status\r\n{length}\r\n".encode() + payload)
        await writer.drain()
        writer.close()

    def _answer(self, line: str, token: str, body: bytes) -> dict | None:
        match line:
            case "POST /conflux/register":
                wanted = RegistrationRequest(token=token, **json.loads(body))
                granted = self._guardian.register(wanted)
                addresses = [granted.address, *granted.other_addresses]
                return {**dataclasses.asdict(granted), "addresses": addresses}
            case "DELETE /conflux/unregister":
                return self._guardian.unregister(token)
            case "POST /conflux/session/login":
                answer = self._guardian.login(token, body)
                grant = base64.b64encode(answer.sealed).decode()
                return {"session": answer.session, "grant": grant}
            case "POST /conflux/session/logout":
                return self._guardian.logout(token)
        raise AssertionError(f"no such call: {line}")


class TestPlugin(PluginConformance):
    plugin_name = "auth-guardian"


class TestGuardianAuth(AuthConformance):
    def make_driver(self):
        return GuardianAuth({})

    @asynccontextmanager
    async def server(self):
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))  # taken, and nobody listens
            urls = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (listener, unheard))
            rest = Rest(*urls)
            async with await asyncio.start_server(rest.serve, sock=listener):
                yield rest
