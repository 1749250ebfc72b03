"""Conformance of auth drivers."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any, Protocol

import pytest

from conflux.api import AuthDriver, Refused, RegistrationRequest, Unavailable, Unreachable
from conflux.testing.rig import named, not_here, run


class AuthServer(Protocol):
    """A running auth server, with what a test must be able to get from it."""

    url: str
    dead_url: str
    """Like `url`, but nobody answers there."""

    async def registration_token(self) -> str:
        """Return a fresh registration token, good for at least one conflux."""

    def login_request(self, conflux_token: str) -> bytes:
        """Return a signed login request that the server takes, a new one each time."""


_Check = Callable[["Any", AuthDriver, AuthServer], Awaitable[None]]


def _with_server(check: _Check) -> Callable[[Any], None]:
    def test(self: AuthConformance) -> None:
        async def main() -> None:
            async with self.server() as server:
                try:
                    driver = self.make_driver()
                except Unavailable as error:
                    not_here(error)
                try:
                    await check(self, driver, server)
                finally:
                    await driver.close()

        run(main())

    return named(test, check)


class AuthConformance(abc.ABC):
    """Subclass, return a driver and a server for it to talk to, run pytest."""

    @abc.abstractmethod
    def make_driver(self) -> AuthDriver:
        """Return a driver. Raise Unavailable to skip, with the reason."""

    @abc.abstractmethod
    def server(self) -> AbstractAsyncContextManager[AuthServer]:
        """Run a server of the driver's kind for as long as the context lasts."""

    @_with_server
    async def test_registration_turns_a_token_into_a_conflux(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        request = RegistrationRequest(token=await server.registration_token(), tag="kit")
        granted = await driver.register(server.url, request)
        assert granted.conflux_id
        assert granted.conflux_token
        assert granted.plane
        assert granted.tag == "kit"
        for address in map(ip_interface, (granted.address, *granted.other_addresses)):
            assert address.network.prefixlen < address.max_prefixlen, "the plane's prefix length"

    @_with_server
    async def test_repeated_registration_makes_one_conflux(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        token = await server.registration_token()
        request = RegistrationRequest(token=token, tag="kit", attempt="A" * 43)
        granted = await driver.register(server.url, request)
        assert await driver.register(server.url, request) == granted
        other = await driver.register(server.url, replace(request, tag="other"))
        assert other.tag == "other"
        with pytest.raises(Refused):
            await driver.unregister(server.url, conflux_token=granted.conflux_token)
        second = await driver.register(server.url, replace(request, attempt="B" * 43))
        assert second.conflux_id != other.conflux_id
        await driver.unregister(server.url, conflux_token=other.conflux_token)

    @_with_server
    async def test_login_gives_a_session_and_a_sealed_grant(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        token = await _register(driver, server)
        answer = await driver.login(
            server.url, conflux_token=token, request=server.login_request(token)
        )
        assert answer.session
        assert type(answer.sealed) is bytes
        assert answer.sealed
        await driver.logout(server.url, session=answer.session)

    @_with_server
    async def test_foreign_tokens_are_refused_with_a_line_for_people(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        good = await _register(driver, server)
        foreign = good[:-6] + "AAAAAA"
        for attempt in (
            lambda: driver.register(server.url, RegistrationRequest(token="vnr_foreign")),  # noqa: S106 (is no password)
            lambda: driver.login(
                server.url, conflux_token=foreign, request=server.login_request(good)
            ),
            lambda: driver.unregister(server.url, conflux_token=foreign),
            lambda: driver.logout(server.url, session="foreign"),
        ):
            with pytest.raises(Refused) as caught:
                await attempt()
            reason = str(caught.value)
            assert reason.strip()
            assert "\n" not in reason
            assert good not in reason, "an error must not show a token"
            assert foreign not in reason, "an error must not show a token"

    @_with_server
    async def test_login_request_that_is_noise_is_refused(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        token = await _register(driver, server)
        for noise in (b"", b"\xff" * 100):
            with pytest.raises(Refused):
                await driver.login(server.url, conflux_token=token, request=noise)

    @_with_server
    async def test_unregistered_conflux_cannot_log_in(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        token = await _register(driver, server)
        await driver.unregister(server.url, conflux_token=token)
        with pytest.raises(Refused):
            await driver.login(server.url, conflux_token=token, request=server.login_request(token))
        with pytest.raises(Refused):
            await driver.unregister(server.url, conflux_token=token)

    @_with_server
    async def test_silent_server_is_unreachable(
        self, driver: AuthDriver, server: AuthServer
    ) -> None:
        token, nowhere = await _register(driver, server), server.dead_url
        request = server.login_request(token)
        fresh = RegistrationRequest(token=await server.registration_token())
        for attempt in (
            lambda: driver.register(nowhere, fresh),
            lambda: driver.login(nowhere, conflux_token=token, request=request),
            lambda: driver.unregister(nowhere, conflux_token=token),
            lambda: driver.logout(nowhere, session="any"),
        ):
            with pytest.raises(Unreachable) as caught:
                await attempt()
            assert "\n" not in str(caught.value)
            assert token not in str(caught.value), "an error must not show a token"
        # What failed has not cost the conflux its place.
        await driver.login(server.url, conflux_token=token, request=request)

    @_with_server
    async def test_close_twice_is_fine(self, driver: AuthDriver, server: AuthServer) -> None:
        await _register(driver, server)
        await driver.close()
        await driver.close()


async def _register(driver: AuthDriver, server: AuthServer) -> str:
    request = RegistrationRequest(token=await server.registration_token())
    return (await driver.register(server.url, request)).conflux_token
