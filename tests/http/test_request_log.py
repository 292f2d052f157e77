"""The request log: one line for each request, and nothing in it that a caller sent."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from gateway.http.request_log import MAX_GATHERED, RequestLog


def lines_of(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_tells_the_route_the_outcome_and_the_caller() -> None:
    stream = io.BytesIO()

    async def run() -> None:
        log = RequestLog("tests", stream)
        log.tell("GET", "/api/v1/orders/{key}", 404, 0.0123456, "id-1", "ada", "NOT_FOUND")
        log.flush()

    asyncio.run(run())
    (line,) = lines_of(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "service": "tests",
        "message": "request",
        "method": "GET",
        "route": "/api/v1/orders/{key}",
        "status": 404,
        "durationMs": 12.346,
        "requestId": "id-1",
        "userId": "ada",
        "errorCode": "NOT_FOUND",
    }


def test_lines_are_gathered_and_written_soon_or_when_they_are_many() -> None:
    stream = io.BytesIO()

    async def run() -> None:
        log = RequestLog("tests", stream)
        for number in range(MAX_GATHERED):
            log.tell("GET", "/api/v1/orders", 200, 0.001, f"id-{number}")
        assert len(lines_of(stream)) == MAX_GATHERED
        log.tell("POST", "/api/v1/orders", 503, 0.001, "last")
        for _ in range(100):
            await asyncio.sleep(0.02)
            if len(lines_of(stream)) > MAX_GATHERED:
                break

    asyncio.run(run())
    assert lines_of(stream)[-1]["requestId"] == "last"
    assert lines_of(stream)[-1]["level"] == "error"


def test_an_invented_method_is_not_told_by_its_name() -> None:
    stream = io.BytesIO()

    async def run() -> None:
        log = RequestLog("tests", stream)
        log.tell("SECRET-IN-A-METHOD", "/api/{unknown}", 404, 0.001, "id")
        log.flush()

    asyncio.run(run())
    assert lines_of(stream)[0]["method"] == "OTHER"


def test_a_stream_that_is_gone_stops_nobody() -> None:
    async def run() -> None:
        stream = io.BytesIO()
        log = RequestLog("tests", stream)
        stream.close()
        log.tell("GET", "/api/v1/orders", 200, 0.001, "id")
        log.flush()

    asyncio.run(run())
