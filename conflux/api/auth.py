"""Contract of auth drivers: they carry requests to the auth server and its answers back.

What is signed and sealed is made and checked by the kernel (docs/protocol/login.md); the driver
sees tokens and opaque bytes.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from conflux.api.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationRequest:
    """What a new conflux asks for; empty means that the server chooses.

    `cidr`: its address, or one for each range of the plane, parted by a comma. `attempt`: a random
    value, secret like a token; the same request with it makes one conflux, however often it comes.
    """

    token: str
    tag: str = ""
    cidr: str = ""
    teams: Sequence[str] = ()
    portal: bool = False
    attempt: str = ""

    def __repr__(self) -> str:
        return f"RegistrationRequest(tag={self.tag!r}, cidr={self.cidr!r}, teams={self.teams!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the server granted. Addresses are in CIDR form, with the plane's prefix length.

    In a plane of IPv4 and IPv6 `other_addresses` has what is not `address`.
    """

    conflux_id: str
    conflux_token: str
    tag: str
    plane: str
    address: str
    teams: Sequence[str] = ()
    ignored_teams: Sequence[str] = ()
    other_addresses: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"Registration(conflux_id={self.conflux_id!r}, address={self.address!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAnswer:
    """`session` is a short-lived token for `logout`; `sealed` is for the kernel to open."""

    session: str
    sealed: bytes

    def __repr__(self) -> str:
        return "LoginAnswer()"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCheck:
    """How a server answered a question without credentials. `spoken`: protocol and encryption, a
    line for people. `clock_s`: its clock, Unix seconds, None if it does not tell."""

    spoken: str
    clock_s: float | None = None


class AuthDriver(abc.ABC):
    """Speaks to one kind of auth server. *server* is its base URL.

    Every call raises Unreachable when the server does not answer (worth another try) and Refused
    with the server's own one-line reason when it says no.
    """

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abc.abstractmethod
    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        """Turn a registration token into a conflux of its own.

        Called again with the same `attempt`, it returns the conflux that was made the first time,
        with its token; one that asks for something else under it makes a new one in its place.
        """

    @abc.abstractmethod
    async def unregister(self, server: str, *, conflux_token: str) -> None:
        """Give the conflux and its address back. Refused if the server does not know it."""

    @abc.abstractmethod
    async def login(self, server: str, *, conflux_token: str, request: bytes) -> LoginAnswer:
        """Exchange a signed login request for the sealed grant."""

    @abc.abstractmethod
    async def logout(self, server: str, *, session: str) -> None:
        """End a session; the certificate's serial is revoked."""

    async def check(self, server: str) -> ServerCheck | None:
        """Ask without any token whether the server is there and well, for `netcheck`.

        None where the driver cannot tell.
        """
        return None

    @abc.abstractmethod
    async def close(self) -> None:
        """Close every connection. Closing twice is fine."""
