"""The REST interface, put together: limits around it, one form for every error, the routes."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veilnet_guardian.context import Guardian
from veilnet_guardian.docs_page import add_docs
from veilnet_guardian.errors import GuardianError, TooMany, one_line
from veilnet_guardian.routes import auth, conflux, health, org, plane

MAX_BODY_BYTES = 65_536
BODY_S = 10.0
"""How long a body may take to come in."""

DESCRIPTION = """\
Guardian admits conflux to VeilNet and grants them teams. It never carries a packet.

Users log in with `POST /auth/login` and send the token as bearer. A conflux registers with a
registration token, then logs in with its conflux token. Every error is
`{"detail": "<one line on what to do>"}`.
"""


def create_app(guardian: Guardian) -> ASGIApp:
    """Return the application around *guardian*."""
    app = FastAPI(
        title="VeilNet Guardian",
        version=version("veilnet-guardian"),
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        # FastAPI's own pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.guardian = guardian
    for module in (auth, plane, conflux, org, health):
        app.include_router(module.router)
    add_docs(app)
    app.add_exception_handler(GuardianError, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DBAPIError, _unavailable)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    return BoundedBodies(app)


class BoundedBodies:
    """Takes in a request's whole body before the application sees it: small enough, soon enough."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_S):
                body = await _whole_body(receive)
        except TimeoutError:
            await _plain(408, "the request's body did not come in time: send it again")(
                scope, receive, send
            )
            return
        if body is None:
            answer = _plain(413, f"the request's body is longer than {MAX_BODY_BYTES} bytes")
            # What is left of the body is not read: the connection cannot be used again.
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _whole_body(receive: Receive) -> bytes | None:
    """None if it is too long, without reading on."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


def _plain(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": one_line(detail)}, status_code=status)


async def _refusal(_request: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, GuardianError) else 500
    answer = _plain(status, str(error))
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooMany):
        answer.headers["Retry-After"] = str(error.retry_s)
    return answer


async def _failed(_request: Request, _error: Exception) -> JSONResponse:
    """A bug. It is raised again after the answer, so that the log has it."""
    return _plain(500, "Guardian failed: its log says why")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return await _failed(request, error)
    answer = _plain(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """Name the fields and what is wrong with them, never what was sent: it may be a secret."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    lines = [
        f"{'.'.join(str(part)[:40] for part in problem['loc'][1:6])}: {problem['msg'][:200]}"
        for problem in problems[:5]
    ]
    return _plain(422, "; ".join(lines) or "the request is malformed")


async def _unavailable(_request: Request, _error: Exception) -> JSONResponse:
    return _plain(503, "Guardian's database does not answer: try again soon")
