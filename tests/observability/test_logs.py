"""The log: one line for each request and each thing told, and nothing in it that a caller sent."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import IO, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Purpose, RequestEnded, StatementRan, Timeline, Trace, keep_timeline, together
from gateway.observability import lines
from gateway.observability.logs import MAX_REFUSALS, MAX_STACK, Log, configure


def lines_of(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def ended(method: str = "GET", status: int = 200, error_code: str = "", route: str = "/api/v1/orders") -> RequestEnded:
    noted = Timeline("id-1", route, Trace(0xAB, 1))
    return RequestEnded(method, status, 1.0, 1.0123456, "ada", error_code, noted)


def statement(seconds: float) -> StatementRan:
    return StatementRan(Purpose("list", "public.orders"), "SELECT $1", 1.0, 1.0, 1.0 + seconds, 3, 2)


def fail(message: str) -> None:
    raise LookupError(message)


def told(level: str, *events: Any) -> list[dict[str, Any]]:
    stream = io.BytesIO()
    log = Log("tests", level, slow_seconds=0.5, stream=stream)
    observe = together(log.handlers)
    for event in events:
        observe(event)
    log.close()
    return lines_of(stream)


@pytest.fixture
def logged() -> Iterator[io.BytesIO]:
    """What Python's `logging` tells during the test, through a log of ours."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.BytesIO()
    configure(Log("tests", "info", stream=stream), "info")
    try:
        yield stream
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        root.setLevel(level)


def test_what_was_refused_for_a_known_reason_is_a_warning_and_what_failed_an_error() -> None:
    failed, refused = ended(status=503, error_code="UNAVAILABLE"), ended(status=503, error_code="UNAVAILABLE")
    refused.timeline.refused = True
    unready, broken = (ended(status=status, route="/health/ready") for status in (503, 500))
    lines = told("warning", failed, refused, unready, broken, ended(status=500, error_code="INTERNAL_ERROR"))
    assert [line["level"] for line in lines] == ["error", "warning", "warning", "error", "error"]
    assert [line["errorCode"] for line in lines[:2]] == ["UNAVAILABLE"] * 2
    assert len(told("error", failed, refused)) == 1


def test_refusals_beyond_a_few_in_a_second_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr("gateway.observability.logs.time.time", lambda: now[0])
    stream = io.BytesIO()
    log = Log("tests", "info", stream=stream)
    refused = ended(status=503, error_code="UNAVAILABLE")
    refused.timeline.refused = True
    for _ in range(MAX_REFUSALS + 480):
        log.handlers[RequestEnded](refused)
    log.handlers[RequestEnded](ended())
    now[0] += 1
    log.handlers[RequestEnded](refused)
    log.close()
    told = [line["message"] for line in lines_of(stream)]
    assert told == ["request"] * (MAX_REFUSALS + 1) + ["480 more requests were refused within a second", "request"]


def test_a_line_tells_the_route_the_outcome_and_the_caller() -> None:
    noted = Timeline("id-1", "/api/v1/orders/{key}")
    noted.cache, noted.rows = "miss", 1
    noted.ran(statement(0.002))
    (line,) = told("info", RequestEnded("GET", 404, 1.0, 1.0123456, "ada", "NOT_FOUND", noted))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "service": "tests",
        "message": "request",
        "method": "GET",
        "route": "/api/v1/orders/{key}",
        "status": 404,
        "durationMs": 12.346,
        "dbMs": 2.0,
        "requestId": "id-1",
        "userId": "ada",
        "errorCode": "NOT_FOUND",
        "cache": "miss",
        "rows": 1,
    }


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SECONDS = st.floats(0, 1000)


@st.composite
def requests(draw: st.DrawFn) -> RequestEnded:
    noted = Timeline(f"id-{draw(st.integers(0, 99))}", draw(st.sampled_from(["/api/v1/orders", "/api/v1/\u201cx\u201d/{key}"])))
    noted.trace = draw(st.none() | st.just(Trace(0xAB, 1)))
    noted.cache, noted.rows = draw(st.sampled_from(["", "hit", "miss"])), draw(st.none() | st.integers(0, 1000))
    for seconds in draw(st.lists(SECONDS, max_size=2)):
        noted.ran(statement(seconds))
    status, code = draw(st.sampled_from([(200, ""), (404, "NOT_FOUND"), (500, "INTERNAL_ERROR")]))
    method = draw(st.sampled_from(["GET", "PATCH", 'G"T']))
    return RequestEnded(method, status, 1.0, 1.0 + draw(SECONDS), draw(TEXTS), code, noted)


@given(st.lists(requests(), min_size=1, max_size=5))
def test_a_line_that_is_made_of_pieces_is_the_line_of_the_request(events: list[RequestEnded]) -> None:
    stream = io.BytesIO()
    log = Log("tests", "info", stream=stream)
    for event in events:
        log.handlers[RequestEnded](event)
    log.close()
    lines = stream.getvalue().splitlines()
    whole = [log._request_line(log_level(event), event) for event in events]
    assert [list(json.loads(line)) for line in lines] == [list(json.loads(msgspec.json.encode(line))) for line in whole]
    for line in whole:
        line.timestamp = ""
    assert [{**json.loads(line), "timestamp": ""} for line in lines] == [json.loads(msgspec.json.encode(line)) for line in whole]


