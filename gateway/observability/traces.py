"""Traces: where a request stands in one, decided at its start; its spans, made of its timeline at its end, by OTLP over HTTP.

Only a sampled request has spans, so that any other costs a random number. They are handed to the SDK's batch processor, which
sends them by a thread of its own: a collector that is slow or down holds up nobody, and what finds no room is dropped.

The standard variables settle all of it (`OTEL_*`, OpenTelemetry's "Environment Variable Specification"). Nothing is sent until
one of them names an exporter or an endpoint. Spans tell routes and SQL, never paths, queries, keys, bodies or values.
Sources: W3C Trace Context; OpenTelemetry's semantic conventions for HTTP and databases.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from gateway.errors import ConfigurationError
from gateway.events import Handlers, RequestEnded, StatementRan, Timeline, Trace

STOP_SECONDS = 1.0
"""How long the end of the process waits for the last spans to be sent."""

TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_STATE_BYTES = 512
"""W3C Trace Context, 3.3.1.5: what one must pass on at least."""

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"})
COMMANDS: Mapping[str, str] = {
    "list": "SELECT",
    "get": "SELECT",
    "count": "EXPLAIN",
    "create": "INSERT",
    "patch": "UPDATE",
    "delete": "DELETE",
}
_TRACE_BITS = (1 << 64) - 1


class Parent(msgspec.Struct, frozen=True):
    """What a caller's `traceparent` says."""

    trace_id: int
    span_id: int
    sampled: bool


def read_parent(traceparent: bytes) -> Parent | None:
    """The caller's span; None for a header that is not well formed, which counts as none at all (W3C Trace Context, 3.2)."""
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Parent(trace_id, span_id, bool(int(found[4], 16) & 1)) if trace_id and span_id else None


class Sampling(msgspec.Struct, frozen=True):
    """Which requests have spans: of those without a sampled parent the ones whose trace id's lower half is below `bound`.

    `by_parent` is whether a parent's word counts.
    """

    by_parent: bool
    bound: int


