"""Metrics: events and readings in, the text that Prometheus scrapes out.

What happens is counted here in plain numbers, and becomes metrics when somebody asks: a request costs a look-up and two
additions, where the client library's own objects cost a lock for each and, with several processes, a write to a mapped file
for each bucket (measured: 13 µs of a point read). The library makes the text. What others count or hold (pool, cache, limits)
is read from them at that moment: `Metrics.reading`.

With several workers each leaves its numbers in a shared directory, every second and at its end; a scrape of any of them adds
all up (`shared`).

`TABLE` has every metric, with what its labels may be: route templates and not paths, five methods, so that there is an end.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from gateway.events import (
    CANCELLED,
    BatchAnswered,
    BreakerMoved,
    Event,
    Handlers,
    IdempotencyReplayed,
    MigrationsCompared,
    Reloaded,
    ReplicaRead,
    RequestEnded,
    Retried,
    Shed,
    StatementRan,
)

Labels = tuple[str, ...]
Numbers = list[float]
"""A counter's or gauge's one number; of a histogram those of each bucket, the last one without a bound, and the sum."""


class Row(msgspec.Struct, frozen=True):
    """One metric. `across` says how the workers' gauges make one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    across: Literal["sum", "max", "min"] = "sum"


SECONDS = (0.002, 0.01, 0.05, 0.25, 1.0)
"""Few, for each costs a series for every operation of every resource; a request that matters is found by its trace."""
SIZES = (1.0, 4.0, 16.0, 64.0)

TABLE: tuple[Row, ...] = (
    Row("http_requests_total", "counter", "Requests answered.", ("method", "route", "status")),
    Row("http_request_duration_seconds", "histogram", "From the head to the end of the answer.", ("method", "route"), SECONDS),
    Row("http_requests_in_flight", "gauge", "Requests being answered."),
    Row("errors_total", "counter", "Answers with an error, by its code.", ("type",)),
    Row("db_pool_size", "gauge", "Connections open or being opened."),
    Row("db_pool_active_connections", "gauge", "Connections that run a statement."),
    Row("db_pool_idle_connections", "gauge", "Connections that wait for work."),
    Row("db_pool_waiting", "gauge", "Callers that wait for a connection."),
    Row("db_pool_max_connections", "gauge", "DATABASE_POOL_MAX, of all workers."),
    Row("db_pool_acquire_seconds", "histogram", "Waiting for a connection.", (), SECONDS),
    Row("db_statement_duration_seconds", "histogram", "In the database, without waiting.", ("operation",), SECONDS),
    Row("db_errors_total", "counter", "Statements that failed, by SQLSTATE class.", ("sqlstate_class",)),
    Row("db_retries_total", "counter", "Statements run once more, by what happened to them.", ("reason",)),
    Row("circuit_breaker_state", "gauge", "0 closed, 1 half-open, 2 open.", ("name",), across="max"),
    Row("circuit_breaker_transitions_total", "counter", "Changes of a breaker's state.", ("name", "state")),
    Row("replica_lag_bytes", "gauge", "Of the primary's log that a replica has not replayed.", ("replica",), across="max"),
    Row("replica_reads_total", "counter", "Reads that a replica might have answered, by who did.", ("outcome",)),
    Row("coalesced_batch_size", "histogram", "Questions that one call answered.", ("kind",), SIZES),
    Row("cache_hits_total", "counter", "Reads answered from the cache."),
    Row("cache_misses_total", "counter", "Reads that the cache had no answer to."),
    Row("cache_bypasses_total", "counter", "Reads that did not use the cache's answer."),
    Row("cache_invalidations_total", "counter", "Writes that made answers stale."),
    Row("cache_store_errors_total", "counter", "Calls to the cache's store that failed."),
    Row("cache_trusted", "gauge", "Whether answers may come from the cache now.", across="min"),
    Row("token_cache_size", "gauge", "Verified tokens that are kept."),
    Row("jwks_age_seconds", "gauge", "Since the issuer's keys were fetched.", across="max"),
    Row("jwks_fetches_total", "counter", "Fetches of the issuer's keys.", ("outcome",)),
    Row("rate_limit_refusals_total", "counter", "Requests over a limit, by whom it counts.", ("kind",)),
    Row("rate_limit_store_errors_total", "counter", "Calls to the limits' store that failed."),
    Row("requests_shed_total", "counter", "Requests refused for there was too much to do.", ("reason",)),
    Row("admission_limit", "gauge", "Requests that may be at the database at once."),
    Row("admission_in_use", "gauge", "Requests that are."),
    Row("admission_queue", "gauge", "Requests that wait to be."),
    Row("catalog_resources", "gauge", "Resources that are served.", across="max"),
    Row("catalog_broken_resources", "gauge", "Resources that are not, for their faults.", across="max"),
    Row("catalog_version", "gauge", "Counts up with each reload that took effect.", across="max"),
    Row("catalog_reloads_total", "counter", "Reloads, by what came of them.", ("outcome",)),
    Row("idempotency_replays_total", "counter", "Writes answered with what was kept of them."),
    Row("db_migrations_behind", "gauge", "Revisions that are not applied.", across="max"),
    Row("log_lines_dropped_total", "counter", "Log lines that nobody read in time."),
    Row("gateway_build_info", "gauge", "1, with the version.", ("version", "python"), across="max"),
)
ROWS: Mapping[str, Row] = {row.name: row for row in TABLE}

