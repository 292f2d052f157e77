"""A gateway that is watched, over HTTP: its metrics, spans and log lines tell the same of a request."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.observability.logs import Log, configure
from tests.conftest import execute
from tests.journeys.processes import run, serving
from tests.observability.receiver import Receiver, attributes, receiving
from tests.observability.test_metrics import Sample, samples
from tests.serving import running, settings_for, write_resources

TABLES = """
    CREATE TABLE things (id int PRIMARY KEY, name text UNIQUE);
    INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 50) n;
"""


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    return write_resources(tmp_path / "resources", {"things": ""})


@pytest.fixture
def database(database_url: str) -> str:
    execute(database_url, TABLES)
    return database_url


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that every gateway of the test sends all its spans to, at once."""
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """The log of every gateway of the test."""
    stream = io.BytesIO()
    monkeypatch.setattr("gateway.app.make_log", lambda settings: Log(settings.service_name, "info", 0.0, stream))
    return stream


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def trace_of(number: int) -> tuple[str, dict[str, str]]:
    return f"{number:032x}", {"traceparent": f"00-{number:032x}-{7:016x}-01", "x-request-id": f"request-{number}"}


def test_metrics_need_no_token_and_no_database(database_url: str, resources: Path) -> None:
    settings = settings_for(
        "postgresql://nobody@127.0.0.1:1/nothing",
        resources,
        AUTH="on",
        AUTH_JWKS_URL="http://127.0.0.1:1/jwks",
        AUTH_ISSUER="issuer",
        AUTH_AUDIENCE="audience",
    )
    with running(settings) as client:
        answer = client.get("/metrics")
        assert client.get("/api/v1/things").status_code == 503
        found = samples(client.get("/metrics").content)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert found["errors_total", (("type", "UNAVAILABLE"),)] == 1


def test_the_contracts_metrics_are_there_under_their_names(database: str, resources: Path) -> None:
    with running(settings_for(database, resources, WORKERS="1")) as client:
        for _ in range(3):
            client.get("/api/v1/things/1")
        client.head("/api/v1/things/1")
        client.get("/api/v1/things?limit=0")
        found = samples(client.get("/metrics").content)
    row = (("method", "GET"), ("route", "/api/v1/things/{key}"))
    assert found["http_requests_total", (*row, ("status", "200"))] == 4
    assert found["http_request_duration_seconds_count", row] == 4
    assert found["errors_total", (("type", "VALIDATION_ERROR"),)] == 1
    assert found["cache_hits_total", ()] == 3
    assert found["cache_misses_total", ()] == 1
    assert found["db_pool_active_connections", ()] == 0
    assert found["http_requests_in_flight", ()] == 0
    assert found["db_statement_duration_seconds_count", (("operation", "get"),)] == 1


def test_a_request_that_failed_is_found_by_its_id(database: str, resources: Path, receiver: Receiver, log: io.BytesIO) -> None:
    trace_id, headers = trace_of(0xFA11)
    headers |= {"content-type": "application/json"}
    with running(settings_for(database, resources)) as client:
        before = samples(client.get("/metrics").content)
        answer = client.post("/api/v1/things", content=b'{"id": 1, "name": "again"}', headers=headers)
        after = samples(client.get("/metrics").content)
        spans = receiver.trace(trace_id)
    code = answer.json()["error"]["code"]
    assert (answer.status_code, code) == (409, "CONFLICT")
    assert answer.headers["x-request-id"] == headers["x-request-id"]
    (line,) = [line for line in lines(log) if line.get("requestId") == headers["x-request-id"] and line["message"] == "request"]
    assert (line["status"], line["errorCode"], line["traceId"]) == (409, code, trace_id)
    own = attributes(next(span for span in spans if span.kind == span.SPAN_KIND_SERVER))
    assert (own["gateway.request_id"], own["error.type"]) == (headers["x-request-id"], code)
    assert own["http.response.status_code"] == 409
    statement = next(span for span in spans if span.name == "INSERT public.things")
    assert attributes(statement)["error.type"] == "23"
    kind = ("errors_total", (("type", code),))
    assert after[kind] - before.get(kind, 0) == 1


def test_a_trace_goes_from_the_caller_to_the_statement(database: str, resources: Path, receiver: Receiver) -> None:
    trace_id, headers = trace_of(0x5EE)
    with running(settings_for(database, resources, WORKERS="1")) as client:
        assert client.get("/api/v1/things?limit=2&sort=name", headers=headers).status_code == 200
        spans = receiver.trace(trace_id)
    assert {span.name for span in spans} >= {"token", "plan", "cache", "pool", "SELECT public.things", "render"}
    own = next(span for span in spans if span.kind == span.SPAN_KIND_SERVER)
    assert own.name == "GET /api/v1/things"
    assert own.parent_span_id.hex() == f"{7:016x}"
    assert attributes(own) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/things",
        "http.response.status_code": 200,
        "gateway.request_id": headers["x-request-id"],
        "gateway.cache": "miss",
        "gateway.rows": 2,
    }
    for span in spans:
        assert span is own or span.parent_span_id == own.span_id
        assert own.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= own.end_time_unix_nano
    statement = attributes(next(span for span in spans if span.name == "SELECT public.things"))
    assert statement["db.query.text"].startswith("SELECT row_to_json")
    assert statement["db.response.returned_rows"] == 3  # one more tells that there are more
    assert receiver.resources[0]["service.name"] == "db-service"


