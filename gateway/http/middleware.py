"""Plain ASGI around what is off the data path: a request id on every answer, and our error envelope in place of Starlette's."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, InternalError, MethodNotAllowed, NotFound
from gateway.http.requests import read_headers
from gateway.http.responses import problem_response

logger = logging.getLogger("gateway.http")


class RequestIds:
    """Adds `X-Request-Id` to every HTTP answer of `app`, and answers 500 for what it raises."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = read_headers(scope).request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            if not started:
                await as_starlette(InternalError())(scope, receive, send_with_id)


def as_starlette(error: GatewayError) -> Response:
    """The error envelope as a Starlette response."""
    response = problem_response(error)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return Response(response.body, response.status, headers)


async def on_exception(_request: Request, _fault: Exception) -> Response:
    """What nobody foresaw. Starlette raises it again once this is sent, for `RequestIds` to log."""
    return as_starlette(InternalError())


async def on_http_exception(_request: Request, fault: Exception) -> Response:
    """Starlette's own refusals, an unknown path and a wrong method, as ours."""
    if isinstance(fault, HTTPException) and fault.status_code == 405:
        allowed = (fault.headers or {}).get("Allow", "GET, HEAD")
        return as_starlette(MethodNotAllowed(allowed.split(", ")))
    return as_starlette(NotFound())
