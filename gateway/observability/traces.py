"""Traces: where a request stands in one, decided at its start; at its end `spans` makes spans of its timeline and sends them.

Only a sampled request has spans, so that any other costs a random number. They are handed to the SDK's batch processor, which
sends them by a thread of its own: a collector that is slow or down holds up nobody, and what finds no room is dropped.

The standard variables settle all of it (`OTEL_*`, OpenTelemetry's "Environment Variable Specification"). Nothing is sent until
one of them names an exporter or an endpoint. Spans tell routes and SQL, never paths, queries, keys, bodies or values.
Sources: W3C Trace Context; OpenTelemetry's semantic conventions for HTTP and databases.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigurationError
from gateway.events import Handlers, RequestEnded, Trace

if TYPE_CHECKING:
    from gateway.observability.spans import Sender

STOP_SECONDS = 1.0
"""How long the end of the process waits for the last spans to be sent."""

TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_STATE_BYTES = 512
"""W3C Trace Context, 3.3.1.5: what one must pass on at least."""

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


class Traces:
    """The traces of one process. Without an exporter it only reads what callers say, for the log."""

    def __init__(self, environ: Mapping[str, str], service: str) -> None:
        self._sampling = wanted_sampling(environ)
        is_named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self._service = None if is_named else service
        self._sender: Sender | None = None

    @property
    def handlers(self) -> Handlers:
        """What is traced of which event."""
        return {} if self._sampling is None else {RequestEnded: self._request}

    @property
    def is_on(self) -> bool:
        """Whether traces may begin here."""
        return self._sampling is not None

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
            from gateway.observability.spans import Sender

            self._sender = Sender(self._service)

    async def stop(self) -> None:
        """Sends what is left, if that takes no longer than a moment."""
        sender, self._sender = self._sender, None
        if sender is not None:
            # A thread that the end of the process does not wait for, where the collector does not answer.
            thread = threading.Thread(target=sender.shutdown, name="last spans", daemon=True)
            thread.start()
            await asyncio.to_thread(thread.join, STOP_SECONDS)

    def _request(self, ended: RequestEnded) -> None:
        trace, sender = ended.timeline.trace, self._sender
        if trace is not None and trace.sampled and sender is not None:
            sender.send(ended, trace)
