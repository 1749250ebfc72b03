"""Guardian's REST for nodes (docs/protocol/login.md) on httpx."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import certifi

from conflux.api import (
    AuthDriver,
    Closed,
    LoginAnswer,
    Refused,
    Registration,
    RegistrationRequest,
    ServerCheck,
    Settings,
    Unreachable,
    UsageError,
)
from conflux_auth_guardian import answers
from conflux_auth_guardian.client import httpx
from conflux_auth_guardian.text import one_line
from conflux_auth_guardian.url import base_url

MAX_ANSWER_BYTES = 2 * 1024 * 1024
"""The answer to a login may hold 65,535 revoked serials: 1.4 MB in base64."""

_CONNECT_S = 3.0
_DEFAULT_TIMEOUT_S = 10.0
_SETTINGS = ("ca_file", "timeout_s")
_BUSY = frozenset({408, 425, 429})
_BROKEN_OFF = ("disconnected", "peer closed", "incomplete")

_log = logging.getLogger("conflux.auth")
_Answer = TypeVar("_Answer")


class GuardianAuth(AuthDriver):
    """Settings: `timeout_s`, seconds for one call in all; `ca_file`, a PEM file of further CAs.

    Proxies of the environment are used for https, which they cannot read, and never for http.
    A closed driver raises Closed.
    """

    def __init__(self, settings: Settings) -> None:
        if unknown := sorted(set(settings) - set(_SETTINGS)):
            raise UsageError(f"[plugin.auth.guardian] knows no {unknown[0]!r}, only {_SETTINGS}")
        self._timeout_s = _timeout(settings.get("timeout_s", _DEFAULT_TIMEOUT_S))
        ca_file = settings.get("ca_file", "")
        if not isinstance(ca_file, str):
            raise UsageError("[plugin.auth.guardian] ca_file must be the path of a PEM file")
        self._ca_file = ca_file
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._warned: set[str] = set()
        self._closed = False

    async def register(self, server: str, request: RegistrationRequest) -> Registration:
        wanted = {
            "tag": request.tag,
            "cidr": request.cidr,
            "teams": list(request.teams),
            "portal": request.portal,
            "attempt": request.attempt,
        }
        call = _Call("POST", "/conflux/register", request.token, "registration token")
        call.has_json(wanted)
        return await self._ask(server, call, answers.registration)

    async def unregister(self, server: str, *, conflux_token: str) -> None:
        call = _Call("DELETE", "/conflux/unregister", conflux_token, "conflux token")
        await self._ask(server, call)

    async def login(self, server: str, *, conflux_token: str, request: bytes) -> LoginAnswer:
        call = _Call("POST", "/conflux/session/login", conflux_token, "conflux token")
        call.has_octets(request)
        return await self._ask(server, call, answers.login)

    async def logout(self, server: str, *, session: str) -> None:
        call = _Call("POST", "/conflux/session/logout", session, "session token")
        await self._ask(server, call)

    async def check(self, server: str) -> ServerCheck:
        base = base_url(server)
        reply = await self._exchange(base, _Call("GET", "/healthz", None, "nothing"))
        try:
            failing = answers.failing(answers.json_object(reply.body))
        except ValueError:
            raise Refused(
                f"what answers at {base} says {reply.status}: check that it is a Guardian"
            ) from None
        if failing:
            raise Unreachable(f"Guardian at {base} has trouble with {failing}: try again later")
        return ServerCheck(spoken=reply.spoken, clock_s=reply.clock_s)

    async def close(self) -> None:
        self._closed = True
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def _ask(
        self,
        server: str,
        call: _Call,
        parse: Callable[[Mapping[str, object]], _Answer] = lambda _: None,  # type: ignore[assignment, return-value]  # the default serves the calls that return nothing
    ) -> _Answer:
        base = base_url(server)
        self._warn_of_plain_http(base)
        reply = await self._exchange(base, call)
        status, body = reply.status, reply.body
        if status == httpx.codes.NO_CONTENT and not body:
            body = b"{}"
        elif not httpx.codes.is_success(status):
            raise _failure(base, status, body)
        try:
            return parse(answers.json_object(body))
        except ValueError as error:
            raise Refused(
                f"what answers at {base} does not speak as a Guardian does "
                f"({one_line(str(error))}): check the address"
            ) from None

    async def _exchange(self, base: str, call: _Call) -> _Reply:
        """Raises Unreachable or Refused for all that is no HTTP answer."""
        client = self._client(base.partition(":")[0])
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream(
                    call.method, base + call.path, headers=call.headers, content=call.body
                ) as answer,
            ):
                spoken, clock_s = _spoken(answer), _clock_s(answer)
                body = await _read(base, answer)
                return _Reply(answer.status_code, body, spoken, clock_s)
        except (TimeoutError, httpx.TimeoutException):
            raise _silent(base) from None
        except httpx.ProxyError as error:
            raise Unreachable(
                f"the proxy on the way to Guardian at {base} fails ({one_line(str(error))}): "
                "check HTTPS_PROXY and NO_PROXY"
            ) from None
        except httpx.HTTPError as error:
            raise _broken(base, error) from None

    def _client(self, scheme: str) -> httpx.AsyncClient:
        if self._closed:
            raise Closed("the auth driver was closed")
        if scheme not in self._clients:
            self._clients[scheme] = self._new_client(encrypted=scheme == "https")
        return self._clients[scheme]

    def _new_client(self, *, encrypted: bool) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                trust_env=encrypted,
                verify=self._tls_context() if encrypted else False,
                timeout=httpx.Timeout(self._timeout_s, connect=min(_CONNECT_S, self._timeout_s)),
                # Calls are hours apart, and a kept connection that has died would fail the next.
                limits=httpx.Limits(max_keepalive_connections=0),
                headers={
                    "User-Agent": "veilnet-conflux",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UsageError(
                f"the proxy that the environment names cannot be used ({one_line(str(error))}): "
                "correct HTTPS_PROXY or ALL_PROXY, or name Guardian's host in NO_PROXY"
            ) from None

    def _tls_context(self) -> ssl.SSLContext:
        """Trust what the system trusts, Mozilla's list where that says nothing, and ca_file."""
        context = ssl.create_default_context()
        if not _system_has_trust():
            context.load_verify_locations(certifi.where())
        if self._ca_file:
            try:
                context.load_verify_locations(self._ca_file)
            except OSError as error:
                raise UsageError(
                    f"[plugin.auth.guardian] ca_file {self._ca_file} cannot be used "
                    f"({one_line(str(error))}): give a PEM file"
                ) from None
        return context

    def _warn_of_plain_http(self, base: str) -> None:
        if base.startswith("http:") and base not in self._warned:
            self._warned.add(base)
            _log.warning(
                "Guardian at %s is spoken to without TLS: whoever is on the way can take the "
                "token; use https outside of a lab",
                base,
            )


