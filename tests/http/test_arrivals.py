"""A process that is late: what it begins in a turn, what waits, and what is refused by its bytes alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.events import Event, Shed
from gateway.http.arrivals import FIRST, LATE_SECONDS, TURN_SECONDS, WAIT_SECONDS, Arrivals
from tests.http.test_protocol import Application, answer, ended, serving
from tests.issuing import Clock


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await steps()

    asyncio.run(bounded())


def test_what_a_turn_can_do_begins_at_once_and_the_rest_in_order_of_arrival() -> None:
    async def steps() -> None:
        worked, begun = Clock(), list[int]()
        arrivals = Arrivals(worked=worked)
        for number in range(3 * FIRST):
            arrivals.come(lambda _, number=number: begun.append(number))  # type: ignore[misc]  # mypy infers no lambda with a default
        assert begun == list(range(FIRST))
        worked.seconds += TURN_SECONDS
        await asyncio.sleep(0)
        assert begun == list(range(2 * FIRST))
        worked.seconds += 2 * TURN_SECONDS
        await asyncio.sleep(0)
        assert begun == list(range(2 * FIRST + FIRST // 2)), "that turn was twice as long as it may be"
        while arrivals.waiting:
            await asyncio.sleep(0)
        assert begun == list(range(3 * FIRST))
        for _ in range(3):
            await asyncio.sleep(0)
        arrivals.come(lambda _: begun.append(-1))
        assert begun[-1] == -1

    run(steps)


def test_a_line_whose_first_has_waited_too_long_is_full_until_it_is_shorter_and_who_is_late_is_refused() -> None:
    async def steps() -> None:
        clock, worked, begun = Clock(), Clock(), list[bool]()
        arrivals = Arrivals(clock=clock, worked=worked)

        async def turn(seconds: float) -> None:
            clock.seconds += seconds
            worked.seconds += 10 * TURN_SECONDS  # so that each begins as few as may be
            await asyncio.sleep(0)

        for _ in range(10 * FIRST):
            arrivals.come(begun.append)
        await turn(WAIT_SECONDS / 2)
        assert not arrivals.full
        await turn(WAIT_SECONDS)
        assert arrivals.full
        assert begun == [True] * len(begun)
        await turn(LATE_SECONDS)
        late = begun.count(False)
        assert late == len(begun) - begun.count(True) > 0
        while arrivals.waiting:
            await asyncio.sleep(0)
        assert not arrivals.full
        assert len(begun) == 10 * FIRST

    run(steps)


class LateApplication(Application):
    """One whose line is full, as long as a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.arrivals = Arrivals(self.events.append)
        self.arrivals.full = True


def get(path: str = "/api/v1/things", *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: x", *lines, "", ""]).encode()


BODY = b"GET /api/v1/hidden HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        get(),
        get("/api/v1/things", "Connection: keep-alive"),
        get("/api/v1/things", "Content-Length: 0"),
        b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"DELETE /api/v1/things/1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_a_request_for_data_is_refused_and_its_connection_goes_on(request_bytes: bytes) -> None:
    async def steps() -> None:
        application = LateApplication()
        async with serving(application) as (reader, writer):
            for count in (1, 2):
                writer.write(request_bytes.replace(b"Host: x", b"Host: x\r\nX-Request-Id: find-me"))
                status, headers, body = await answer(reader)
                assert (status, body["error"]["code"]) == (503, "UNAVAILABLE")
                assert headers["retry-after"] == "1"
                assert headers["x-request-id"] == "find-me"
                assert headers["content-type"] == "application/json"
                assert headers["x-content-type-options"] == "nosniff"
                assert application.events == [Shed("late")] * count
            writer.write(get("/api/v1/things", "X-Request-Id: bad id"))
            _, headers, _ = await answer(reader)
            assert headers["x-request-id"] not in ("", "bad id", "bad")
            application.arrivals.full = False
            writer.write(get())
            status, _, body = await answer(reader)
            assert (status, body["path"]) == (200, "/api/v1/things")

    run(steps)


def test_what_is_asked_of_the_service_itself_is_answered_all_the_same() -> None:
    async def steps() -> None:
        application = LateApplication()
        async with serving(application) as (reader, writer):
            writer.write(get("/health/live"))
            assert (await answer(reader))[0] == 200
            assert application.events == []

    run(steps)


@pytest.mark.parametrize("closing", [get("/api/v1/things", "Connection: close"), get(version="1.0")])
def test_a_connection_that_is_to_end_ends_with_its_refusal(closing: bytes) -> None:
    async def steps() -> None:
        async with serving(LateApplication()) as (reader, writer):
            writer.write(closing)
            assert (await answer(reader))[0] == 503
            assert await ended(reader)

    run(steps)


@pytest.mark.parametrize(
    "pieces",
    [
        [f"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode(), BODY],
        [b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY],
        [
            b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"%x\r\n" % len(BODY),
            BODY,
            b"\r\n0\r\n\r\n",
        ],
    ],
)
def test_a_body_that_looks_like_a_request_is_none(pieces: list[bytes]) -> None:
    async def steps() -> None:
        application = LateApplication()
        async with serving(application) as (reader, writer):
            writer.write(pieces[0])
            assert (await answer(reader))[0] == 503
            for piece in pieces[1:]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            application.arrivals.full = False
            writer.write(get("/api/v1/after"))
            status, _, body = await answer(reader)
            assert (status, body["path"]) == (200, "/api/v1/after")
            assert application.events == [Shed("late")]

    run(steps)


def test_two_requests_in_one_packet_are_two_refusals() -> None:
    async def steps() -> None:
        application = LateApplication()
        async with serving(application) as (reader, writer):
            writer.write(get() + get())
            assert [(await answer(reader))[0] for _ in range(2)] == [503, 503]
            writer.write(get()[:20])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(get()[20:])
            assert (await answer(reader))[0] == 503
            assert len(application.events) == 3

    run(steps)
