"""The outermost handlers: what nobody foresaw is logged whole and told nothing, on the data path and beside it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.catalog.model import Catalog, Resource
from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.database.replicas import UNKNOWN, ReplicaOptions, Replicas
from gateway.definitions.model import Operation
from gateway.errors import Unavailable
from gateway.guards.grants import Unrestricted
from gateway.guards.ratelimit import RateLimiter
from gateway.guards.tokens import Caller
from gateway.http.admission import Admission
from gateway.http.middleware import RequestIds, on_exception, on_http_exception
from gateway.http.responses import Response
from gateway.http.routes import CONSISTENCY, DataRoutes, Edge, Serving, send_response
from gateway.pipeline import Pipeline
from gateway.query.ast import Grant

Messages = list[MutableMapping[str, Any]]


def answer(app: ASGIApp, path: str, method: str = "GET") -> Messages:
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"x-request-id", b"find-me")],
    }

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    return sent


def check_internal_error(sent: Messages, caplog: pytest.LogCaptureFixture) -> None:
    start, body = sent
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-request-id"] == b"find-me"
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert json.loads(body["body"]) == {
        "error": {"code": "INTERNAL_ERROR", "message": "Something went wrong.", "details": {}},
    }
    assert "a secret fault" in caplog.text
    assert "find-me" in caplog.text


def test_a_fault_on_the_data_path_is_logged_whole_and_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def serving() -> Serving:
        raise RuntimeError("a secret fault")

    async def catch_up(_served: Catalog) -> bool:
        return False

    routes = DataRoutes(serving, cast(Admission, None), Edge(10, (), None), catch_up)
    with caplog.at_level(logging.ERROR):
        check_internal_error(answer(routes, "/api/v1/things"), caplog)


def test_a_fault_that_several_requests_share_is_told_to_each_without_the_others_headers() -> None:
    """As a batch's is, of reads and of what writes look up."""
    shared = Unavailable()

    class Things(Pipeline):
        def resource(self, version: str, name: str) -> Resource:
            return cast(Resource, SimpleNamespace(id=f"{version}/{name}", writable=True, timeout_seconds=1.0))

    class Nobody(Unrestricted):
        def grant(self, _resource: Resource, _operation: Operation, _caller: Caller | None) -> Grant:
            raise shared

    pool = Pool(PoolOptions("postgresql://nowhere/", "tests"))
    database = Database(pool)
    pipeline = Things(Catalog({}, {}), database, replicas=Replicas(database, ReplicaOptions((), 1.0, pool.options)))
    serving = Serving(pipeline, Nobody(), {}, lambda _version, _caller: None, {})

    async def catch_up(_served: Catalog) -> bool:
        return False

    routes = DataRoutes(lambda: serving, Admission(RateLimiter(None), None, "", ()), Edge(10, (), None), catch_up)

    def token_headers(method: str) -> list[bytes]:
        start, _ = answer(routes, "/api/v1/things/1", method)
        assert start["status"] == 503
        return [value for name, value in start["headers"] if name == CONSISTENCY]

    told = [token_headers(method) for method in ("PATCH", "DELETE", "GET")]
    assert told == [[UNKNOWN.token], [UNKNOWN.token], []]


def test_a_fault_beside_the_data_path_is_logged_whole_and_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_request: Request) -> NoReturn:
        raise RuntimeError("a secret fault")

    handlers = {HTTPException: on_http_exception, Exception: on_exception}
    app = RequestIds(Starlette(routes=[Route("/broken", broken)], exception_handlers=handlers))
    with caplog.at_level(logging.ERROR):
        check_internal_error(answer(app, "/broken"), caplog)


def test_a_fault_below_starlette_has_the_envelope_too(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_scope: object, _receive: object, _send: object) -> NoReturn:
        raise RuntimeError("a secret fault")

    with caplog.at_level(logging.ERROR):
        check_internal_error(answer(RequestIds(broken), "/"), caplog)


@pytest.mark.parametrize(("status", "with_body", "length"), [(200, True, b"2"), (200, False, b"2"), (204, True, None)])
def test_an_answer_has_its_length_unless_it_has_no_content(status: int, with_body: bool, length: bytes | None) -> None:
    sent: Messages = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    response = Response(status, (), b"" if status == 204 else b"{}")
    asyncio.run(send_response(send, response, b"id", with_body=with_body))
    assert dict(sent[0]["headers"]).get(b"content-length") == length
    assert sent[1]["body"] == (b"{}" if with_body and status == 200 else b"")