def test_requests_that_share_a_statement_each_tell_of_it(database: str, resources: Path, receiver: Receiver) -> None:
    """The table is locked until all have come: two statements wait for it, and the rest of the requests for the third."""

    async def ask(base: httpx.URL) -> None:
        lock = await asyncpg.connect(database)
        try:
            async with httpx.AsyncClient(base_url=base, timeout=20) as client:
                async with lock.transaction():
                    await lock.execute("LOCK TABLE things")
                    asked = [
                        asyncio.ensure_future(client.get(f"/api/v1/things/{n + 1}", headers=trace_of(0xBA7C4 + n)[1]))
                        for n in range(20)
                    ]
                    async with asyncio.timeout(20):
                        while samples((await client.get("/metrics")).content)["http_requests_in_flight", ()] < len(asked):
                            await asyncio.sleep(0.01)
                answers = await asyncio.gather(*asked)
            assert {answer.status_code for answer in answers} == {200}
        finally:
            await lock.close()

    settings = settings_for(database, resources, DATABASE_POOL_MIN="2", DATABASE_STATEMENT_TIMEOUT_SECONDS="30")
    with running(settings) as client:
        asyncio.run(ask(client.base_url))
        statements = [
            next(span for span in receiver.trace(trace_of(0xBA7C4 + n)[0]) if span.name == "SELECT public.things")
            for n in range(20)
        ]
    shared = [attributes(span).get("db.operation.batch.size", 1) for span in statements]
    assert max(shared) > 1
    assert all("things" in attributes(span)["db.query.text"] for span in statements)


def timed(answer: httpx.Response) -> dict[str, float]:
    """The stages that a Server-Timing header tells of."""
    told = (part.partition(";dur=") for part in answer.headers["server-timing"].split(", "))
    return {name: float(milliseconds) for name, _, milliseconds in told}


def test_who_asks_is_told_where_the_time_went(database: str, resources: Path) -> None:
    asked = {"server-timing": "?1"}
    with running(settings_for(database, resources, WORKERS="1")) as client:
        assert "server-timing" not in client.get("/api/v1/things/1").headers
        assert "server-timing" not in client.get("/api/v1/things/1", headers={"server-timing": "?0"}).headers
        first, again = client.get("/api/v1/things/2", headers=asked), client.get("/api/v1/things/2", headers=asked)
        refused = client.get("/api/v1/nothing", headers=asked)
        written = client.post("/api/v1/things", json={"id": 99}, headers=asked)
        health = client.get("/health/live", headers=asked)
    assert timed(first).keys() == {"token", "parse", "plan", "cache", "pool", "db", "render", "total"}
    assert timed(again).keys() == {"token", "parse", "plan", "cache", "render", "total"}
    assert timed(refused).keys() >= {"token", "total"}
    assert timed(written).keys() >= {"token", "parse", "plan", "db", "total"}
    assert timed(health).keys() == {"total"}


@pytest.mark.parametrize(("mode", "told"), [("on", True), ("off", False)])
def test_the_operator_settles_who_is_told(database: str, resources: Path, mode: str, told: bool) -> None:
    with running(settings_for(database, resources, SERVER_TIMING=mode)) as client:
        assert ("server-timing" in client.get("/api/v1/things/1").headers) is told
        assert ("server-timing" in client.get("/api/v1/things/1", headers={"server-timing": "?1"}).headers) is told


def test_a_sampled_request_can_say_in_sql_which_trace_it_is_of(database: str, resources: Path, receiver: Receiver) -> None:
    async def last_query() -> str:
        connection = await asyncpg.connect(database)
        try:
            found = await connection.fetchval(
                "SELECT query FROM pg_stat_activity WHERE query LIKE '%things%traceparent=%' AND pid <> pg_backend_pid()"
            )
            return found or ""
        finally:
            await connection.close()

    trace_id, headers = trace_of(0xC0)
    with running(settings_for(database, resources, TRACE_SQL_COMMENTS="on", DATABASE_POOL_MAX="1")) as client:
        client.get("/api/v1/things/3", headers=headers)
        query = asyncio.run(last_query())
        spans = receiver.trace(trace_id)
    own = next(span for span in spans if span.kind == span.SPAN_KIND_SERVER)
    assert query.endswith(f"/*traceparent='00-{trace_id}-{own.span_id.hex()}-01'*/")
    assert not any(attributes(span).get("db.query.text", "").endswith("*/") for span in spans)


