"""uvicorn's HTTP protocol, kept to what an honest caller sends: a deadline and a cap for the head of a request.

uvicorn waits for ever for a head that never ends, reads an endless one into memory, and takes what comes after a body (trailers)
for headers of the request. Here a head must be whole within `head_seconds` of its connection's or its own first byte and no
larger than `max_head_bytes`, the same holds for a body that nobody reads any more, and trailers are dropped. Refusals are the
contract's 400 with its envelope, and end the connection.

A request whose head comes in one packet, which is nearly every one, pays for three small Python calls and sets no timer.

uvicorn's way of answering costs more than all that the gateway does for a cached row: two messages, two writes to the socket, two
regular expressions for each header, and a timer for each answer. So a `Cycle` takes a whole answer too (`respond`), which is one
write, with the lines of headers that recur made once; and a connection has one keep-alive timer, not one for each answer.

Give it to uvicorn as `http="gateway.http.protocol:HttpProtocol"`, or as the class.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import Receive, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway.errors import GatewayError, Problem, Unavailable, ValidationFailed
from gateway.events import Observer, RequestEnded, Timeline, nobody
from gateway.http.arrivals import Arrivals
from gateway.http.edge import CLOSE, MAX_HEAD_BYTES, MAX_HEADERS, SECURITY, head_too_large
from gateway.http.fast_path import TURNED_AWAY, FastPath, Read, Way
from gateway.http.requests import read_headers
from gateway.http.responses import Header, problem_response
from gateway.http.server import DrainableState

UNREADABLE_ROUTE = "/{unknown}"
"""Of what is no request: its path is not known, or not believed."""

HEAD_DEADLINE_SECONDS = 10.0

PLAIN_TARGET = re.compile(rb"/[!-\"$->@-~]*(\?[!-\"$-~]*)?")
"""A path and a query of printable ASCII, which `?` parts. Any other target is left to the parser of URLs."""

BODILESS = frozenset({204, 304})
"""Statuses whose answers have neither body nor length (RFC 9110, 8.6)."""

RECURRING = frozenset(
    [
        *(b"content-type", b"x-cache", b"vary", b"cache-control", b"ratelimit-policy", b"allow", b"connection"),
        *(name for name, _ in SECURITY),
        *(b"access-control-allow-origin", b"access-control-expose-headers"),
    ]
)
"""Headers whose values are few, so that their lines are worth keeping."""

MAX_KEPT_LINES = 500
CLOSING_LINE = b"connection: close\r\n"

_lines: dict[Header, bytes] = {}
_starts: dict[bytes, bytes] = {}
"""By a header's name, what its line begins with."""


def _parts(target: bytes) -> tuple[bytes, bytes]:
    """A request target's path and query. Raises what the parser of URLs does."""
    if PLAIN_TARGET.fullmatch(target):
        path, _, query = target.partition(b"?")
        return path, query
    parsed = httptools.parse_url(target)
    return parsed.path, parsed.query or b""


def _line(header: Header) -> bytes:
    """A header as it stands in an answer. Raises ValueError for one that would not stand in a line of its own."""
    name, value = header
    start = _starts.get(name) or _start(name)
    if HEADER_VALUE_RE.search(value):
        raise ValueError("a header's value that does not stand in a line")
    line = start + value + b"\r\n"
    if name in RECURRING and len(_lines) < MAX_KEPT_LINES:
        _lines[header] = line
    return line


def line_of(header: Header) -> bytes:
    """A header as it stands in an answer, made once where it recurs. Raises ValueError for one that would not stand in a line."""
    return _lines.get(header) or _line(header)


def _start(name: bytes) -> bytes:
    if not name or HEADER_RE.search(name):
        raise ValueError("a header's name that is none")
    start = name.lower() + b": "
    if len(_starts) < MAX_KEPT_LINES:
        _starts[name] = start
    return start


class _Dated:
    """The lines of the server's own headers (`date`), made anew when uvicorn makes the headers anew, every second."""

    def __init__(self) -> None:
        self._headers: list[Header] | None = None
        self._lines = b""

    def lines(self, headers: list[Header]) -> bytes:
        """The lines of `headers`."""
        if headers is not self._headers:
            self._headers, self._lines = headers, b"".join(map(_line, headers))
        return self._lines


_dated = _Dated()


