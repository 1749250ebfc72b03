"""A real nats-server on a free loopback port, with the permissions of docs/protocol/control.md."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nkeys
import pytest

from conflux.api import ControlCredentials
from conflux.with_parent import with_parent

PREFIX = "v1.0011223344556677"
SHARED_TAG = bytes(range(16))
SERVER = Path(sys.executable).with_name("nats-server")


class Key:
    """An nkey and what it signs."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def jwt(self, subject: str, claims: dict, expires: float | None = None) -> str:
        """A NATS JWT, version 2, about *subject*."""
        body = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": "test",
            "nats": {"version": 2, **claims},
        }
        if expires is not None:
            body["exp"] = int(expires)
        digest = hashlib.sha256(json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
        signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        signature = base64.urlsafe_b64encode(self._pair.sign(signed.encode())).rstrip(b"=")
        return f"{signed}.{signature.decode()}"


class Master:
    """nats-server as a child process. Its port stays the same over restarts."""

    def __init__(
        self, folder: Path, extra: str = "", *, scheme: str = "nats", authenticates: bool = True
    ) -> None:
        self._folder = folder
        self._extra = extra
        self._authenticates = authenticates
        self._operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._process: subprocess.Popen[str] | None = None
        self.scheme = scheme
        self.port = -1

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return once the server listens."""
        config = self._folder / "nats.conf"
        config.write_text(self._config())
        self._process = subprocess.Popen(
            with_parent([SERVER, "-c", config]), stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if "Listening for client connections on" in line:
                self.port = int(line.rsplit(":", 1)[1])
            if "Server is ready" in line:
                return
        pytest.fail(f"nats-server did not start: {''.join(lines)}")

    def kill(self) -> None:
        if self._process is not None:
            assert self._process.stderr is not None
            self._process.kill()
            self._process.wait()
            self._process.stderr.close()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def credentials(
        self,
        handle: bytes,
        *tags: bytes,
        expires: float | None = None,
        may_listen_to: tuple[bytes, ...] | None = None,
        shared_tag: bytes = SHARED_TAG,
        ca_pem: str = "",
    ) -> ControlCredentials:
        """What Guardian would give the node with this handle and these addresses' tags."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        listened = (handle, *tags)
        allowed = listened if may_listen_to is None else may_listen_to
        claims = {
            "type": "user",
            "subs": -1,
            "data": -1,
            "payload": -1,
            "pub": {"allow": [f"{PREFIX}.*.{handle.hex()}"]},
            "sub": {
                "allow": [
                    *(f"{PREFIX}.{tag.hex()}.*" for tag in allowed),
                    f"{PREFIX}.{shared_tag.hex()}.* relay",
                ]
            },
        }
        return ControlCredentials(
            urls=[self.url],
            prefix=PREFIX,
            handle=handle,
            tags=listened,
            shared_tag=shared_tag,
            jwt=self._account.jwt(user.public, claims, expires),
            seed=user.seed.decode(),
            ca_pem=ca_pem,
        )

    def _config(self) -> str:
        listen = f"listen: 127.0.0.1:{self.port}\n{self._extra}\n"
        return listen + self._authentication() if self._authenticates else listen

    def _authentication(self) -> str:
        unlimited = dict.fromkeys(("subs", "data", "payload", "conn", "imports", "exports"), -1)
        account = self._operator.jwt(
            self._account.public, {"type": "account", "limits": unlimited | {"wildcards": True}}
        )
        operator = self._operator.jwt(self._operator.public, {"type": "operator"})
        return (
            f"operator: {operator}\n"
            "resolver: MEMORY\n"
            f"resolver_preload: {{ {self._account.public}: {account} }}\n"
        )


class Inbox:
    """Takes what a channel delivers and reports, and lets a test wait for it."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.states: list[bool] = []
        self._news = asyncio.Event()

    def on_message(self, tag: bytes, sender: bytes, payload: bytes) -> None:
        self.messages.append((sender, payload))
        self._news.set()

    def on_connected(self, connected: bool) -> None:
        self.states.append(connected)
        self._news.set()

    async def until(self, holds: Callable[[Inbox], bool], *, within_s: float = 10) -> None:
        """Wait for news until *holds*; a test that waits in vain shows what did come."""
        try:
            async with asyncio.timeout(within_s):
                while not holds(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"waited in vain: {self.states=} {self.messages[-3:]=}")


@pytest.fixture
def make_master(tmp_path: Path) -> Iterator[Callable[..., Master]]:
    """Start a server with further lines of configuration; the test's end kills it."""
    masters: list[Master] = []

    def make(extra: str = "", **options) -> Master:
        folder = tmp_path / f"master{len(masters)}"
        folder.mkdir()
        master = Master(folder, extra, **options)
        masters.append(master)
        master.start()
        return master

    yield make
    for master in masters:
        with suppress(ProcessLookupError):
            master.thaw()
        master.kill()


@pytest.fixture
def master(make_master: Callable[..., Master]) -> Master:
    return make_master()


@pytest.fixture
def make_inbox() -> type[Inbox]:
    return Inbox


@pytest.fixture
def shared_tag() -> bytes:
    return SHARED_TAG


def _part(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