COUNTED: Mapping[type[Event], tuple[str, tuple[str, ...]]] = {
    BreakerMoved: ("circuit_breaker_transitions_total", ("name", "state")),
    Retried: ("db_retries_total", ("reason",)),
    Shed: ("requests_shed_total", ("reason",)),
    IdempotencyReplayed: ("idempotency_replays_total", ()),
    Reloaded: ("catalog_reloads_total", ("outcome",)),
    ReplicaRead: ("replica_reads_total", ("outcome",)),
}
"""Events that only count: the metric, and the members that its labels are."""

BREAKER_STATES: Mapping[str, float] = {"closed": 0, "half_open": 1, "open": 2}

SET: Mapping[type[Event], tuple[str, str]] = {MigrationsCompared: ("db_migrations_behind", "behind")}
"""Events that tell what a gauge is now: the gauge, and the member with its value."""

OPENMETRICS_TYPE = "application/openmetrics-text"
OPENMETRICS = f"{OPENMETRICS_TYPE}; version=1.0.0"

UNKNOWN = "/api/{unknown}"
TAKEN = {"collection": frozenset({"GET", "POST"}), "row": frozenset({"GET", "PATCH", "DELETE"}), "page": frozenset({"GET"})}
"""The methods that are counted by their names, by what a route is."""

Reading = Callable[[], "float | Mapping[str, float] | None"]
"""Gives a number, numbers by the value of the only label, or None for nothing to tell now."""

Snapshot = dict[str, dict[Labels, Numbers]]


def labels_of(method: str, route: str) -> tuple[str, str]:
    """What a request is counted as. HEAD is GET; what the route does not take is OTHER, of no route: there is no end to it."""
    method = "GET" if method == "HEAD" else method
    return (method, route) if method in TAKEN[_kind(route)] else ("OTHER", UNKNOWN)


def _kind(route: str) -> str:
    if route.endswith("/{key}"):
        return "row"
    return "collection" if route.startswith("/api/") and not route.endswith(("{unknown}", ".json")) else "page"


