"""The data path: one ASGI application for every resource and operation, found by two dictionary look-ups.

It does not pass through Starlette's router, which tries its routes one by one. It is the outermost handler too: what an
operation raises becomes the error envelope here, and what nobody foresaw becomes a 500 that is logged whole and told nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from gateway.catalog.model import Catalog, Resource
from gateway.database.replicas import UNKNOWN, Position, read_tokens
from gateway.deadlines import Deadlines
from gateway.definitions.model import Operation
from gateway.errors import (
    Forbidden,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    PreconditionRequired,
    Problem,
    Refused,
    TablesChanged,
    Unavailable,
    ValidationFailed,
)
from gateway.events import Observer, RequestEnded, Timeline, Trace, keep_timeline, nobody, timeline
from gateway.guards.grants import Policy, Unrestricted
from gateway.guards.tokens import Caller
from gateway.http.admission import Admission, Limits, Visitor
from gateway.http.deprecation import Deprecation
from gateway.http.edge import Cors, cors_headers, preflight_response, read_body_within
from gateway.http.etags import wanted_states
from gateway.http.requests import (
    JSON_TYPES,
    PATCH_TYPES,
    PLAN_TYPE,
    ClientLeft,
    Headers,
    Replayed,
    media_type,
    read_headers,
    split_path,
)
from gateway.http.responses import (
    REPLAYED,
    Header,
    Response,
    allow_response,
    created_response,
    page_response,
    plan_response,
    problem_response,
    row_response,
)
from gateway.http.timing import Mode, is_wanted, server_timing
from gateway.idempotency import HEADER, IDEMPOTENCY_KEY, Once, once
from gateway.pipeline import Pipeline
from gateway.query.ast import States
from gateway.query.plan import refuse_parameters
from gateway.query.syntax.brackets import parse_parameters

logger = logging.getLogger("gateway.http")

COLLECTION = ("GET", "HEAD", "OPTIONS", "POST")
ROW = ("GET", "HEAD", "OPTIONS", "PATCH", "DELETE")
READING = ("GET", "HEAD", "OPTIONS")
STOPPING = "The service is stopping."
STOPPED_WRITING = "The service is stopping; whether the write took place is not known."

FEW_IN_FLIGHT = 4
"""Up to so many, a request that reads is counted and served at the same time: 0.08 ms less for a lone caller. Beyond, the one
after the other costs less (7 % of a point read), and callers wait for the processor anyway."""
MAX_TRIES = 3
"""Of a request whose statement meets tables that have changed under it."""

UNKNOWN_ROUTE = "/api/{unknown}"
"""The template of what names no resource. What is told of a request never holds its path."""
DOCUMENT_ROUTE = "/api/{version}/openapi.json"
CLIENT_LEFT = 499
"""What nginx calls it: the caller was gone before there was an answer. It is only ever told to logs and metrics."""
CONSISTENCY = b"x-consistency-token"
DOUBTFUL = frozenset({408, 409, 412, 500, 503})
"""Refusals of a write after which its caller reads what is there, and has to see what the primary saw."""


class Serving(msgspec.Struct, frozen=True, eq=False):
    """What requests are served from, made of one catalog. A reload makes another and puts it in this one's place."""

    pipeline: Pipeline
    policy: Policy | Unrestricted
    limits: Limits
    document: Callable[[str, Caller | None], Response | None]
    deprecations: Mapping[str, Deprecation]


class Edge(msgspec.Struct, frozen=True, eq=False):
    """What holds for every request: `always` are headers of every answer, `cors` None where no other origin may read.
    `observe` hears of every request, `begin` says where it stands in a trace, `is_traced` whether that is more than its caller's
    own, `timing` who is told where the time went."""

    max_body_bytes: int
    always: tuple[Header, ...]
    cors: Cors | None
    observe: Observer = nobody
    is_traced: bool = False
    begin: Callable[[bytes, bytes], Trace | None] = lambda _traceparent, _tracestate: None
    timing: Mode = "asked"


