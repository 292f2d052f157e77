"""Plain ASGI around what is off the data path: a request id on every answer, and our error envelope in place of Starlette's."""

from __future__ import annotations

import logging
import time

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ERRORS, GatewayError, InternalError, MethodNotAllowed, NotFound
from gateway.events import Observer, RequestEnded, Timeline, keep_timeline, nobody
from gateway.http.requests import read_headers
from gateway.http.responses import problem_response
from gateway.http.timing import Mode, is_wanted, server_timing

logger = logging.getLogger("gateway.http")


ROUTES = {path: path for path in ("/health/live", "/health/ready", "/metrics", "/docs")}
"""Templates of what is served here; `/docs/{name}` and whatever is not served have one each."""
CODES = {error.status: error.code for error in ERRORS}


class RequestIds:
    """Adds `X-Request-Id` to every HTTP answer of `app`, answers 500 for what it raises, and tells `observe` of each."""

    def __init__(self, app: ASGIApp, observe: Observer = nobody, timing: Mode = "asked") -> None:
        self.app = app
        self._observe = observe
        self._timing = timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = read_headers(scope)
        request_id = headers.request_id
        noted = Timeline(request_id.decode(), route_of(scope["path"]))
        keep_timeline(noted)
        started, status = False, 500

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                added = [(b"x-request-id", request_id)]
                if is_wanted(self._timing, headers.server_timing):
                    added.append(server_timing(noted, began, time.perf_counter()))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            if not started:
                await as_starlette(InternalError())(scope, receive, send_with_id)
        finally:
            code = "" if status < 400 else CODES.get(status, InternalError.code)
            self._observe(RequestEnded(scope["method"], status, began, time.perf_counter(), "", code, noted))


def route_of(path: str) -> str:
    """The template of a path that is not of the data."""
    return ROUTES.get(path) or ("/docs/{name}" if path.startswith("/docs/") else "/{unknown}")


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