def test_nothing_that_a_caller_sent_is_in_logs_spans_or_metrics(
    database: str, resources: Path, receiver: Receiver, log: io.BytesIO
) -> None:
    secret = "s3cr3t"

    async def ask(base: httpx.URL) -> list[int]:
        async with httpx.AsyncClient(base_url=base, timeout=30) as client:
            requests = []
            for n in range(100):
                mine = f"{secret}{n}"
                headers = {"authorization": f"Bearer {mine}", "content-type": "application/json", "cookie": mine}
                requests += [
                    client.get(f"/api/v1/things?name={mine}&id[gt]=x{mine}", headers=headers),
                    client.get(f"/api/v1/things/{mine}", headers=headers),
                    client.post("/api/v1/things", content=json.dumps({"id": n, "name": mine}), headers=headers),
                    client.request(f"{secret.upper()}", f"/{mine}/api?{mine}", headers={"x-request-id": f"{mine} {mine}"}),
                ]
            answers = []
            for start in range(0, len(requests), 50):
                answers += await asyncio.gather(*requests[start : start + 50])
            return [answer.status_code for answer in answers]

    with running(settings_for(database, resources, WORKERS="1", LOG_LEVEL="debug")) as client:
        statuses = asyncio.run(ask(client.base_url))
        metrics = client.get("/metrics").text
        receiver.wait_for(lambda spans: sum(span.kind == span.SPAN_KIND_SERVER for span in spans) > 0)
    assert len(statuses) == 400
    assert 201 in statuses
    assert 500 not in statuses
    told = log.getvalue().decode() + metrics
    assert secret not in told.lower()
    assert secret.encode() not in receiver.raw.lower()
    assert len(lines(log)) > 400


def test_any_worker_tells_of_all(database: str, resources: Path, tmp_path: Path) -> None:
    row = ("http_requests_total", (("method", "GET"), ("route", "/api/v1/things/{key}"), ("status", "200")))
    variables = {"WORKERS": "2", "RESOURCES_DIR": str(resources), "DATABASE_POOL_MIN": "1"}
    with serving(tmp_path, database, tmp_path / "log", **variables) as client:
        base = client.base_url
        for _ in range(40):  # each over a connection of its own, so that both workers have some
            assert httpx.get(f"{base}/api/v1/things/1", timeout=20).status_code == 200
        end = time.monotonic() + 60
        found: Sample = {}
        while (found.get(row), found.get(("db_pool_max_connections", ()))) != (40, 40):  # 20 of each worker, once both are there
            assert time.monotonic() < end, found
            time.sleep(0.1)
            found = samples(httpx.get(f"{base}/metrics", timeout=20).content)
    for line in (tmp_path / "log").read_text().splitlines():
        assert json.loads(line)["service"] == "db-service"


def test_a_fault_that_quotes_a_value_is_logged_without_it(
    database: str, resources: Path, receiver: Receiver, log: io.BytesIO
) -> None:
    """PostgreSQL passes on what a trigger says, and a trigger may say anything."""

    execute(
        database,
        """
        CREATE FUNCTION quote() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no %', NEW.name USING ERRCODE = 'XX001', DETAIL = NEW.name, HINT = NEW.name; END $$;
        CREATE TRIGGER quote BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION quote();
        """,
    )
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    with running(settings_for(database, resources)) as client:
        configure(Log("tests", "info", stream=log), "info")
        try:
            answer = client.post("/api/v1/things", json={"id": 100, "name": "s3cr3t"})
            for handler in root.handlers:
                handler.flush()
        finally:
            logging.captureWarnings(False)
            root.handlers = before
            root.setLevel(level)
        metrics = client.get("/metrics").text
        receiver.wait_for(lambda spans: any(span.name == "POST /api/v1/things" for span in spans))
    assert answer.status_code == 500
    assert 'db_errors_total{sqlstate_class="XX"} 1.0' in metrics
    assert "XX001" in log.getvalue().decode()
    assert "s3cr3t" not in log.getvalue().decode() + metrics + answer.text
    assert b"s3cr3t" not in receiver.raw


def test_what_is_no_http_is_counted_and_logged(database: str, resources: Path, log: io.BytesIO) -> None:
    with running(settings_for(database, resources)) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(b"s3cr3t\r\n\r\n")
            answer = raw.recv(4096)
        found = samples(client.get("/metrics").content)
    assert answer.startswith(b"HTTP/1.1 400")
    assert found["errors_total", (("type", "VALIDATION_ERROR"),)] == 1
    assert found["http_requests_total", (("method", "OTHER"), ("route", "/api/{unknown}"), ("status", "400"))] == 1
    (line,) = [line for line in lines(log) if line.get("status") == 400]
    assert line["requestId"].encode() in answer
    assert b"s3cr3t" not in log.getvalue()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_variable_of_tracing_that_holds_nonsense_stops_the_start_with_one_line(
    database_url: str, tmp_path: Path, workers: str
) -> None:
    write_resources(tmp_path / "resources", {})
    ended = run(tmp_path, database_url, "serve", "--port", "0", "--workers", workers, OTEL_TRACES_EXPORTER="jaeger")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == 'gateway serve: OTEL_TRACES_EXPORTER: held "jaeger"; takes otlp or none\n'
