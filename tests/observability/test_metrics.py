"""Metrics by themselves: events in, the text of a scrape out, and several processes' numbers as one's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import ERRORS
from gateway.events import (
    BatchAnswered,
    IdempotencyReplayed,
    MigrationsCompared,
    Purpose,
    RequestEnded,
    Retried,
    StatementRan,
    Timeline,
    Trace,
    together,
)
from gateway.observability.metrics import TABLE, Metrics, Snapshot, labels_of
from gateway.observability.shared import SharedDirectory, add_up

ROUTES = ["/api/{unknown}", "/{unknown}", "/health/live", *(f"/api/v1/r{n}{key}" for n in range(7) for key in ("", "/{key}"))]
Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: bytes) -> Sample:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scraped(metrics: Metrics) -> Sample:
    return samples(metrics.render("")[0])


def request(method: str, route: str, status: int = 200, seconds: float = 0.003, code: str = "") -> RequestEnded:
    return RequestEnded(method, status, 5.0, 5.0 + seconds, "", code, Timeline("id", route))


def test_a_request_is_counted_and_timed() -> None:
    metrics = Metrics()
    observe = together(metrics.handlers)
    observe(request("GET", "/api/v1/orders"))
    observe(request("HEAD", "/api/v1/orders", seconds=0.1))
    observe(request("GET", "/api/v1/orders", 503, 7, "UNAVAILABLE"))
    found = scraped(metrics)
    place = (("method", "GET"), ("route", "/api/v1/orders"))
    assert found["http_requests_total", (*place, ("status", "200"))] == 2
    assert found["http_requests_total", (*place, ("status", "503"))] == 1
    assert found["errors_total", (("type", "UNAVAILABLE"),)] == 1
    assert found["http_request_duration_seconds_count", place] == 3
    assert found["http_request_duration_seconds_sum", place] == pytest.approx(7.103)
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == "http_request_duration_seconds_bucket"
    }
    assert buckets == {"0.002": 0, "0.01": 1, "0.05": 1, "0.25": 2, "1.0": 2, "+Inf": 3}


@pytest.mark.parametrize(
    ("method", "route", "counted"),
    [
        ("GET", "/api/v1/orders", ("GET", "/api/v1/orders")),
        ("HEAD", "/api/v1/orders/{key}", ("GET", "/api/v1/orders/{key}")),
        ("PATCH", "/api/v1/orders/{key}", ("PATCH", "/api/v1/orders/{key}")),
        ("POST", "/health/live", ("OTHER", "/api/{unknown}")),
        ("PATCH", "/api/v1/orders", ("OTHER", "/api/{unknown}")),
        ("OPTIONS", "/api/v1/orders", ("OTHER", "/api/{unknown}")),
        ("BREW", "/api/v1/orders", ("OTHER", "/api/{unknown}")),
    ],
)
def test_a_method_that_a_route_does_not_take_makes_no_series(method: str, route: str, counted: tuple[str, str]) -> None:
    assert labels_of(method, route) == counted


def test_a_statement_is_timed_without_its_wait() -> None:
    metrics = Metrics()
    observe = together(metrics.handlers)
    observe(StatementRan(Purpose("get"), "SELECT 1", 1.0, 1.5, 1.503, 1, 4))
    observe(StatementRan(Purpose("get"), "SELECT 1", 1.0, None, 2.0, 0, 1, "timeout"))
    observe(StatementRan(Purpose("get"), "SELECT 1", 1.0, 1.0, 2.0, 0, 1, "cancelled"))
    observe(BatchAnswered("read", 5))
    observe(MigrationsCompared(2))
    observe(MigrationsCompared(1))
    observe(Retried("lost"))
    observe(IdempotencyReplayed())
    found = scraped(metrics)
    assert found["db_pool_acquire_seconds_sum", ()] == pytest.approx(0.5)
    assert found["db_statement_duration_seconds_sum", (("operation", "get"),)] == pytest.approx(1.003)
    assert {labels: value for (name, labels), value in found.items() if name == "db_errors_total"} == {
        (("sqlstate_class", "timeout"),): 1
    }
    assert found["db_migrations_behind", ()] == 1
    assert found["db_retries_total", (("reason", "lost"),)] == 1
    assert found["idempotency_replays_total", ()] == 1
    assert found["coalesced_batch_size_bucket", (("kind", "read"), ("le", "16.0"))] == 1


def test_there_is_an_end_to_series_whatever_is_asked() -> None:
    metrics = Metrics()
    observe = together(metrics.handlers)
    chosen = random.Random(1)
    invented = ["".join(chosen.choices("ABCDEFGH", k=8)) for _ in range(200)]
    for _ in range(100_000):
        method = chosen.choice(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", chosen.choice(invented)])
        status, code = chosen.choice([(200, ""), (404, "NOT_FOUND")])
        observe(request(method, chosen.choice(ROUTES), status, code=code))
    for error in ERRORS:
        observe(request("GET", "/api/v1/r0", error.status, code=error.code))
    found = scraped(metrics)
    assert len(found) <= 500
    assert len(metrics._requests) == 7 * 5 + 3 + 1


def test_openmetrics_has_exemplars_with_the_trace() -> None:
    metrics = Metrics()
    ended = request("GET", "/api/v1/orders")
    ended.timeline.trace = Trace(0xABC, 1, sampled=True)
    together(metrics.handlers)(ended)
    text, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert b'# {trace_id="00000000000000000000000000000abc"}' in text
    assert text.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "\0", "application/openmetrics-text;version=zzz", "text/plain;version=1.0.0;escaping=x", "a" * 9000, ";=,;"],
)
def test_whatever_a_scrape_accepts_it_has_an_answer(accept: str) -> None:
    text, content_type = Metrics().render(accept)
    assert b"gateway_build_info" in text
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))


def test_what_others_hold_is_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    held = {"idle": 3.0}
    metrics.read({"db_pool_idle_connections": lambda: held["idle"], "rate_limit_refusals_total": lambda: {"address": 2}})
    metrics.read({"jwks_age_seconds": lambda: None})
    assert scraped(metrics)["db_pool_idle_connections", ()] == 3
    held["idle"] = 1
    found = scraped(metrics)
    assert found["db_pool_idle_connections", ()] == 1
    assert found["rate_limit_refusals_total", (("kind", "address"),)] == 2
    assert ("jwks_age_seconds", ()) not in found


def test_names_and_labels_are_well_formed_and_told_once() -> None:
    names = [row.name for row in TABLE]
    assert len(names) == len(set(names))
    assert all(row.name.endswith("_total") == (row.kind == "counter") for row in TABLE)
    assert all(row.help.endswith(".") or row.help.startswith("1") for row in TABLE)


def process_that_ended() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_workers_numbers_are_added_up_and_those_of_the_dead_kept(tmp_path: Path) -> None:
    def worker(pid: int, requests: int, age: float) -> None:
        metrics = Metrics()
        for _ in range(requests):
            together(metrics.handlers)(request("GET", "/api/v1/orders"))
        metrics.read({"db_pool_size": lambda: 5, "jwks_age_seconds": lambda: age, "cache_trusted": lambda: pid != os.getppid()})
        SharedDirectory(tmp_path, pid).leave(metrics.snapshot())

    worker(os.getppid(), 3, 10)
    worker(process_that_ended(), 4, 99)
    worker(process_that_ended(), 5, 99)
    own = Metrics()
    own.read({"db_pool_size": lambda: 2, "jwks_age_seconds": lambda: 7.0, "cache_trusted": lambda: True})
    together(own.handlers)(request("GET", "/api/v1/orders"))
    shared = SharedDirectory(tmp_path)
    for _ in range(2):  # gathering changes nothing of what is told
        found = samples(own.render("", shared.gather(own.snapshot()))[0])
        assert found["http_requests_total", (("method", "GET"), ("route", "/api/v1/orders"), ("status", "200"))] == 13
        assert found["db_pool_size", ()] == 7
        assert found["jwks_age_seconds", ()] == 10
        assert found["cache_trusted", ()] == 0
    assert {path.name for path in tmp_path.glob("*.numbers")} == {f"{os.getppid()}.numbers", "gone.numbers"}


def test_adding_up_changes_none_of_what_it_adds() -> None:
    one: Snapshot = {"db_pool_size": {(): [1.0]}}
    assert add_up([one, {"db_pool_size": {(): [2.0]}}]) == {"db_pool_size": {(): [3.0]}}
    assert one == {"db_pool_size": {(): [1.0]}}