class DataRoutes:
    """`/api/{version}/{resource}` and `/api/{version}/{resource}/{key}`, and `/api/{version}/openapi.json`.

    `serving` is asked for at each request, so that a reload can put another in its place. `catch_up` is told of a catalog that
    does not fit the tables any more, and tells whether there is another one now.
    """

    def __init__(
        self, serving: Callable[[], Serving], admission: Admission, edge: Edge, catch_up: Callable[[Catalog], Awaitable[bool]]
    ) -> None:
        self.serving = serving
        self._catch_up = catch_up
        self.admission = admission
        self.edge = edge
        self.in_flight = 0
        self.deadlines = Deadlines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = read_headers(scope)
        noted = Timeline(headers.request_id.decode(), UNKNOWN_ROUTE, self.edge.begin(headers.traceparent, headers.tracestate))
        keep_timeline(noted)
        noted.note("parse", began)
        visitor = Visitor()
        status, error_code = CLIENT_LEFT, ""
        self.in_flight += 1
        try:
            response, always, error_code = await self._respond(scope, headers, visitor, receive)
            status = response.status
            if is_wanted(self.edge.timing, headers.server_timing):
                always += (server_timing(noted, began, time.perf_counter()),)
            await send_response(send, response, headers.request_id, always, with_body=scope["method"] != "HEAD")
        except ClientLeft:
            return
        finally:
            self.in_flight -= 1
            subject = "" if visitor.caller is None else visitor.caller.subject
            ended = time.perf_counter()
            self.edge.observe(RequestEnded(scope["method"], status, began, ended, subject, error_code, noted))

    async def _respond(
        self, scope: Scope, headers: Headers, visitor: Visitor, receive: Receive
    ) -> tuple[Response, tuple[Header, ...], str]:
        """An answer in every case, the headers to add to it, and its error's code. Raises ClientLeft."""
        edge = self.edge
        always = edge.always
        if edge.cors is not None:
            preflight = preflight_response(edge.cors, scope["method"], scope["headers"])
            if preflight is not None:
                return preflight, (), ""
            always += cors_headers(edge.cors, headers.origin)
        response, error_code = await self._told(scope, headers, self._answer(scope, headers, visitor, receive))
        if visitor.decision is not None:
            always += visitor.headers
        if visitor.deprecation is not None:
            always += visitor.deprecation.headers(scope["raw_path"])
        always += visitor.more
        return response, always, error_code

    async def _told(self, scope: Scope, headers: Headers, answer: Awaitable[Response]) -> tuple[Response, str]:
        """The answer, or what is told in place of it, and its error's code. Raises ClientLeft."""
        try:
            return await answer, ""
        except GatewayError as error:
            timeline().refused = isinstance(error, Refused)
            return problem_response(error), error.code
        except ClientLeft:
            raise
        except asyncio.CancelledError:  # by the server's end, which waits no longer
            stopped = Unavailable(STOPPING) if scope["method"] in READING else OutcomeUnknown(STOPPED_WRITING)
            return problem_response(stopped), stopped.code
        except Exception:
            logger.exception("request %s failed", headers.request_id.decode())
            return problem_response(InternalError()), InternalError.code

    async def resume(self, scope: Scope, headers: Headers, visitor: Visitor) -> tuple[Response, str]:
        """The answer to a read that `fast_path` has admitted and counted, and cannot go on with, and its error's code."""
        place = split_path(scope["raw_path"])
        return await self._told(scope, headers, self._admitted(self.serving(), place, scope, headers, visitor, no_body))

    async def _answer(self, scope: Scope, headers: Headers, visitor: Visitor, receive: Receive) -> Response:
        path: bytes = scope["raw_path"]
        serving = self.serving()
        try:
            version, name, key = split_path(path)
        except NotFound:
            await self.admission.admit(scope, None, visitor)
            raise
        noted = timeline()
        began = time.perf_counter()
        method: str = scope["method"]
        limit = serving.limits.get((version, name))
        few = self.in_flight <= FEW_IN_FLIGHT
        counting = self.admission.begin(scope, limit, visitor) if few and method in READING else None
        if counting is None:
            await self.admission.admit(scope, limit, visitor)
            noted.note("token", began)
            return await self._admitted(serving, (version, name, key), scope, headers, visitor, receive)
        noted.note("token", began)
        try:
            return await self._admitted(serving, (version, name, key), scope, headers, visitor, receive)
        finally:
            await counting  # whatever the read came to, a refusal takes its place

    async def _admitted(
        self,
        serving: Serving,
        place: tuple[str, str, tuple[str, ...] | None],
        scope: Scope,
        headers: Headers,
        visitor: Visitor,
        receive: Receive,
    ) -> Response:
        method: str = scope["method"]
        version, name, key = place
        noted = timeline()
        noted.client = self.admission.client(scope, visitor)
        if name == "openapi.json" and key is None:
            noted.route = DOCUMENT_ROUTE
            return _document(serving, version, method, visitor.caller)
        body = receive if method in READING else Replayed(receive)
        tries = 0
        while True:
            try:
                return await self._serve(serving, place, scope, headers, visitor, body)
            except TablesChanged:  # then the whole statement failed, and nothing was written
                tries += 1
                if tries == MAX_TRIES or not await self._catch_up(serving.pipeline.catalog):
                    raise
            serving = self.serving()
            visitor.looked = None
            if isinstance(body, Replayed):
                body.rewind()

    async def _serve(
        self,
        serving: Serving,
        place: tuple[str, str, tuple[str, ...] | None],
        scope: Scope,
        headers: Headers,
        visitor: Visitor,
        receive: Receive,
    ) -> Response:
        """The answer by one catalog."""
        version, name, key = place
        method: str = scope["method"]
        resource = serving.pipeline.resource(version, name)
        timeline().route = routes_of(resource)[key is not None]
        if serving.deprecations:
            visitor.deprecation = serving.deprecations.get(resource.id)
        if method in ("GET", "HEAD"):
            with self.deadlines.within(serving.pipeline.bound_seconds(resource), read_late):
                return await _read(serving, resource, key, scope, headers, visitor)
        allowed = (COLLECTION if key is None else ROW) if resource.writable else READING
        if method == "OPTIONS":
            return allow_response(allowed)
        if method not in allowed:
            raise MethodNotAllowed(allowed)
        if headers.consistency:
            read_tokens(headers.consistency)
        try:
            response = await self._write(serving, resource, key, scope, headers, visitor.caller, receive)
        except BaseException as error:  # the server's end and a fault of ours leave a doubt too
            is_clear = isinstance(error, GatewayError) and error.status not in DOUBTFUL
            if not is_clear and serving.pipeline.replicas is not None:
                visitor.more = ((CONSISTENCY, UNKNOWN.token),)
            raise
        return _marked(response, await serving.pipeline.position())

    async def _write(
        self,
        serving: Serving,
        resource: Resource,
        key: tuple[str, ...] | None,
        scope: Scope,
        headers: Headers,
        caller: Caller | None,
        receive: Receive,
    ) -> Response:
        pipeline = serving.pipeline
        grant = serving.policy.grant(resource, WRITES[scope["method"]], caller)
        refuse_parameters(parse_parameters(scope["query_string"]))
        states = _condition(resource, key, headers)
        if key is None:
            media_type(headers, JSON_TYPES)
            body = await self._body(headers, receive)
            this = _once(headers, caller, "create", resource, None, body)
            with self.deadlines.within(pipeline.bound_seconds(resource), OutcomeUnknown):
                created = await pipeline.create_row(resource, body, grant, this)
            return created_response(created, scope["raw_path"].decode("latin-1"))
        if scope["method"] == "DELETE":
            this = _once(headers, caller, "delete", resource, key, b"")
            with self.deadlines.within(pipeline.bound_seconds(resource), OutcomeUnknown):
                gone_before = await pipeline.delete_row(resource, key, grant, states, this)
            return GONE_BEFORE if gone_before else NO_CONTENT
        merge = media_type(headers, PATCH_TYPES) == b"application/merge-patch+json"
        body = await self._body(headers, receive)
        this = _once(headers, caller, "patch", resource, key, body)
        with self.deadlines.within(pipeline.bound_seconds(resource), OutcomeUnknown):
            row = await pipeline.patch_row(resource, key, body, merge, grant, states, this)
        return row_response(row)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        began = time.perf_counter()
        try:
            return await read_body_within(headers, receive, self.edge.max_body_bytes)
        finally:
            timeline().note("parse", began)


