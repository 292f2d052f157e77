"""The data path: one ASGI application for every resource and operation, found by two dictionary look-ups.

It does not pass through Starlette's router, which tries its routes one by one. It is the outermost handler too: what an
operation raises becomes the error envelope here, and what nobody foresaw becomes a 500 that is logged whole and told nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.catalog.model import Resource
from gateway.errors import GatewayError, InternalError, NotFound
from gateway.http.requests import JSON_TYPES, PATCH_TYPES, ClientLeft, Headers, media_type, read_body, read_headers, split_path
from gateway.http.responses import (
    Response,
    allow_response,
    created_response,
    not_allowed_response,
    page_response,
    problem_response,
    row_response,
)
from gateway.pipeline import Pipeline
from gateway.query.plan import refuse_parameters
from gateway.query.syntax.brackets import parse_list, parse_parameters

logger = logging.getLogger("gateway.http")

COLLECTION = ("GET", "HEAD", "OPTIONS", "POST")
ROW = ("GET", "HEAD", "OPTIONS", "PATCH", "DELETE")
READING = ("GET", "HEAD", "OPTIONS")


class DataRoutes:
    """`/api/{version}/{resource}` and `/api/{version}/{resource}/{key}`, and `/api/{version}/openapi.json`.

    `pipeline` and `documents` are asked for at each request, so that a reload can put others in their place.
    """

    def __init__(
        self, pipeline: Callable[[], Pipeline], documents: Callable[[str], Response | None], max_body_bytes: int
    ) -> None:
        self._pipeline = pipeline
        self._documents = documents
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        try:
            response = await self._answer(scope, headers, receive)
        except GatewayError as error:
            response = problem_response(error)
        except ClientLeft:
            return
        except Exception:
            logger.exception("request %s failed", headers.request_id.decode())
            response = problem_response(InternalError())
        await send_response(send, response, headers.request_id, with_body=scope["method"] != "HEAD")

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive) -> Response:
        path: bytes = scope["raw_path"]
        version, name, key = split_path(path)
        method: str = scope["method"]
        if name == "openapi.json" and key is None:
            return self._document(version, method)
        pipeline = self._pipeline()
        resource = pipeline.resource(version, name)
        if key is None:
            if method in ("GET", "HEAD"):
                query = scope["query_string"]
                return page_response(await pipeline.list_rows(resource, parse_list(query)), path.decode("latin-1"), query)
            allowed: tuple[str, ...] = COLLECTION
        else:
            if method in ("GET", "HEAD"):
                query = scope["query_string"]
                return row_response(await pipeline.get_row(resource, key, parse_parameters(query) if query else {}))
            allowed = ROW
        if not resource.writable:
            allowed = READING
        if method == "OPTIONS":
            return allow_response(allowed)
        if method not in allowed:
            return not_allowed_response(allowed)
        return await self._write(pipeline, resource, key, scope, headers, receive)

    async def _write(
        self,
        pipeline: Pipeline,
        resource: Resource,
        key: tuple[str, ...] | None,
        scope: Scope,
        headers: Headers,
        receive: Receive,
    ) -> Response:
        refuse_parameters(parse_parameters(scope["query_string"]))
        if key is None:
            media_type(headers, JSON_TYPES)
            body = await read_body(headers, receive, self._max_body_bytes)
            return created_response(await pipeline.create_row(resource, body), scope["raw_path"].decode("latin-1"))
        if scope["method"] == "DELETE":
            await pipeline.delete_row(resource, key)
            return NO_CONTENT
        merge = media_type(headers, PATCH_TYPES) == b"application/merge-patch+json"
        body = await read_body(headers, receive, self._max_body_bytes)
        return row_response(await pipeline.patch_row(resource, key, body, merge))

    def _document(self, version: str, method: str) -> Response:
        if method == "OPTIONS":
            return allow_response(READING)
        if method not in READING:
            return not_allowed_response(READING)
        document = self._documents(version)
        if document is None:
            raise NotFound
        return document


NO_CONTENT = Response(204, (), b"")


async def send_response(send: Send, response: Response, request_id: bytes, with_body: bool = True) -> None:
    """Sends the answer with its length and its request id. A 204 has no length (RFC 9110, section 8.6)."""
    headers: list[Any] = [*response.headers, (b"x-request-id", request_id)]
    if response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})
