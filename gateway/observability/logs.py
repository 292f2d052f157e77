"""The log: one JSON line for each request and for whatever else is told, from our own code and from libraries, by one way.

Requests come as events, everything else by Python's `logging`; both end in the same stream, in order. A line tells routes, never
paths or queries, and subjects, never tokens: no value that a caller sent stands in it. On a terminal lines are for people.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import msgspec

from gateway.events import Handlers, RequestEnded, StatementRan, Timeline, timeline
from gateway.observability.lines import LineWriter

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"})
MAX_STACK = 2500
"""Characters of a stack, from its end, so that its line stays below what a pipe takes whole."""
MAX_SQL = 2000
DRAIN_SECONDS = 1.0
MAX_PIECES = 5000
"""Of lines, that are kept."""
MAX_REFUSALS = 20
"""In a second, that have lines of their own."""


class Line(msgspec.Struct, omit_defaults=True):
    """One line. Members that are empty are left out."""

    timestamp: str
    level: str
    service: str
    message: str
    method: str = ""
    route: str = ""
    status: int = 0
    durationMs: float | None = None  # noqa: N815 - the members' names are the contract's
    requestId: str = ""  # noqa: N815
    traceId: str = ""  # noqa: N815
    userId: str = ""  # noqa: N815
    errorCode: str = ""  # noqa: N815
    cache: str = ""
    rows: int | None = None
    dbMs: float | None = None  # noqa: N815
    logger: str = ""
    operation: str = ""
    table: str = ""
    sql: str = ""
    batch: int = 0
    stack: str = ""


_encode = msgspec.json.Encoder().encode

_COLOURS: Mapping[str, str] = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def _readable(line: Line | bytes) -> bytes:
    """A line for people, with colours."""
    if isinstance(line, bytes):
        return line
    told = [line.message]
    if line.status:
        told = [line.method, line.route, str(line.status)]
    if line.durationMs is not None:
        told.append(f"{line.durationMs:.1f} ms")
    told += [
        f"\x1b[2m{name}={value}\x1b[0m"
        for name in ("errorCode", "cache", "rows", "operation", "table", "sql", "userId", "requestId", "traceId")
        if (value := getattr(line, name)) not in ("", None)
    ]
    text = f"\x1b[2m{line.timestamp[11:23]}\x1b[0m \x1b[{_COLOURS[line.level]}m{line.level:<8}\x1b[0m {' '.join(told)}\n"
    if line.stack:
        text += line.stack.rstrip() + "\n"
    return text.encode("utf-8", "backslashreplace")


def _json(line: Line | bytes) -> bytes:
    return line if isinstance(line, bytes) else _encode(line) + b"\n"


def _members(line: Line, names: Sequence[str]) -> str:
    """These members as they stand in JSON behind others; without those that are empty."""
    told = {name: value for name in names if (value := getattr(line, name)) not in ("", 0)}
    return "," + _encode(told)[1:-1].decode() if told else ""


class Log:
    """What is at least of `level`, to `stream` (standard error). Statements of `slow_seconds` and more are told of.

    Safe among threads. `readable` is whether lines are for people; None is where `stream` is a terminal.
    """

    def __init__(
        self,
        service: str,
        level: str = "info",
        slow_seconds: float = 1.0,
        stream: IO[bytes] | None = None,
        readable: bool | None = None,
    ) -> None:
        self._service = service
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._slow_seconds = slow_seconds
        stream = stream or sys.stderr.buffer
        self._is_readable = stream.isatty() if readable is None else readable
        encode: Callable[[Line | bytes], bytes] = _readable if self._is_readable else _json
        self._writer: LineWriter[Line | bytes] = LineWriter(stream, encode)
        self._pieces: dict[tuple[int, str, str, int, str, str, str], tuple[str, str]] = {}
        self._second = 0
        self._moment = ""
        self._millisecond = 0
        self._text = ""
        self._refusals_in = 0
        self._refusals = 0

    @property
    def dropped(self) -> int:
        """How many lines were dropped because nobody read those before them."""
        return self._writer.dropped

    @property
    def handlers(self) -> Handlers:
        """What the log makes of events."""
        handlers: dict[Any, Any] = {StatementRan: self._statement} if self._level <= logging.WARNING else {}
        if self._level <= logging.ERROR:
            handlers[RequestEnded] = self._request
        return handlers

    def _request(self, ended: RequestEnded) -> None:
        level = _level_of(ended)
        if level < self._level:
            return
        noted = ended.timeline
        if noted.refused and not self._tells_refusal():
            return
        self._writer.write(self._request_line(level, ended) if self._is_readable else self._request_bytes(level, ended))

    def _request_line(self, level: int, ended: RequestEnded) -> Line:
        noted = ended.timeline
        statements = noted.statements
        return Line(
            self._now(),
            _NAMES[level],
            self._service,
            "request",
            ended.method if ended.method in METHODS else "OTHER",
            noted.route,
            ended.status,
            _microseconds(ended.ended - ended.began) / 1000,
            noted.request_id,
            _trace_id(noted),
            ended.subject,
            ended.error_code,
            noted.cache,
            noted.rows,
            _microseconds(sum([ran.ended - ran.asked for ran in statements])) / 1000 if statements else None,
        )

    def _request_bytes(self, level: int, ended: RequestEnded) -> bytes:
        """`_request_line` as JSON. It comes with every answer, so what is the same for many is made once."""
        noted = ended.timeline
        pieces = self._pieces.get((level, ended.method, noted.route, ended.status, ended.subject, ended.error_code, noted.cache))
        start, end = pieces or self._make_pieces(level, ended)
        took = _microseconds(ended.ended - ended.began)
        text = f'{{"timestamp":"{self._now()}"{start},"durationMs":{took // 1000}.{took % 1000:03}'
        text += f',"requestId":"{noted.request_id}"'
        text += end if noted.trace is None else f',"traceId":"{_trace_id(noted)}"{end}'
        if noted.rows is not None:
            text += f',"rows":{noted.rows}'
        if noted.statements:
            took = _microseconds(sum([ran.ended - ran.asked for ran in noted.statements]))
            text += f',"dbMs":{took // 1000}.{took % 1000:03}'
        return (text + "}\n").encode()

    def _make_pieces(self, level: int, ended: RequestEnded) -> tuple[str, str]:
        """What stands before and behind what is another in each line."""
        line = self._request_line(level, ended)
        place = level, ended.method, line.route, line.status, line.userId, line.errorCode, line.cache
        before = ("level", "service", "message", "method", "route", "status")
        if len(self._pieces) >= MAX_PIECES:
            del self._pieces[next(iter(self._pieces))]
        pieces = self._pieces[place] = _members(line, before), _members(line, ("userId", "errorCode", "cache"))
        return pieces

    def _tells_refusal(self) -> bool:
        """Whether one more refusal has a line of its own. Beyond a few in a second they are told together: when there is too much
        to do, to tell of what is not done must not be a part of it."""
        second = int(time.time())
        if second != self._refusals_in:
            self._tell_refusals()
            self._refusals_in, self._refusals = second, 0
        self._refusals += 1
        return self._refusals <= MAX_REFUSALS

    def _tell_refusals(self) -> None:
        more = self._refusals - MAX_REFUSALS
        if more > 0:
            self._writer.write(Line(self._now(), "warning", self._service, f"{more} more requests were refused within a second"))
        self._refusals = 0

    def _statement(self, ran: StatementRan) -> None:
        """A line for a statement that was slow, with its text, which holds no value of anybody's."""
        seconds = ran.ended - ran.asked
        if seconds < self._slow_seconds:
            return
        noted = timeline()
        self._writer.write(
            Line(
                self._now(),
                "warning",
                self._service,
                "slow statement",
                route=noted.route,
                durationMs=_microseconds(seconds) / 1000,
                requestId=noted.request_id,
                traceId=_trace_id(noted),
                rows=ran.rows,
                operation=ran.purpose.operation,
                table=ran.purpose.table,
                sql=ran.sql[:MAX_SQL],
                batch=ran.batch,
                errorCode=ran.fault,
            )
        )

    def tell(self, record: logging.LogRecord) -> None:
        """A record of Python's `logging`, with the request that it belongs to."""
        noted = timeline()
        line = Line(
            self._now(),
            _level_name(record.levelno),
            self._service,
            record.getMessage(),
            route=noted.route,
            requestId=noted.request_id,
            traceId=_trace_id(noted),
            logger=record.name,
        )
        if record.exc_info and record.exc_info[0] is not None:
            line.errorCode = record.exc_info[0].__name__
            line.stack = "".join(traceback.format_exception(*record.exc_info))[-MAX_STACK:]
        self._writer.write(line)

    def close(self) -> None:
        """Waits a moment until what was told is written."""
        self._tell_refusals()
        self._writer.drain(DRAIN_SECONDS)

    def _now(self) -> str:
        """The time, RFC 3339 in UTC. The text of a millisecond is made once, and that of its second."""
        now = int(time.time() * 1000)
        if now != self._millisecond:
            second, rest = divmod(now, 1000)
            if second != self._second:
                self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            self._millisecond = now
            self._text = f"{self._moment}.{rest:03}Z"
        return self._text