SAMPLERS: Mapping[str, tuple[bool, float | None]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
"""OTEL_TRACES_SAMPLER: whether the parent's word counts, and the part of the others; None is OTEL_TRACES_SAMPLER_ARG's."""


def read_sampling(environ: Mapping[str, str]) -> Sampling:
    """The sampler of the standard variables. Raises ConfigurationError for one that does not exist, or a part that is none."""
    name = environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    if name not in SAMPLERS:
        raise ConfigurationError(f'OTEL_TRACES_SAMPLER: held "{name}"; takes {", ".join(SAMPLERS)}')
    by_parent, part = SAMPLERS[name]
    if part is None:
        written = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
        try:
            part = float(written)
        except ValueError:
            part = -1.0
        if not 0 <= part <= 1:
            raise ConfigurationError(f'OTEL_TRACES_SAMPLER_ARG: held "{written}"; takes a number from 0 to 1')
    return Sampling(by_parent, round(part * (_TRACE_BITS + 1)))


EXPORTERS = ("otlp", "none")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
HEADER = re.compile(r"[ \t]*[\w!#$%&'*+.^`|~-]+[ \t]*=[ -~]*", re.ASCII)
"""One of HEADERS' parts, between two commas."""

BATCHING: Mapping[str, int] = {
    "OTEL_BSP_SCHEDULE_DELAY": 5000,
    "OTEL_BSP_EXPORT_TIMEOUT": 30000,
    "OTEL_BSP_MAX_QUEUE_SIZE": 2048,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 512,
}
"""The whole numbers, with the specification's own values for those that are not set."""

HUSHED: Mapping[str, int] = {
    "opentelemetry.sdk._shared_internal": logging.ERROR,  # every span that finds no room
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": logging.ERROR,  # every try that fails
    "opentelemetry.util.re": logging.CRITICAL,  # headers that it cannot read, which may be secrets, in full
}
"""Loggers of the SDK, and the least severe message of each that is worth a line."""


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces. Raises ConfigurationError for an exporter that we have not, and where what
    is to be sent with cannot be. Endpoints and headers may hold a secret: then the variable is named, but not what it held."""
    exporter = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(environ.get(name) for name in ENDPOINTS) else "none")
    if exporter not in EXPORTERS:
        raise ConfigurationError(f'OTEL_TRACES_EXPORTER: held "{exporter}"; takes {" or ".join(EXPORTERS)}')
    wanted = exporter == "otlp" and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    if wanted and (faults := [*_sending_faults(environ), *_batching_faults(environ)]):
        raise ConfigurationError("\n".join(faults))
    return wanted


def wanted_sampling(environ: Mapping[str, str]) -> Sampling | None:
    """What is sampled; None where nothing is traced. Raises ConfigurationError for what would keep it from being sent."""
    return read_sampling(environ) if is_wanted(environ) else None


def _sending_faults(environ: Mapping[str, str]) -> Iterator[str]:
    for name in ENDPOINTS:
        if (value := environ.get(name)) and not _is_web_url(value):
            yield f"{name}: takes http://host:port or https://host:port; what it holds is not shown, for it may be a secret"
    for name in HEADERS:
        parts = [part for part in environ.get(name, "").split(",") if part.strip()]
        if not all(HEADER.fullmatch(part) for part in parts):
            yield f"{name}: takes name=value,name=value; what it holds is not shown, for it may be a secret"
    for name in PROTOCOLS:
        if (value := environ.get(name)) and value != PROTOCOL:
            yield f'{name}: held "{value}"; takes {PROTOCOL}'


def _is_web_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _batching_faults(environ: Mapping[str, str]) -> Iterator[str]:
    sizes = dict(BATCHING)
    for name in BATCHING:
        if (value := environ.get(name)) is not None:
            sizes[name] = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else 0
            if not sizes[name]:
                yield f'{name}: held "{value}"; takes a whole number from 1'
    queue, batch = sizes["OTEL_BSP_MAX_QUEUE_SIZE"], sizes["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"]
    if 0 < queue < batch:
        yield f"OTEL_BSP_MAX_QUEUE_SIZE: is {queue}; takes no less than OTEL_BSP_MAX_EXPORT_BATCH_SIZE, which is {batch}"


class _Resource(Resource):
    """A resource whose hash is made once: the exporter asks each span for it, and it is made of JSON (a third of its time)."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


class Traces:
    """The traces of one process. Without an exporter it only reads what callers say, for the log."""

    def __init__(self, environ: Mapping[str, str], service: str) -> None:
        self._sampling = wanted_sampling(environ)
        self._processor: BatchSpanProcessor | None = None
        self._resource = Resource.get_empty()
        if self._sampling is not None:
            is_named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
            self._resource = _Resource(Resource.create({} if is_named else {"service.name": service}))

    @property
    def handlers(self) -> Handlers:
        """What is traced of which event."""
        return {} if self._sampling is None else {RequestEnded: self._request}

    def begin(self, traceparent: bytes, tracestate: bytes) -> Trace | None:
        """Where a request stands: in its caller's trace, or in one that begins with it. None where nobody traces."""
        sampling = self._sampling
        parent = read_parent(traceparent) if traceparent else None
        if sampling is None:
            return None if parent is None else Trace(parent.trace_id, parent.span_id)
        if parent is None:
            trace_id = random.getrandbits(128) or 1
            return Trace(trace_id, random.getrandbits(64) or 1, sampled=trace_id & _TRACE_BITS < sampling.bound)
        sampled = parent.sampled if sampling.by_parent else parent.trace_id & _TRACE_BITS < sampling.bound
        state = tracestate.decode("latin-1") if len(tracestate) <= MAX_STATE_BYTES else ""
        return Trace(parent.trace_id, random.getrandbits(64) or 1, parent.span_id, sampled, state)

    def start(self) -> None:
        """Begins to send, where there is an exporter."""
        if self._sampling is not None:
            for name, level in HUSHED.items():
                logging.getLogger(name).setLevel(level)
            self._processor = BatchSpanProcessor(OTLPSpanExporter())

    async def stop(self) -> None:
        """Sends what is left, if that takes no longer than a moment."""
        processor, self._processor = self._processor, None
        if processor is not None:
            # A thread that the end of the process does not wait for, where the collector does not answer.
            thread = threading.Thread(target=processor.shutdown, name="last spans", daemon=True)
            thread.start()
            await asyncio.to_thread(thread.join, STOP_SECONDS)

    def _request(self, ended: RequestEnded) -> None:
        trace, processor = ended.timeline.trace, self._processor
        if trace is None or not trace.sampled or processor is None:
            return
        for span in spans_of(ended, trace, self._resource):
            processor.on_end(span)


# --- spans ---------------------------------------------------------------------------------------------------------------

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
