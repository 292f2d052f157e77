"""Spans: an ended request in, its own span and those of its stages and statements out, sent by OTLP over HTTP.

Apart from `traces`, which imports it where something is sent: the SDK takes a sixth of the time of a gateway's start.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from gateway.events import RequestEnded, StatementRan, Timeline, Trace

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"})
COMMANDS: Mapping[str, str] = {
    "list": "SELECT",
    "get": "SELECT",
    "count": "EXPLAIN",
    "create": "INSERT",
    "patch": "UPDATE",
    "delete": "DELETE",
}

HUSHED: Mapping[str, int] = {
    "opentelemetry.sdk._shared_internal": logging.ERROR,  # every span that finds no room
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": logging.ERROR,  # every try that fails
    "opentelemetry.util.re": logging.CRITICAL,  # headers that it cannot read, which may be secrets, in full
}
"""Loggers of the SDK, and the least severe message of each that is worth a line."""


class _Resource(Resource):
    """A resource whose hash is made once: the exporter asks each span for it, and it is made of JSON (a third of its time)."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


class Sender:
    """Makes spans and hands them to the SDK, which sends them by a thread of its own. `service` None is named elsewhere."""

    def __init__(self, service: str | None) -> None:
        for name, level in HUSHED.items():
            logging.getLogger(name).setLevel(level)
        self._resource = _Resource(Resource.create({} if service is None else {"service.name": service}))
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def send(self, ended: RequestEnded, trace: Trace) -> None:
        """Hands over a request's spans. What finds no room is dropped."""
        for span in spans_of(ended, trace, self._resource):
            self._processor.on_end(span)

    def shutdown(self) -> None:
        """Sends what is left, however long that takes."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK has left its type out


SCOPE = InstrumentationScope("gateway")
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNTRACED = frozenset({"parse"})
"""Stages that are too short to be worth a span, which costs 20 µs."""
REDIS = "redis"
"""The stage that is a call to Redis."""


def spans_of(ended: RequestEnded, trace: Trace, resource: Resource) -> Iterator[ReadableSpan]:
    """A request's own span and those of its stages and statements."""
    # Stages are timed by a clock that never goes back; spans tell the time of day.
    zero = time.time_ns() - time.perf_counter_ns()

    def at(moment: float) -> int:
        return zero + int(moment * 1e9)

    state = TraceState.from_header([trace.state]) if trace.state else None

    def context(span_id: int) -> SpanContext:
        return SpanContext(trace.trace_id, span_id, is_remote=False, trace_flags=SAMPLED, trace_state=state)

    noted = ended.timeline
    own = context(trace.span_id)
    parent = SpanContext(trace.trace_id, trace.parent_id, is_remote=True, trace_flags=SAMPLED) if trace.parent_id else None

    def span(name: str, began: float, over: float, attributes: dict[str, Any], **options: Any) -> ReadableSpan:
        return ReadableSpan(
            name,
            options.pop("context", None) or context(random.getrandbits(64) or 1),
            parent=options.pop("parent", own),
            resource=resource,
            attributes=attributes,
            start_time=at(began),
            end_time=at(over),
            instrumentation_scope=SCOPE,
            **options,
        )

    for name, began, over in noted.stages:
        if name in UNTRACED:
            continue
        if name == REDIS:
            yield span(name, began, over, {"db.system.name": "redis"}, kind=SpanKind.CLIENT)
        else:
            yield span(name, began, over, {})
    for ran in noted.statements:
        acquired = ran.ended if ran.acquired is None else ran.acquired
        yield span("pool", ran.asked, acquired, {}, status=_status(ran.acquired is None))
        if ran.acquired is not None:
            name, attributes = _of_statement(ran)
            yield span(name, acquired, ran.ended, attributes, kind=SpanKind.CLIENT, status=_status(bool(ran.fault)))
    method = ended.method if ended.method in METHODS else "HTTP"
    yield span(
        f"{method} {noted.route}",
        ended.began,
        ended.ended,
        _of_request(ended, noted),
        context=own,
        parent=parent,
        kind=SpanKind.SERVER,
        status=_status(ended.status >= 500),
    )


def _status(failed: bool) -> Status:
    return Status(StatusCode.ERROR if failed else StatusCode.UNSET)


def _of_request(ended: RequestEnded, noted: Timeline) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": ended.method if ended.method in METHODS else "_OTHER",
        "http.route": noted.route,
        "http.response.status_code": ended.status,
        "gateway.request_id": noted.request_id,
    }
    if ended.error_code:
        attributes["error.type"] = ended.error_code
    if noted.cache:
        attributes["gateway.cache"] = noted.cache
    if noted.rows is not None:
        attributes["gateway.rows"] = noted.rows
    return attributes


def _of_statement(ran: StatementRan) -> tuple[str, dict[str, Any]]:
    """A statement's span: its name, and what it tells."""
    command, table = COMMANDS.get(ran.purpose.operation, ""), ran.purpose.table
    attributes: dict[str, Any] = {
        "db.system.name": "postgresql",
        "db.query.text": ran.sql,
        "db.response.returned_rows": ran.rows,
        "gateway.operation": ran.purpose.operation,
    }
    if command:
        attributes["db.operation.name"] = command
    if table:
        attributes["db.collection.name"] = table
    if ran.batch > 1:
        attributes["db.operation.batch.size"] = ran.batch
    if ran.fault:
        attributes["error.type"] = ran.fault
    return f"{command} {table}".strip() or "postgresql", attributes