_NAMES: Mapping[int, str] = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}

QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds by machines: told at `debug`, unless they fail."""


def _level_of(ended: RequestEnded) -> int:
    if ended.status >= 500:
        # Why it was refused, or is not ready, has its own line. As an error in each request, it would hide those that say more.
        is_known = ended.timeline.refused or (ended.status == 503 and ended.timeline.route in QUIET_ROUTES)
        return logging.WARNING if is_known else logging.ERROR
    return logging.DEBUG if ended.timeline.route in QUIET_ROUTES and ended.status < 400 else logging.INFO


def _level_name(number: int) -> str:
    return _NAMES[min(max(number // 10 * 10, 10), 50)]


def _microseconds(seconds: float) -> int:
    """Rounded; `round` would take four times as long."""
    return int(seconds * 1e6 + 0.5)


def _trace_id(noted: Timeline) -> str:
    return "" if noted.trace is None else f"{noted.trace.trace_id:032x}"


class _Handler(logging.Handler):
    """Python's `logging`, into a `Log`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.tell(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers: who logs must not fail for it
            self.handleError(record)

    def flush(self) -> None:
        """Called by `logging` at the end of the process."""
        self._log.close()


QUIET_LIBRARIES = ("httpx", "httpcore", "urllib3")
"""They tell of each request with its URL."""


def configure(log: Log, level: str) -> None:
    """Makes `log` the way of everything that is logged in this process, warnings with it."""
    logging.basicConfig(level=level.upper(), handlers=[_Handler(log)], force=True)
    logging.captureWarnings(True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