def _system_has_trust() -> bool:
    """Tell whether certificates are where OpenSSL looks for those of the system.

    Not on Windows: its store fetches most of its roots when its own programs first need them.
    """
    paths = ssl.get_default_verify_paths()
    if sys.platform == "win32":
        return False
    return bool(paths.cafile or (paths.capath and os.listdir(paths.capath)))


class _Call:
    """One request. Its token is in no repr."""

    __slots__ = ("body", "headers", "method", "path")

    def __init__(self, method: str, path: str, token: str | None, what: str) -> None:
        if token is not None and not answers.is_token(token):
            raise UsageError(f"the {what} is empty or has characters that none has: copy it again")
        self.method = method
        self.path = path
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.body = b""

    def has_json(self, value: object) -> None:
        self.headers["Content-Type"] = "application/json"
        self.body = json.dumps(value).encode()

    def has_octets(self, octets: bytes) -> None:
        self.headers["Content-Type"] = "application/octet-stream"
        self.body = octets


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    spoken: str
    clock_s: float | None


def _spoken(answer: httpx.Response) -> str:
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    return f"{answer.http_version}, {tls.version() if tls is not None else 'without TLS'}"


def _clock_s(answer: httpx.Response) -> float | None:
    """The header Date (RFC 9110 §6.6.1), in whole seconds."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


async def _read(base: str, answer: httpx.Response) -> bytes:
    # Undecoded: a few compressed bytes could become any number.
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(f"what answers at {base} compresses although asked not to: is it a Guardian?")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise Refused(
                f"what answers at {base} sends more than {MAX_ANSWER_BYTES // 1024} KiB: "
                "is it a Guardian?"
            )
    return bytes(body)


def _failure(base: str, status: int, body: bytes) -> Refused | Unreachable:
    if httpx.codes.is_server_error(status) or status in _BUSY:
        return Unreachable(f"Guardian at {base} has trouble ({status}): try again later")
    if httpx.codes.is_redirect(status):
        return Refused(f"{base} redirects ({status}) and a token goes nowhere else: correct it")
    reason = answers.detail(body)
    return Refused(reason or f"what answers at {base} says {status}: check that it is a Guardian")


def _broken(base: str, error: httpx.HTTPError) -> Refused | Unreachable:
    tls = next((e for e in _causes(error) if isinstance(e, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return Refused(
            f"the certificate of Guardian at {base} is not trusted "
            f"({one_line(tls.verify_message)}): correct it, or name its CA in ca_file of "
            "[plugin.auth.guardian]"
        )
    if tls is not None and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Refused(f"{base} does not speak TLS as it should: check the address and its port")
    text = str(error)
    if isinstance(error, httpx.RemoteProtocolError) and not any(t in text for t in _BROKEN_OFF):
        return Refused(f"what answers at {base} does not speak HTTP: check the address")
    return _silent(base)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _silent(base: str) -> Unreachable:
    return Unreachable(f"Guardian at {base} does not answer: check the address and that it runs")


def _timeout(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 300:
        raise UsageError(
            "[plugin.auth.guardian] timeout_s must be seconds, above 0 and at most 300"
        )
    return float(value)