class Cycle(RequestResponseCycle):
    """A request and its answer. It is given to the application as `send`: it takes ASGI's messages, and whole answers too.

    `head` is the rest of its packet after its first line, where that is all there is of it and `fast_path` may want it.
    """

    head: bytes | None = None
    fast_path: FastPath | None = None

    async def run_asgi(self, app: Any) -> None:
        """Runs the application. One that fails, or ends without an answer, is answered for."""
        try:
            await app(self.scope, self.receive, self)
        except BaseException:
            self.logger.exception("Exception in ASGI application")
            await self._give_up()
        else:
            if not self.response_complete and not self.disconnected:
                self.logger.error("ASGI callable returned without completing response.")
                await self._give_up()
        finally:
            self.on_response = _nothing  # which refers to the connection, and that to its cycle

    async def _give_up(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    async def __call__(self, message: Any) -> None:
        """ASGI's `send`."""
        await self.send(message)

    def take_body(self) -> bytes | None:
        """The whole body, where it has come; `receive` then gives an empty rest. None where it has not, or never will."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        body, self.body = bytes(self.body), bytearray()
        return body

    async def respond(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Sends a whole answer, with its length. `body` is left out where the request was HEAD.

        Raises ValueError for a header that would not stand in a line of its own, and then has sent nothing.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        known = _lines.get
        parts = [STATUS_LINE[status], _dated.lines(self.default_headers)]
        parts += [known(header) or _line(header) for header in headers]
        if CLOSING_LINE in parts:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(CLOSING_LINE)
        if status in BODILESS:
            parts.append(b"\r\n")
        else:
            parts.append(b"content-length: %d\r\n\r\n" % len(body))
            if self.scope["method"] != "HEAD":
                parts.append(body)
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(b"".join(parts))
        self.message_event.set()
        if self.head is not None and status == 200 and self.keep_alive and self.fast_path is not None:
            self.fast_path.learn(self.head, list(self.scope["headers"]))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


LATE = problem_response(Unavailable("The service has more to do than it can; try again."))
LATE_HEADERS = b"".join(map(_line, (*LATE.headers, *SECURITY)))
LATE_LINES = LATE_HEADERS + _line((b"content-length", str(len(LATE.body)).encode()))
DATA_PATH = b"/api/"
PLAIN_READ = b"GET " + DATA_PATH
END_OF_HEAD = b"\r\n\r\n"
HTTP_1_1 = b" HTTP/1.1\r\n"
NOT_PLAIN = re.compile(rb"\n(?:content-length|transfer-encoding|expect|upgrade|connection:[ \t]*close)", re.IGNORECASE)
"""What a head must not have for its request to end with it, and its connection to go on."""
REQUEST_ID = re.compile(rb"\nx-request-id:[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*\r", re.IGNORECASE)


async def _refuse_late(scope: Scope, _receive: Receive, send: Any) -> None:
    await send.respond(LATE.status, [*LATE.headers, *SECURITY, (b"x-request-id", read_headers(scope).request_id)], LATE.body)


async def _end_with(read: Read, ended: asyncio.Event) -> None:
    """Waits until a request of the fast path has its answer; it is given one where the server waits no longer."""
    try:
        await ended.wait()
    except asyncio.CancelledError:
        read.cancel()


class _NoTrailers(list[Header]):
    """Where what comes after a body goes. RFC 9110, 6.5.1: a trailer is no header unless somebody knows that it may be one."""

    def append(self, _header: Header) -> None:
        """Drops it."""


_NO_TRAILERS = _NoTrailers()


def _nothing() -> None:
    """Stands for a callback that is not wanted any more."""


class HttpProtocol(HttpToolsProtocol):
    """One connection. The limits are the class's, so that another class can have others."""

    head_seconds = HEAD_DEADLINE_SECONDS
    max_head_bytes = MAX_HEAD_BYTES

    _in_head = False
    _head_bytes = 0
    """Of the unfinished head, and only where it did not come in one packet."""
    _packet_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _refusal: GatewayError | None = None
    _idle_since = 0.0
    _arrivals: Arrivals | None = None
    _fast_path: FastPath | None = None
    _drainable: DrainableState | None = None
    _fast: Read | None = None
    """The request of the fast path that is under way."""
    way: Way | None = None
    """That of the last one."""
    _ended: asyncio.Event | None = None
    """Set when it has its answer, where that is the connection's last."""
    _held = b""
    """What came meanwhile."""
    _head: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        super().connection_made(transport)
        self._arrivals = getattr(self.app, "arrivals", None)
        self._fast_path = getattr(self.app, "fast_path", None)
        self._drainable = self.server_state if isinstance(self.server_state, DrainableState) else None
        self._idle_since = self.loop.time()
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._fast is not None:
            self._hold(data)
            return
        arrivals, fast_path = self._arrivals, self._fast_path
        if arrivals is not None and arrivals.full and self._is_plain_read(data):
            arrivals.refused()
            self._refuse_unread(data)
            return
        self._head = None
        if fast_path is not None and len(data) <= self.max_head_bytes and self._is_quiet():
            read = fast_path.take(self, data)
            if read is TURNED_AWAY:
                self._refuse_unread(data)
                return
            if read is not None:
                self._fast = read
                if self._deadline is not None:
                    self._drop_deadline()
                if arrivals is None:
                    read.begin()
                else:
                    arrivals.come(read.begin)
                return
            if self._is_plain_read(data):
                self._head = data[data.index(b"\r\n") :]
        self._packet_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade:
            pass  # there is none here, whatever else is installed: the request is answered as one that asks for no upgrade
        if self._in_head or self._is_idle():
            self._wait_for_more()
        elif self._deadline is not None:
            self._drop_deadline()

    # What uvicorn's callbacks do for a connection without WebSocket and without a limit of concurrency.

    def on_message_begin(self) -> None:
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        headers = self.headers
        if len(headers) > MAX_HEADERS or self._head_bytes or self._packet_bytes > self.max_head_bytes:
            self._check_size()
        self._in_head = False
        self.headers = _NO_TRAILERS
        parser, before = self.parser, self.cycle
        version = parser.get_http_version()
        raw_path, query = _parts(self.url)
        path = raw_path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive() and not self._is_draining(),
            on_response=self.on_response_complete,
        )
        if self._head is not None:
            self.cycle.head, self.cycle.fast_path = self._head, self._fast_path
        if before is None or before.response_complete:
            self._begin(self.cycle, raw_path)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    # Frequent reads: see `fast_path`.

    def _is_quiet(self) -> bool:
        """Whether the next packet begins a request, and there is no other."""
        cycle, drainable, transport = self.cycle, self._drainable, self.transport
        return (
            not self._in_head
            and (cycle is None or (cycle.response_complete and not cycle.more_body))
            and (drainable is None or not drainable.draining)
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0
        )

    def refuse_late(self, request_id: bytes) -> None:
        """Sends the refusal of a request of the fast path that has waited for its turn for too long."""
        if self._arrivals is not None:
            self._arrivals.refused()
        self.end_fast(LATE.status, LATE_HEADERS, request_id, LATE.body)

    def end_fast(self, status: int, lines: bytes, request_id: bytes, body: bytes) -> None:
        """Sends the answer to the request of the fast path; `lines` are those of its headers, but for the id and our own."""
        self._fast = None
        state, transport = self.server_state, self.transport
        state.total_requests += 1
        if self._ended is not None:
            self._ended.set()
        if transport.is_closing():
            return
        keep_alive = self._ended is None and not self._is_draining()
        if not keep_alive:
            lines += CLOSING_LINE
        last = b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request_id, len(body))
        transport.write(b"".join((STATUS_LINE[status], _dated.lines(state.default_headers), lines, last, body)))
        if not keep_alive:
            transport.close()
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)
        if self._held:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        """Keeps what a caller sends before it has its answer, which is little, for no more is read then."""
        if not self._held:
            self.transport.pause_reading()
        self._held += data

    def hold_task(self, task: asyncio.Task[None]) -> None:
        """Lets the server wait for a task that makes an answer, and end it when it waits no longer."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def shutdown(self) -> None:
        """The server's end. What is under way is answered; what is idle is closed, after a drain not before its time is over."""
        linger_seconds = 0 if self._drainable is None else self._drainable.linger_seconds
        if self._fast is not None:
            self._ended = asyncio.Event()
            self.hold_task(self.loop.create_task(_end_with(self._fast, self._ended)))
        elif linger_seconds and self._is_idle():
            self.timeout_keep_alive = linger_seconds
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_handler()
        else:
            super().shutdown()

    # More than can be done: see `arrivals`.

    def _begin(self, cycle: RequestResponseCycle, raw_path: bytes) -> None:
        """Now, or when its turn has come; or a refusal. What is not on the data path, such as health, is never kept waiting."""
        arrivals = self._arrivals
        if arrivals is None or not raw_path.startswith(DATA_PATH):
            self._start_asgi_task(cycle, self.app)
        elif arrivals.full:
            self._begin_if(cycle, in_time=False)
        else:
            arrivals.come(partial(self._begin_if, cycle))

    def _begin_if(self, cycle: RequestResponseCycle, in_time: bool) -> None:
        if not in_time and self._arrivals is not None:
            self._arrivals.refused()
        self._start_asgi_task(cycle, self.app if in_time else _refuse_late)

    def _is_plain_read(self, data: bytes) -> bool:
        """Whether the packet is one whole GET of data, after which the connection goes on: then the parser need not see it.

        Whatever is not surely that is parsed: a body taken for a request, or the other way round, would be a hole.
        """
        return (
            data.startswith(PLAIN_READ)
            and data.find(END_OF_HEAD) == len(data) - len(END_OF_HEAD)
            and HTTP_1_1 in data
            and data.count(b"\n") == data.count(b"\r\n")
            and NOT_PLAIN.search(data) is None
            and self._is_quiet()
        )

    def _refuse_unread(self, data: bytes) -> None:
        self._idle_since = self.loop.time()
        self._drop_deadline()  # of a connection's first request; from now on it is idle as after an answer
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)
        sent = REQUEST_ID.search(data)
        request_id = sent[1] if sent is not None else read_headers({"headers": ()}).request_id
        head = STATUS_LINE[LATE.status], _dated.lines(self.server_state.default_headers), LATE_LINES
        self.transport.write(b"".join([*head, b"x-request-id: ", request_id, END_OF_HEAD, LATE.body]))

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._begin(cycle, cycle.scope["raw_path"])
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for as long as it may be. The timer is not set anew by each answer, so it looks."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._in_head or not self._is_idle():
            return  # the end of the answer to come sets it
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._set_keep_alive(left)
        else:
            self.transport.close()

    def _set_keep_alive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _is_draining(self) -> bool:
        return self._drainable is not None and self._drainable.draining

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or what `_refusal` says, and ends the connection.

        Where an earlier request of the connection still waits for its answer, nothing is written: it would be taken for that.
        """
        if self._may_answer():
            self.transport.write(self._refusal_bytes())
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self._fast is None and (self.cycle is None or self.cycle.response_complete)

    def _may_answer(self) -> bool:
        """Whether what is written now is the answer to the request at fault."""
        return self._is_idle() or (self.cycle.more_body and not self.pipeline and not self.cycle.response_started)

    def _wait_for_more(self) -> None:
        """A head, or what is left of a body that nobody reads, goes on in another packet."""
        if self._deadline is None:
            self._set_deadline()
        if not self._in_head or self.transport.is_closing():
            return
        # Of its first packet only the parsed part surely is of the head; of later ones all is.
        self._head_bytes += self._packet_bytes if self._head_bytes else self._parsed_bytes() + 1
        if self._head_bytes > self.max_head_bytes:
            self._refuse(head_too_large(f"together they are longer than {self.max_head_bytes} bytes"))

    def _check_size(self) -> None:
        """Raises, which the parser takes for a fault of the request, for a head that is too large."""
        self._head_bytes = 0
        if len(self.headers) > MAX_HEADERS:
            self._refusal = head_too_large(f"there are {len(self.headers)}; at most {MAX_HEADERS} are taken")
        elif self._parsed_bytes() > self.max_head_bytes:
            self._refusal = head_too_large(f"together they are longer than {self.max_head_bytes} bytes")
        if self._refusal is not None:
            raise self._refusal

    def _parsed_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._on_deadline)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._is_idle():
            self._set_deadline()  # its reading may be paused until the answer before it is out
        elif self._in_head:
            reason = f"they did not arrive whole within {self.head_seconds:g} seconds"
            self._refuse(ValidationFailed("The request did not arrive in time.", [Problem("headers", reason)], [CLOSE]))
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        self._refusal = error
        self.send_400_response("")

    def _tell(self, status: int, code: str, request_id: str) -> None:
        """Whoever watches the application hears of what never reaches it too."""
        observe: Observer = getattr(self.app, "observe", nobody)
        now = time.perf_counter()
        observe(RequestEnded("", status, now, now, "", code, Timeline(request_id, UNREADABLE_ROUTE)))

    def _refusal_bytes(self) -> bytes:
        error = self._refusal or ValidationFailed("The request is not valid HTTP.", headers=[CLOSE])
        response = problem_response(error)
        request_id = read_headers({"headers": ()}).request_id
        self._tell(response.status, error.code, request_id.decode())
        length = str(len(response.body)).encode()
        headers = [*self.server_state.default_headers, *response.headers, *SECURITY]
        headers += [(b"x-request-id", request_id), (b"content-length", length)]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[response.status] + lines + b"\r\n" + response.body
