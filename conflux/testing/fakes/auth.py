"""An auth server in memory and the driver that talks to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from conflux.api import (
    AuthDriver,
    LoginAnswer,
    Refused,
    Registration,
    RegistrationRequest,
    Settings,
    Unreachable,
)

LOGIN_MARK = b"login request for "

Seal = Callable[[str, bytes], bytes]
"""(conflux token, login request) to sealed grant; raises Refused."""


def echo(conflux_token: str, request: bytes) -> bytes:
    """The default `Seal`: takes `MemoryGuardian.login_request`, seals nothing."""
    digest = hashlib.sha256(conflux_token.encode()).digest()
    if not request.startswith(LOGIN_MARK + digest):
        raise Refused("the login request is malformed")
    return b"sealed:" + request


class MemoryGuardian:
    """Registers and logs in without a network. Hand in a *seal* that grants what a test needs."""

    def __init__(self, seal: Seal = echo) -> None:
        self.url = "memory://guardian"
        self.dead_url = "memory://nowhere"
        self.registrations: dict[str, Registration] = {}
        """By conflux token."""
        self.sessions: dict[str, str] = {}
        """Conflux token by session."""
        self._seal = seal
        self._tokens: set[str] = set()
        self._attempts: dict[str, tuple[RegistrationRequest, Registration]] = {}
        self._made = 0

    async def registration_token(self) -> str:
        token = f"vnr_{self._next():06}"
        self._tokens.add(token)
        return token

    def login_request(self, conflux_token: str) -> bytes:
        digest = hashlib.sha256(conflux_token.encode()).digest()
        return LOGIN_MARK + digest + self._next().to_bytes(8, "big")

    def register(self, request: RegistrationRequest) -> Registration:
        if request.token not in self._tokens:
            raise Refused("the registration token is unknown: ask for a new one")
        if request.attempt in self._attempts:
            asked, made = self._attempts.pop(request.attempt)
            if asked == request and made.conflux_token in self.registrations:
                self._attempts[request.attempt] = asked, made
                return made
            self.registrations.pop(made.conflux_token, None)
        number = self._next()
        granted = Registration(
            conflux_id=f"conflux-{number}",
            conflux_token=f"vnc_{number:06}",
            tag=request.tag or f"conflux-{number}",
            plane="memory",
            address=request.cidr or f"10.128.{number // 256}.{number % 256}/16",
            teams=tuple(request.teams),
        )
        self.registrations[granted.conflux_token] = granted
        if request.attempt:
            self._attempts[request.attempt] = request, granted
        return granted

    def unregister(self, conflux_token: str) -> None:
        if self.registrations.pop(conflux_token, None) is None:
            raise Refused("the conflux is unknown: it was unregistered before")

    def login(self, conflux_token: str, request: bytes) -> LoginAnswer:
        if conflux_token not in self.registrations:
            raise Refused("the conflux is unknown: register again")
        sealed = self._seal(conflux_token, request)
        session = f"session-{self._next()}"
        self.sessions[session] = conflux_token
        return LoginAnswer(session=session, sealed=sealed)

    def logout(self, session: str) -> None:
        if self.sessions.pop(session, None) is None:
            raise Refused("the session is unknown: it has ended before")

    def _next(self) -> int:
        self._made += 1
        return self._made


class MemoryAuth(AuthDriver):
    """Talks to the MemoryGuardian that it was made with."""

    def __init__(
        self, settings: Settings | None = None, *, guardian: MemoryGuardian | None = None
    ) -> None:
        self._guardian = guardian or MemoryGuardian()

    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        return self._at(server).register(request)

    async def unregister(self, server: str, *, conflux_token: str) -> None:
        self._at(server).unregister(conflux_token)

    async def login(self, server: str, *, conflux_token: str, request: bytes) -> LoginAnswer:
        return self._at(server).login(conflux_token, request)

    async def logout(self, server: str, *, session: str) -> None:
        self._at(server).logout(session)

    async def close(self) -> None:
        """There is no connection."""

    def _at(self, server: str) -> MemoryGuardian:
        if server != self._guardian.url:
            raise Unreachable(f"{server} does not answer: is it the right address?")
        return self._guardian