class Metrics:
    """The numbers of one process."""

    def __init__(self) -> None:
        self._numbers: Snapshot = {row.name: {} for row in TABLE}
        self._readings: list[tuple[str, Reading]] = []
        self._requests: dict[tuple[str, str], tuple[Numbers, dict[int, Numbers]]] = {}
        self._exemplars: dict[tuple[str, Labels, int], Exemplar] = {}
        self._statements: dict[str, Numbers] = {}
        self._acquired = self._histogram("db_pool_acquire_seconds", ())
        self._numbers["gateway_build_info"][version("gateway"), platform.python_version()] = [1.0]

    @property
    def handlers(self) -> Handlers:
        """What is counted of which event."""
        handlers: dict[Any, Any] = {kind: self._counting(*place) for kind, place in COUNTED.items()}
        return {
            **handlers,
            **{kind: self._setting(*place) for kind, place in SET.items()},
            RequestEnded: self._request,
            StatementRan: self._statement,
            BatchAnswered: self._batch,
        }

    def read(self, readings: Mapping[str, Reading]) -> None:
        """Metrics, by their names in `TABLE`, whose numbers others have: they are asked at each scrape."""
        self._readings += [(ROWS[name].name, reading) for name, reading in readings.items()]

    # --- events --------------------------------------------------------------------------------------------------------

    def _request(self, ended: RequestEnded) -> None:
        noted = ended.timeline
        found = self._requests.get((ended.method, noted.route))
        if found is None:
            found = self._open(ended.method, noted.route)
        durations, statuses = found
        seconds = ended.ended - ended.began
        bucket = bisect_left(SECONDS, seconds)
        durations[bucket] += 1
        durations[-1] += seconds
        count = statuses.get(ended.status)
        if count is None:
            method, route = labels_of(ended.method, noted.route)
            count = statuses[ended.status] = self._counter("http_requests_total", (method, route, str(ended.status)))
        count[0] += 1
        if ended.error_code:
            self._counter("errors_total", (ended.error_code,))[0] += 1
        trace = noted.trace
        if trace is not None and trace.sampled:
            labels = labels_of(ended.method, noted.route)
            exemplar = Exemplar({"trace_id": f"{trace.trace_id:032x}"}, seconds)
            self._exemplars["http_request_duration_seconds", labels, bucket] = exemplar

    def _open(self, method: str, route: str) -> tuple[Numbers, dict[int, Numbers]]:
        """Where requests of a method and a route are counted; kept for those methods alone that the route takes."""
        labels = labels_of(method, route)
        found = self._requests.get(labels)
        if found is None:
            found = self._requests[labels] = (self._histogram("http_request_duration_seconds", labels), {})
        return found

    def _statement(self, ran: StatementRan) -> None:
        if ran.acquired is not None:
            _observe(self._acquired, SECONDS, ran.acquired - ran.asked)
            operation = ran.purpose.operation
            numbers = self._statements.get(operation)
            if numbers is None:
                numbers = self._statements[operation] = self._histogram("db_statement_duration_seconds", (operation,))
            _observe(numbers, SECONDS, ran.ended - ran.acquired)
        if ran.fault and ran.fault != CANCELLED:
            self._counter("db_errors_total", (ran.fault,))[0] += 1

    def _batch(self, answered: BatchAnswered) -> None:
        _observe(self._histogram("coalesced_batch_size", (answered.kind,)), SIZES, answered.size)

    def _counting(self, name: str, members: tuple[str, ...]) -> Callable[[Event], None]:
        def count(event: Event) -> None:
            self._counter(name, tuple(str(getattr(event, member)) for member in members))[0] += 1

        return count

    def _setting(self, name: str, member: str) -> Callable[[Event], None]:
        def set_to(event: Event) -> None:
            self._counter(name, ())[0] = float(getattr(event, member))

        return set_to

    def _counter(self, name: str, labels: Labels) -> Numbers:
        found = self._numbers[name].get(labels)
        if found is None:
            found = self._numbers[name][labels] = [0.0]
        return found

    def _histogram(self, name: str, labels: Labels) -> Numbers:
        found = self._numbers[name].get(labels)
        if found is None:
            found = self._numbers[name][labels] = [0.0] * (len(ROWS[name].bounds) + 2)
        return found

    # --- scrapes -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """All numbers of now. Not to be kept: those that go on are its own."""
        told = dict(self._numbers)
        for name, reading in self._readings:
            value = reading()
            if isinstance(value, Mapping):
                told[name] = told[name] | {(label,): [float(number)] for label, number in value.items()}
            elif value is not None:
                told[name] = {(): [float(value)]}
        return told

    def render(self, accept: str, snapshot: Snapshot | None = None) -> tuple[bytes, str]:
        """The text of a scrape, by default of this process alone, and its content type, as `accept` wants it."""
        registry = CollectorRegistry()
        registry.register(_Collector(snapshot or self.snapshot(), self._exemplars))
        # Not the caller's own words: the library falls over a version that is none.
        encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS_TYPE in accept else "")
        return encode(registry), content_type


def _observe(numbers: Numbers, bounds: tuple[float, ...], value: float) -> None:
    numbers[bisect_left(bounds, value)] += 1
    numbers[-1] += value


class _Collector(Collector):
    """Numbers as the client library takes them."""

    def __init__(self, snapshot: Snapshot, exemplars: Mapping[tuple[str, Labels, int], Exemplar]) -> None:
        self._snapshot = snapshot
        self._exemplars = exemplars

    def collect(self) -> Iterable[Metric]:
        for row in TABLE:
            found = self._snapshot.get(row.name)
            if found:
                yield self._family(row, found)

    def _family(self, row: Row, found: Mapping[Labels, Numbers]) -> Metric:
        if row.kind == "histogram":
            histogram = HistogramMetricFamily(row.name, row.help, labels=row.labels)
            for labels, numbers in found.items():
                histogram.add_metric(labels, self._buckets(row, labels, numbers), numbers[-1])
            return histogram
        make = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
        family = make(row.name, row.help, labels=row.labels)
        for labels, numbers in found.items():
            family.add_metric(labels, numbers[0])
        return family

    def _buckets(self, row: Row, labels: Labels, numbers: Numbers) -> list[Any]:
        buckets: list[Any] = []
        total = 0.0
        for position, bound in enumerate([*map(floatToGoString, row.bounds), "+Inf"]):
            total += numbers[position]
            exemplar = self._exemplars.get((row.name, labels, position))
            buckets.append([bound, total] if exemplar is None else [bound, total, exemplar])
        return buckets