def routes_of(resource: Resource) -> tuple[str, str]:
    """The templates of the resource's paths: of all rows, and of one."""
    return f"/api/{resource.id}", f"/api/{resource.id}/{{key}}"


def read_late() -> Unavailable:
    """The refusal of a read that took too long."""
    return Unavailable("The database did not answer in time.")


async def no_body() -> Message:
    """The `receive` of a request without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _once(
    headers: Headers,
    caller: Caller | None,
    operation: Operation,
    resource: Resource,
    key: tuple[str, ...] | None,
    body: bytes,
) -> Once | None:
    """What the request's Idempotency-Key names; None without one. Raises ValidationFailed for one that is not written as it must.

    Callers without a token share what they name: nobody can be told from another by an address, which changes as phones move.
    """
    if not headers.idempotency_key:
        return None
    written = headers.idempotency_key.strip()
    if _IDEMPOTENCY_KEY.fullmatch(written) is None:
        takes = 'takes one text of 1 to 255 printable characters, in quotes: "8e03978e-40d5-43dd-bc93-6894a57f9324"'
        raise ValidationFailed("A header is not valid.", [Problem(HEADER, takes)])
    asks = () if caller is None else (str(caller.claims.get("iss", "")), caller.subject)
    return once(written.decode(), asks, (operation, resource.id, key), (headers.content_type, headers.if_match, body))


def _condition(resource: Resource, key: tuple[str, ...] | None, headers: Headers) -> States | None:
    """The states of the row in which the caller wants to find it; None for any.

    Raises ValidationFailed for a condition that cannot be held here: one that is passed over would promise what is not done.
    """
    if headers.if_none_match:
        raise _not_here("If-None-Match", "is for GET and HEAD")
    if key is None:
        if headers.if_match:
            raise _not_here("If-Match", "is for one row: GET, HEAD, PATCH and DELETE")
        return None
    if not headers.if_match and resource.require_if_match:
        raise PreconditionRequired("If-Match is required here: send the ETag of the row as you read it.")
    states = wanted_states(headers)
    if states is not None and not resource.is_versioned:
        raise _not_here("If-Match", "takes * alone here: nothing tells whether a row of this resource has changed")
    return states


def _not_here(header: str, message: str) -> ValidationFailed:
    return ValidationFailed("A header does not apply here.", [Problem(header, message)])


def _marked(response: Response, position: Position | None) -> Response:
    """The answer to a write, with what its caller brings back to find it."""
    if position is None:
        return response
    return Response(response.status, (*response.headers, (CONSISTENCY, position.token)), response.body)


async def _read(
    serving: Serving,
    resource: Resource,
    key: tuple[str, ...] | None,
    scope: Scope,
    headers: Headers,
    visitor: Visitor,
) -> Response:
    caller = visitor.caller
    grant = serving.policy.grant(resource, "read", caller)
    query: bytes = scope["query_string"]
    if headers.accept == PLAN_TYPE:
        if not serving.policy.may_explain(caller):
            raise Forbidden("Plans are shown to certain roles alone.")
        parameters = parse_parameters(query) if query and key is not None else {}
        return plan_response(await serving.pipeline.explain(resource, key, query, parameters, grant))
    refresh = b"no-cache" in headers.cache_control or b"no-store" in headers.cache_control
    after = read_tokens(headers.consistency) if headers.consistency else None
    if key is None:
        page, freshness = await serving.pipeline.list_query(resource, query, grant, refresh, after, visitor.looked)
        began = time.perf_counter()
        timeline().rows = page.length
        response = page_response(page, scope["raw_path"].decode("latin-1"), query, freshness)
        timeline().note("render", began)
        return response
    parameters = parse_parameters(query) if query else {}
    row, freshness = await serving.pipeline.read_row(resource, key, parameters, grant, refresh, after, visitor.looked)
    began = time.perf_counter()
    timeline().rows = 1
    response = row_response(row, freshness, headers)
    timeline().note("render", began)
    return response


def _document(serving: Serving, version: str, method: str, caller: Caller | None) -> Response:
    if method == "OPTIONS":
        return allow_response(READING)
    if method not in READING:
        raise MethodNotAllowed(READING)
    document = serving.document(version, caller)
    if document is None:
        raise NotFound
    return document


WRITES: dict[str, Operation] = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
NO_CONTENT = Response(204, (), b"")
GONE_BEFORE = Response(204, (REPLAYED,), b"")
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY.encode())


async def send_response(
    send: Send, response: Response, request_id: bytes, always: tuple[Header, ...] = (), with_body: bool = True
) -> None:
    """Sends the answer with its length, its request id and `always`. A 204 has no length (RFC 9110, section 8.6).

    A 304 has none either: it would have to be that of the answer that is not sent.
    """
    headers: list[Any] = [*response.headers, *always, (b"x-request-id", request_id)]
    respond = getattr(send, "respond", None)
    if respond is not None:  # our own server's, which takes an answer whole: see `protocol`
        await respond(response.status, headers, response.body)
        return
    if response.status not in (204, 304):
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})
