"""Slow, large and odd heads, on real sockets: the server's protocol with short deadlines around a tiny application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httptools
import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from gateway.http.edge import read_body_within
from gateway.http.protocol import PLAIN_TARGET, Cycle, HttpProtocol, _parts
from gateway.http.requests import Replayed, read_headers

GET = b"GET /one HTTP/1.1\r\nHost: here\r\n\r\n"
PATIENCE_SECONDS = 20


class HastyProtocol(HttpProtocol):
    head_seconds = 0.2


class Application:
    """Reads the body, if asked to, and answers with the path, the header names and the body's length."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        length = 0
        more = scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message["body"])
            more = message["more_body"]
        await self.may_answer.wait()
        names = [name.decode() for name, _ in scope["headers"]]
        body = json.dumps({"path": scope["path"], "headers": names, "length": length}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(
    application: Application | WholeAnswers, protocol: type[HttpProtocol] = HttpProtocol, timeout_keep_alive: float = 5
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of `application`."""
    config = uvicorn.Config(
        application,
        port=0,
        http=protocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=timeout_keep_alive,  # type: ignore[arg-type]  # uvicorn says whole seconds, and takes parts
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield reader, writer
    finally:
        application.may_answer.set()
        writer.close()
        server.should_exit = True
        await task


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """One answer: status, headers, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, json.loads(await reader.readexactly(int(headers["content-length"])))


async def refused(reader: asyncio.StreamReader) -> str:
    """The message of a refusal, which keeps the contract and ends the connection."""
    status, headers, body = await answer(reader)
    assert status == 400
    assert body["error"]["code"] == "VALIDATION_ERROR"
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    assert await ended(reader)
    return str(body["error"]["message"])


def test_requests_of_every_ordinary_shape_are_answered() -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            for pieces in (
                [GET],
                [GET[:5], GET[5:20], GET[20:]],
                [GET + GET],
                [b"\r\n" + GET],
                [b"POST /post HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"hel", b"lo"],
                [b"POST /post HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"],
                [b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n"],
                [b"GET /a HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n"],
                [b"POST /big HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000 + GET[:10], GET[10:]],
            ):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
                for _ in range(b"".join(pieces).count(b"HTTP/1.1")):
                    assert (await answer(reader))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize("start", [b"", b"\r\n", b"GE", b"GET / HTTP/1.1\r\nHost: he"])
def test_a_head_that_does_not_come_ends_the_connection(start: bytes) -> None:
    async def run() -> None:
        async with serving(Application(), HastyProtocol) as (reader, writer):
            writer.write(start)
            if start.strip():
                assert await refused(reader) == "The request did not arrive in time."
            else:
                assert await reader.read() == b""

    asyncio.run(run())


def test_a_head_that_trickles_in_ends_at_its_deadline_whatever_comes() -> None:
    async def run() -> None:
        async with serving(Application(), HastyProtocol) as (reader, writer):
            writer.write(GET)
            assert (await answer(reader))[0] == 200

            async def trickle() -> None:
                writer.write(b"GET / HTTP/1.1\r\n")
                while not writer.is_closing():
                    writer.write(b"X: y\r\n")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            assert await refused(reader) == "The request did not arrive in time."
            trickling.cancel()

    asyncio.run(run())


def test_a_deadline_is_over_when_the_head_is_there() -> None:
    async def run() -> None:
        application = Application()
        application.may_answer.clear()
        async with serving(application, HastyProtocol) as (reader, writer):
            writer.write(GET[:10])
            await asyncio.sleep(0.01)
            writer.write(GET[10:])
            await asyncio.sleep(0.3)
            application.may_answer.set()
            assert (await answer(reader))[0] == 200

    asyncio.run(run())


def test_a_half_head_behind_a_request_that_takes_long_does_not_cost_that_its_answer() -> None:
    async def run() -> None:
        application = Application()
        application.may_answer.clear()
        async with serving(application, HastyProtocol) as (reader, writer):
            writer.write(GET + GET[:10])
            await asyncio.sleep(0.3)
            application.may_answer.set()
            assert (await answer(reader))[0] == 200
            assert await refused(reader) == "The request did not arrive in time."

    asyncio.run(run())


def test_a_body_that_never_ends_and_that_nobody_reads_ends_the_connection() -> None:
    async def run() -> None:
        async with serving(Application(), HastyProtocol) as (reader, writer):
            writer.write(b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert (await answer(reader))[2]["length"] == 0

            async def trickle() -> None:
                while not writer.is_closing():
                    writer.write(b"1\r\nx\r\n")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            assert await ended(reader)
            trickling.cancel()

    asyncio.run(run())


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server has closed the connection, with what it had not read yet or without."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000 + b"\r\n\r\n"],
        [b"GET /" + b"x" * 80_000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 60, b"X: y\r\n" * 60 + b"\r\n"],
        [b"GET / HTTP/1.1\r\nX: "] + [b"x" * 10_000] * 8,
        [b"GET /"] + [b"x" * 10_000] * 8,
        [b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, b"x" * 40_000 + b"\r\n\r\n"],
    ],
)
def test_a_head_that_is_too_large_is_refused(pieces: list[bytes]) -> None:
    async def run() -> None:
        application = Application()
        async with serving(application) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            assert await refused(reader) == "The request's headers are too large."
            assert application.asked == []

    asyncio.run(run())


def test_trailers_are_no_headers() -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            head = b"POST /post HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
            for _ in range(2):
                writer.write(head + b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
                _, _, body = await answer(reader)
                assert body == {"path": "/post", "headers": ["host", "transfer-encoding"], "length": 5}

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_bytes", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET\x00/"]
)
def test_what_is_no_http_is_refused_in_the_envelope(request_bytes: bytes) -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            writer.write(request_bytes)
            assert await refused(reader) == "The request is not valid HTTP."

    asyncio.run(run())


def test_a_fault_in_a_requests_body_is_answered_to_that_request() -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            writer.write(b"POST /post HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            await asyncio.sleep(0.05)
            writer.write(b"not a size\r\n")
            assert await refused(reader) == "The request is not valid HTTP."

    asyncio.run(run())


@pytest.mark.parametrize("fault", [b"nonsense\r\n\r\n", b"\x00", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_a_fault_behind_a_request_is_never_taken_for_its_answer(fault: bytes) -> None:
    async def run() -> None:
        application = Application()
        application.may_answer.clear()
        async with serving(application) as (reader, writer):
            writer.write(GET + fault)
            assert await ended(reader)
            assert application.asked in ([], ["/one"])

    asyncio.run(run())


def test_an_upgrade_is_not_taken_and_the_request_is_answered() -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            writer.write(b"GET /one HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
            assert (await answer(reader))[2]["path"] == "/one"

    asyncio.run(run())


# --- whole answers -----------------------------------------------------------------------------------------------------


class WholeAnswers:
    """Answers in one piece, as the data path does: with what the test hands it, once `may_answer` is set."""

    def __init__(self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b'"whole"') -> None:
        self.whole = status, headers, body
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        await self.may_answer.wait()
        if scope["path"] == "/messages":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        await cast("Cycle", send).respond(*self.whole)


async def talk(application: WholeAnswers, request: bytes, timeout_keep_alive: float = 5) -> bytes:
    """All that comes back until the server closes the connection, or for a request that keeps it, until it is idle."""
    async with serving(application, timeout_keep_alive=timeout_keep_alive) as (reader, writer):
        writer.write(request)
        return await reader.read()


CLOSE = b"Connection: close\r\n\r\n"


def test_a_whole_answer_is_one_with_its_length_its_date_and_its_headers() -> None:
    application = WholeAnswers(201, ((b"content-type", b"application/json"), (b"location", b"/here")))
    lines = asyncio.run(talk(application, b"POST / HTTP/1.1\r\n" + CLOSE)).split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 201 Created"
    assert lines[1].startswith(b"date: ")
    assert lines[2:] == [
        *(b"content-type: application/json", b"location: /here", b"connection: close"),
        *(b"content-length: 7", b"", b'"whole"'),
    ]


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [(200, b"HEAD", b"content-length: 7\r\n\r\n"), (204, b"GET", b"close\r\n\r\n"), (304, b"GET", b"close\r\n\r\n")],
)
def test_an_answer_without_a_body_ends_with_its_head(status: int, method: bytes, expected: bytes) -> None:
    told = asyncio.run(talk(WholeAnswers(status), method + b" / HTTP/1.1\r\n" + CLOSE))
    assert told.endswith(expected)
    assert (b"content-length" in told) == (status == 200)


@pytest.mark.parametrize("headers", [((b"connection", b"close"),), ()])
def test_a_connection_ends_where_one_side_says_so(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """By the answer's header, and by HTTP/1.0, which knows no other way; nothing that comes after is answered."""
    version = b"1.1" if headers else b"1.0"
    request = b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n"
    told = asyncio.run(talk(WholeAnswers(headers=headers), request + request))
    assert told.count(b"HTTP/1.1 200") == 1
    assert told.count(b"connection: close") == 1


def test_answers_keep_the_order_of_requests_that_did_not_wait_whichever_way_they_are_sent() -> None:
    paths = ["/one", "/messages", "/two", "/messages", "/three"]
    application = WholeAnswers()
    told = asyncio.run(
        talk(application, b"".join(f"GET {path} HTTP/1.1\r\n\r\n".encode() for path in paths) + b"GET /end HTTP/1.1\r\n" + CLOSE)
    )
    assert application.asked == [*paths, "/end"]
    assert [part.split(b"\r\n\r\n")[1] for part in told.split(b"HTTP/1.1 200 OK")[1:]] == [
        *(b'"whole"', b"{}", b'"whole"', b"{}", b'"whole"', b'"whole"')
    ]


@pytest.mark.parametrize("value", [b"a\r\nx-more: 1", b"a\nx-more: 1", b"a\rb", b"a\0b", b"a\x7fb"])
@pytest.mark.parametrize("name", [b"location", b"vary"])
def test_a_header_that_would_begin_another_line_is_never_sent(name: bytes, value: bytes) -> None:
    for headers in (((name, value),), ((b"x-" + value, b"here"),)):
        told = asyncio.run(talk(WholeAnswers(headers=headers), b"GET / HTTP/1.1\r\n" + CLOSE))
        assert told.startswith(b"HTTP/1.1 500 ")
        assert b"x-more" not in told


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 0\r\n",
        b"Content-Length: 0\r\nContent-Length: 0\r\n",
        b"Content-Length: +0\r\n",
        b"Content-Length: 0, 0\r\n",
        b"Content-Length : 0\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
        b"X: y\r\n\tfolded\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_request_whose_end_is_in_doubt_hides_no_other(head: bytes) -> None:
    """RFC 9112, 6.1 to 6.3 and 5.2: what a proxy in front of us could read otherwise ends the connection."""

    async def run() -> None:
        application = Application()
        async with serving(application) as (reader, writer):
            writer.write(b"POST /post HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\n" + SMUGGLED)
            assert (await answer(reader))[0] == 400
            assert await ended(reader)
        assert "/smuggled" not in application.asked

    asyncio.run(run())


def test_a_caller_that_asks_is_told_to_go_on() -> None:
    async def run() -> None:
        async with serving(Application()) as (reader, writer):
            writer.write(b"POST /post HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hello")
            assert (await answer(reader))[2]["length"] == 5

    asyncio.run(run())


def test_a_connection_that_is_idle_for_long_enough_is_closed_and_one_that_works_is_not() -> None:
    async def run() -> None:
        application = WholeAnswers()
        async with serving(application, timeout_keep_alive=0.2) as (reader, writer):
            writer.write(GET)
            assert (await answer(reader))[2] == "whole"
            application.may_answer.clear()
            writer.write(GET)
            await asyncio.sleep(0.4)
            application.may_answer.set()
            assert (await answer(reader))[2] == "whole"
            assert await ended(reader)

    asyncio.run(run())


def test_a_client_that_has_left_is_not_answered_and_takes_nothing_with_it() -> None:
    async def run() -> None:
        application = WholeAnswers()
        application.may_answer.clear()
        async with serving(application) as (_, writer):
            writer.write(GET)
            while not application.asked:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            await asyncio.sleep(0.05)
            application.may_answer.set()

    asyncio.run(run())


@given(st.from_regex(PLAIN_TARGET.pattern, fullmatch=True))
@example(b"//here/there?x?y")
def test_a_plain_target_is_parted_as_the_parser_of_urls_does(target: bytes) -> None:
    parsed = httptools.parse_url(target)
    assert _parts(target) == (parsed.path, parsed.query or b"")


class _Body(WholeAnswers):
    """Answers with the body, read as the data path reads it, within its limit."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_answer.wait()
        body = Replayed(receive)
        for _ in range(2):  # the second time it is what was kept
            self.whole = 200, (), await read_body_within(read_headers(scope), body, 10, PATIENCE_SECONDS)
            body.rewind()
        assert self.whole[2] == await read_body_within(read_headers(scope), body, 10, PATIENCE_SECONDS)
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("waits", [False, True])
def test_a_body_is_read_whole_whether_it_comes_with_its_head_or_after(waits: bool) -> None:
    async def run() -> None:
        application = _Body()
        async with serving(application) as (reader, writer):
            for body in (b'"a"', b'"bb"'):
                writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
                if waits:
                    await writer.drain()
                    await asyncio.sleep(0.02)
                writer.write(body)
                assert (await answer(reader))[2] == json.loads(body)

    asyncio.run(run())


def test_a_body_that_came_with_its_head_keeps_to_the_limit_too() -> None:
    application = _Body()
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE
    assert b"500 Internal" in asyncio.run(talk(application, head + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"))  # it raises
    assert b"200 OK" in asyncio.run(talk(application, head + b"a\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n"))