def log_level(event: RequestEnded) -> int:
    return logging.ERROR if event.status >= 500 else logging.INFO


def test_the_trace_of_a_request_is_told() -> None:
    (line,) = told("info", ended())
    assert line["traceId"] == "000000000000000000000000000000ab"


def test_a_level_holds_for_requests_too() -> None:
    assert told("warning", ended()) == []
    assert [line["status"] for line in told("error", ended(), ended(status=503, error_code="UNAVAILABLE"))] == [503]
    assert told("critical", ended(status=500)) == []


def test_machines_that_ask_for_health_are_told_of_at_debug_unless_it_is_bad() -> None:
    assert told("info", ended(route="/health/live")) == []
    assert len(told("debug", ended(route="/health/live"))) == 1
    assert len(told("info", ended(route="/health/ready", status=503))) == 1


def test_an_invented_method_is_not_told_by_its_name() -> None:
    (line,) = told("info", ended(method="SECRET-IN-A-METHOD"))
    assert line["method"] == "OTHER"


def test_a_slow_statement_is_told_with_its_text() -> None:
    (line,) = told("info", statement(0.4), statement(0.6))
    assert line["message"] == "slow statement"
    assert line["level"] == "warning"
    assert {name: line[name] for name in ("sql", "operation", "table", "rows", "batch", "durationMs")} == {
        "sql": "SELECT $1",
        "operation": "list",
        "table": "public.orders",
        "rows": 3,
        "batch": 2,
        "durationMs": 600.0,
    }


def test_what_python_logs_is_a_line_of_the_request_that_it_belongs_to(logged: io.BytesIO) -> None:
    keep_timeline(Timeline("id-7", "/api/v1/orders"))
    try:
        fail("a bug")
    except LookupError:
        logging.getLogger("uvicorn.error").exception("it failed: %s", "so\nmuch")
    logging.getLogger("somebody.else").info("told")
    logging.getLogger("httpx").info("GET https://issuer/keys?token=secret")
    for handler in logging.getLogger().handlers:
        handler.flush()
    first, second = lines_of(logged)
    assert (first["level"], first["logger"], first["message"]) == ("error", "uvicorn.error", "it failed: so\nmuch")
    assert (first["requestId"], first["route"], first["errorCode"]) == ("id-7", "/api/v1/orders", "LookupError")
    assert first["stack"].endswith("LookupError: a bug\n")
    assert (second["logger"], second["level"]) == ("somebody.else", "info")


def test_a_long_stack_is_cut_so_that_its_line_is_written_whole(logged: io.BytesIO) -> None:
    try:
        fail("x" * 10_000)
    except LookupError:
        logging.getLogger("tests").exception("it failed")
    for handler in logging.getLogger().handlers:
        handler.flush()
    (line,) = lines_of(logged)
    assert len(line["stack"]) == MAX_STACK
    assert len(logged.getvalue()) <= lines.PIECE_BYTES


def test_lines_for_people_are_coloured_and_show_the_stack() -> None:
    stream = io.BytesIO()
    log = Log("tests", "info", stream=stream, readable=True)
    together(log.handlers)(ended(status=404, error_code="NOT_FOUND"))
    log.close()
    text = stream.getvalue().decode()
    assert "GET /api/v1/orders 404 12.3 ms" in text
    assert "errorCode=NOT_FOUND" in text
    assert "\x1b[32minfo" in text


def test_a_stream_that_is_gone_stops_nobody_and_is_counted() -> None:
    stream = io.BytesIO()
    log = Log("tests", stream=stream)
    stream.close()
    together(log.handlers)(ended())
    log.close()
    assert log.dropped == 1


class _Piece(io.RawIOBase):
    """Notes what is written at once."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: Any) -> int:
        self.pieces.append(bytes(piece))
        return len(piece)


def test_lines_are_written_whole_in_pieces_that_a_pipe_takes_at_once() -> None:
    stream: Any = _Piece()
    writer = lines.LineWriter[bytes](stream, lambda line: line)
    for number in range(1000):
        writer.write(b"%d %s\n" % (number, b"x" * (number % 300)))
    assert writer.drain(20)
    assert all(len(piece) <= lines.PIECE_BYTES and piece.endswith(b"\n") for piece in stream.pieces)
    assert [int(line.split()[0]) for line in b"".join(stream.pieces).splitlines()] == list(range(1000))


def test_who_does_not_read_the_log_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_WAITING", 50)
    reader, end = os.pipe()
    stream: IO[bytes] = os.fdopen(end, "wb")
    writer = lines.LineWriter[bytes](stream, lambda line: line)
    for _ in range(1000):
        writer.write(b"x" * 4095 + b"\n")  # a pipe holds 64 kB
    assert writer.dropped > 0
    assert not writer.drain(0.01)
    with os.fdopen(reader, "rb") as log:
        while not writer.drain(0.01):
            log.read1()
        stream.close()
