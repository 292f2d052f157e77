"""Frequent reads without what makes any request possible: no parser, no ASGI scope, no task, no context.

Clients send the same headers again and again; what differs is the first line. So a head whose request was answered with 200 is
remembered by its very bytes, and a packet that has those bytes after `GET /api/… HTTP/1.1` means what the parser and the guards
made of them then. What such a request needs is found by two look-ups: who asks (the token is looked up each time, so that it
ends when it ends), and the `Way`: resource, grant and limits, made once for a head, a resource and a catalog. A connection
keeps the way of its last request. Where the next packet begins and ends as that one did, and is a plain key or query between,
it goes the same way, and nothing of it need be looked up but the token.

From there on the request is driven by those who answer its questions, one after the other and each for many requests at once:

    count (one trip to Redis) → look (one MGET) → read (one statement) → the answer, in one write

Whatever is not plain goes by the common way, `routes`: before it is counted, by leaving the packet to the parser; after that, as
a task that goes on from there (`_resume`). So nothing is decided here that is not decided there; what stands here is the order of
the calls.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from enum import Enum
from typing import ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from gateway.cache.cache import Cache, Cached, Looked
from gateway.cache.store import Found, Key, StoreDown
from gateway.catalog.model import Resource
from gateway.catalog.types import BadValue, ColumnType, Wire, certain_digits
from gateway.database.execute import Rows
from gateway.database.sqlstate import Violation
from gateway.deadlines import Endable
from gateway.errors import GatewayError, InternalError, NotFound, NotSent, Refused, TablesChanged, Unauthorized, Unavailable
from gateway.events import RequestEnded, Timeline, keep_timeline
from gateway.guards.ratelimit import Charges, Decision, limit_lines, refusal
from gateway.guards.tokens import Caller, bearer_token, refuse_query_token
from gateway.guards.windows import StorageDown, Taken
from gateway.http.admission import Visitor
from gateway.http.edge import MAX_HEADERS, cors_headers
from gateway.http.requests import PLAN_TYPE, Headers, new_request_id, read_headers, request_id, split_key, split_path
from gateway.http.responses import Header, Response, page_body, page_links, problem_response, row_body
from gateway.http.routes import STOPPING, UNKNOWN_ROUTE, DataRoutes, Serving, read_late, routes_of
from gateway.http.timing import is_wanted
from gateway.pipeline import (
    MAX_LIST_BATCH,
    MAX_POINT_BATCH,
    Page,
    page_made,
    page_of,
    refused_value,
    row_of,
)
from gateway.query.ast import GetPlan, GetShape, Grant, ListPlan, Values
from gateway.query.plan import get_shape, key_values
from gateway.query.plans import MAX_QUERY_BYTES
from gateway.query.statements import ReadStatement
from gateway.reads import Reads

logger = logging.getLogger("gateway.http")

LINE = re.compile(rb"GET (/api/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))? HTTP/1\.1")
"""A request's first line, with a path and a query of printable ASCII."""
NOTHING: Mapping[bytes, bytes] = {}
PLAIN_KEY = re.compile(rb"[A-Za-z0-9_.~-]+")
PLAIN_QUERY = re.compile(rb"[!-\"$-~]+")
"""What may stand between the ends of a packet that goes the way of the one before it."""
VARYING = re.compile(rb"\r\n(x-request-id|traceparent|tracestate):([^\x00-\x08\x0a-\x1f\x7f]*)(?=\r\n)", re.IGNORECASE)
"""Headers that are another for each request. A head is remembered without them.

A value is what the parser takes for one (RFC 9110, 5.5), spaces around it and all: leaving those to the expression would cost
the cube of their number. Where it is something else, the head is one that is not known.
"""
END_OF_HEAD = b"\r\n\r\n"
SERVED_MEANWHILE = 64
"""So many are counted and served at the same time: the two trips take less time then, and more requests share each. It is as
many reads as a caller who comes to the end of a limit may have for nothing."""
MAX_HEADS = 2000
MAX_HEAD_BYTES = 10_000
"""Of one: a token may have 8 kB."""
MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Of all of them."""
MAX_WAYS = 30
MAX_PAGES = 2000
"""Queries whose plan is kept with the way that it was made for."""
MAX_SHOWN, MAX_SHOWN_BYTES = 250, 32 * 1024
"""Lists whose answers are kept beside what the cache has of them, and how large that may be."""

FROM_DATABASE = b"content-type: application/json\r\nx-cache: bypass\r\n"
FROM_CACHE = b"content-type: application/json\r\nx-cache: hit\r\nage: %d\r\n"
"""How an answer's lines begin, as `responses.row_response` has it. A miss goes by the common way."""

T = TypeVar("T")


class TurnedAway(Enum):
    """See `FastPath.take`."""

    TURNED_AWAY = "turned away"


TURNED_AWAY: Final = TurnedAway.TURNED_AWAY


class Connection(Protocol):
    """What a request needs of the connection that it came on. `way` is that of the last one."""

    client: tuple[str, int] | None
    way: Way | None

    def end_fast(self, status: int, lines: bytes, request_id: bytes, body: bytes) -> None:
        """Sends its answer; `lines` are those of its headers, but for the id, the date and the length."""

    def refuse_late(self, request_id: bytes) -> None:
        """Sends a refusal, for too much has come before it."""

    def hold_task(self, task: asyncio.Task[None]) -> None:
        """Lets the server know of a task that makes an answer."""


class Way(msgspec.Struct, frozen=True, eq=False):
    """What is the same for all requests of one head to one resource. `tables` is empty where no answers are kept.

    A packet that is `row_start`, a key and `tail` asks for a row, and one that is `list_start`, a query and `tail` for a list.
    """

    head: _Head
    path: bytes
    list_start: bytes
    row_start: bytes
    tail: bytes
    serving: Serving
    caller: Caller | None
    peer: str
    resource: Resource
    grant: Grant
    charges: Charges | None
    client: str
    subject: str
    bound_seconds: float
    tables: tuple[str, ...]
    shape: GetShape
    reads: Reads
    row_statement: ReadStatement
    key_type: ColumnType | None
    """Of a key of one field."""
    key_digits: int
    """A key of so many digits is a whole number that this type has."""
    list_route: str
    row_route: str


class _Head(msgspec.Struct, frozen=True, eq=False):
    """A remembered head: its headers, its token, the lines that are in every answer to it, and its ways by their paths."""

    raw: list[Header]
    headers: Headers
    token: bytes | None
    lines: bytes
    rest: bytes
    ways: dict[bytes, Way]


class _Made(msgspec.Struct, frozen=True, eq=False):
    """What is made of a list's query: `key` is None where nothing is kept."""

    plan: ListPlan
    statement: ReadStatement
    key: Key | None


class _Shown(msgspec.Struct, frozen=True, eq=False):
    """The answer that was made of what is `kept` for a list: while that is the same, so is this."""

    kept: bytes
    rows: int
    links: bytes
    body: bytes


class FastPath:
    """The heads that are known, for all connections of a process."""

    def __init__(self, routes: DataRoutes, line: Callable[[Header], bytes]) -> None:
        """`line` makes a header's line."""
        self.routes = routes
        self.verifier = routes.admission.verifier
        self.limiter = routes.admission.limiter
        self.line = line
        self.serving: Serving | None = None
        self.pages: dict[tuple[Way, bytes], _Made] = {}
        self.shown: dict[_Made, _Shown] = {}
        self.refusal: Response | None = None
        self.refusal_lines = b""
        self._heads: dict[bytes, _Head] = {}
        self._bytes = 0

    def learn(self, rest: bytes, raw: list[Header]) -> None:
        """Remembers a head, from the end of its first line on: the parser made `raw` of it.

        It must be that of a GET without a body that was answered with 200, and all of its packet.
        """
        rest = VARYING.sub(b"", rest)
        if rest in self._heads or len(rest) > MAX_HEAD_BYTES or len(raw) > MAX_HEADERS - 3:  # those that vary may come on top
            return
        headers = read_headers({"headers": raw})
        edge = self.routes.edge
        if (
            headers.if_match
            or headers.if_none_match
            or headers.consistency
            or headers.accept == PLAN_TYPE
            or b"no-" in headers.cache_control
            or is_wanted(edge.timing, headers.server_timing)
        ):
            return
        try:
            token = None if self.verifier is None else bearer_token(raw)
        except Unauthorized:
            return
        always = edge.always if edge.cors is None else (*edge.always, *cors_headers(edge.cors, headers.origin))
        self._heads[rest] = _Head(raw, headers, token, b"".join(map(self.line, always)), rest, {})
        self._bytes += len(rest)
        while self._bytes > MAX_KEPT_BYTES or len(self._heads) > MAX_HEADS:
            self._bytes -= len(self._heads.pop(next(iter(self._heads))).rest)

    def take(self, connection: Connection, packet: bytes) -> Read | TurnedAway | None:
        """The request that a packet is; None for one that goes by the common way, and `TURNED_AWAY` for one that is to be refused
        as it is: its sender floods the database alone. What the cache may have is never refused so.

        The connection must have nothing else under way.
        """
        began = time.perf_counter()
        way = connection.way
        if way is not None and packet.endswith(way.tail) and self._still_holds(way):
            read = self._take_again(connection, way, packet, began)
            if read is not None:
                return read
        end = packet.find(b"\r\n")
        rest = packet[end:]
        head = self._heads.get(rest)
        told = NOTHING
        if head is None:
            found = VARYING.findall(rest)
            if not found or not rest.endswith(END_OF_HEAD):  # what follows the end of a head may look like one of its lines
                return None
            head = self._heads.get(VARYING.sub(b"", rest))
            told = {name.lower(): value.strip(b" \t") for name, value in found}
            if head is None or len(told) < len(found):  # where one stands twice
                return None
        line = LINE.fullmatch(packet, 0, end)
        if line is None:
            return None
        path, query = line.groups(b"")
        try:
            if query:
                refuse_query_token(query)
            way, key = self._find(connection, head, path)
            if key is not None and b"%" in key:
                split_key(key)  # what is no text names no resource, and counts by no limit of its own
        except GatewayError:
            return None
        if way is None or (key is not None and (query or not key)):
            return None
        connection.way = way
        return self._begun(_ListRead if key is None else _RowRead, connection, way, query if key is None else key, began, told)

    def _still_holds(self, way: Way) -> bool:
        """Whether the catalog is the one that the way leads through, and its caller's token holds."""
        if self.routes.serving() is not way.serving:
            return False
        token = way.head.token
        return token is None or (self.verifier is not None and self.verifier.known(token) is way.caller)

    def _take_again(self, connection: Connection, way: Way, packet: bytes, began: float) -> Read | TurnedAway | None:
        """The request of a packet that ends as the last one of its connection did, where it plainly names the same resource."""
        if packet.startswith(way.row_start):
            key = packet[len(way.row_start) : -len(way.tail)]
            return self._begun(_RowRead, connection, way, key, began) if key.isdigit() or PLAIN_KEY.fullmatch(key) else None
        if packet.startswith(way.list_start):
            query = packet[len(way.list_start) : -len(way.tail)]
            if (way, query) in self.pages or (PLAIN_QUERY.fullmatch(query) and b"access_token" not in query):
                return self._begun(_ListRead, connection, way, query, began)
        return None

    def _begun(
        self,
        kind: type[Read],
        connection: Connection,
        way: Way,
        asked: bytes,
        began: float,
        told: Mapping[bytes, bytes] = NOTHING,
    ) -> Read | TurnedAway:
        if not way.tables and way.serving.pipeline.gate.is_shut_to(way.client):
            way.serving.pipeline.gate.turn_away()
            return TURNED_AWAY
        trace = None
        if told or self.routes.edge.is_traced:
            trace = self.routes.edge.begin(told.get(b"traceparent", b""), told.get(b"tracestate", b""))
        given_id = request_id(told.get(b"x-request-id", b"")) if told else new_request_id()
        noted = Timeline(given_id.decode("ascii"), UNKNOWN_ROUTE, trace, way.client)
        return kind(self, connection, way, noted, given_id, began, asked)

    def _find(self, connection: Connection, head: _Head, path: bytes) -> tuple[Way | None, bytes | None]:
        """The way to what a path names, and the key that it has. Raises GatewayError."""
        serving = self.routes.serving()
        if serving is not self.serving:
            self._begin_anew(serving)
        caller = None
        if head.token is not None:
            caller = None if self.verifier is None else self.verifier.known(head.token)
            if caller is None:
                return None, None
        peer = connection.client[0] if connection.client else ""
        key: bytes | None = None
        way = head.ways.get(path)
        if way is None:
            collection, _, key = path.rpartition(b"/")
            way = head.ways.get(collection)
        if way is None or way.caller is not caller or way.peer != peer:
            pieces = path.split(b"/")
            if len(pieces) not in (4, 5):
                return None, None
            key = pieces[4] if len(pieces) == 5 else None
            way = self._way(serving, connection, head, b"/".join(pieces[:4]), caller)
        return way, key

    def _begin_anew(self, serving: Serving) -> None:
        """Forgets what was made of another catalog."""
        self.serving = serving
        self.pages.clear()
        self.shown.clear()
        for head in self._heads.values():
            head.ways.clear()

    def _way(self, serving: Serving, connection: Connection, head: _Head, collection: bytes, caller: Caller | None) -> Way | None:
        """A new way to a resource; None where there can be none. Raises GatewayError."""
        pipeline, admission = serving.pipeline, self.routes.admission
        version, name, _ = split_path(collection)
        resource = pipeline.resource(version, name)
        key_type = resource.fields[resource.key[0]].type if len(resource.key) == 1 else None
        if not isinstance(pipeline.reads, Reads) or resource.id in serving.deprecations:
            return None
        scope = {"client": connection.client, "headers": head.raw}
        is_kept = pipeline.cache is not None and pipeline.ttl_seconds(resource) > 0
        grant = serving.policy.grant(resource, "read", caller)
        shape = get_shape(resource, {}, grant)
        list_route, row_route = routes_of(resource)
        way = Way(
            head=head,
            path=collection,
            list_start=b"GET " + collection + b"?",
            row_start=b"GET " + collection + b"/",
            tail=b" HTTP/1.1" + head.rest,
            serving=serving,
            caller=caller,
            peer=connection.client[0] if connection.client else "",
            resource=resource,
            grant=grant,
            charges=admission.charges(scope, serving.limits.get((version, name)), caller),
            client=admission.client(scope, Visitor(caller=caller)),
            subject="" if caller is None else caller.subject,
            bound_seconds=pipeline.bound_seconds(resource),
            tables=pipeline.made_from(resource) if is_kept else (),
            shape=shape,
            reads=pipeline.reads,
            row_statement=pipeline.statements.get(shape, resource),
            key_type=key_type,
            key_digits=0 if key_type is None else certain_digits(key_type),
            list_route=list_route,
            row_route=row_route,
        )
        if len(head.ways) >= MAX_WAYS:
            del head.ways[next(iter(head.ways))]
        head.ways[collection] = way
        return way


class _Waiter(msgspec.Struct, Generic[T], eq=False):
    """Takes the answer to one question of a read: see `coalesce.Waiter`."""

    read: Read
    is_told: bool = False

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self.is_told or self.read.is_over

    def set_result(self, result: T, /) -> None:
        """The answer. What goes wrong with it is this request's alone, for whoever tells has others to tell."""
        raise NotImplementedError

    def set_exception(self, exception: Exception, /) -> None:
        """What came in place of it."""
        self.is_told = True
        self.refuse(exception)

    def cancel(self) -> None:
        """There will be none."""
        if not self.done():
            self.set_exception(Unavailable(STOPPING))

    def refuse(self, fault: Exception) -> None:
        """Goes on without one."""
        self.read.fail(fault)


class _Counting(_Waiter[Taken]):
    def set_result(self, result: Taken, /) -> None:
        self.is_told = True
        try:
            self.read.counted(result)
        except Exception as fault:  # noqa: BLE001 - see `_Waiter.set_result`
            self.refuse(fault)

    def refuse(self, fault: Exception) -> None:
        self.read.count_failed(fault)


class _Looking(_Waiter[Found]):
    def set_result(self, result: Found, /) -> None:
        self.is_told = True
        try:
            self.read.looked(result)
        except Exception as fault:  # noqa: BLE001 - see `_Waiter.set_result`
            self.refuse(fault)

    def refuse(self, fault: Exception) -> None:
        if isinstance(fault, StoreDown):
            self.read.resume()  # the cache says what then
        else:
            self.read.fail(fault)


class _Reading(_Waiter[Rows]):
    def set_result(self, result: Rows, /) -> None:
        self.is_told = True
        try:
            self.read.leave(answered=True)
            self.read.show(result)
        except Exception as fault:  # noqa: BLE001 - see `_Waiter.set_result`
            self.refuse(fault)

    def refuse(self, fault: Exception) -> None:
        self.read.leave(answered=not isinstance(fault, NotSent))
        self.read.fail(fault)


class Read(msgspec.Struct, eq=False):
    """One request, from its packet to its answer. `asked` is the row's key or the list's query, `is_over` says that it has an
    answer."""

    max_batch: ClassVar[int] = 1
    fast: FastPath
    connection: Connection
    way: Way
    noted: Timeline
    request_id: bytes
    began: float
    asked: bytes
    decision: Decision | None = None
    ready: tuple[int, bytes, bytes, str] | None = None
    tick: set[Endable] | None = None
    licence: int = 0
    is_counted: bool = False
    is_reading: bool = False
    is_inside: bool = False
    is_over: bool = False

    # --- the way -------------------------------------------------------------------------------------------------------

    def begin(self, in_time: bool = True) -> None:
        """Refuses it, for its lateness, or counts it. A caller in good standing is served meanwhile: see `SERVED_MEANWHILE`."""
        if not in_time:
            self.connection.refuse_late(self.request_id)
            return
        fast, charges = self.fast, self.way.charges
        fast.routes.in_flight += 1
        try:
            if charges is None:
                self.is_counted = True
                self._go_on()
                return
            limiter = fast.limiter
            decision = limiter.count(charges, _Counting(self))
            if decision is not None:
                self._count(decision)
            elif fast.routes.in_flight <= SERVED_MEANWHILE and limiter.is_at_ease(charges):
                self._go_on()
        except Exception as fault:  # noqa: BLE001 - it is this request's alone, and whoever began it has others to begin
            self.is_counted = True
            self.fail(fault)

    def counted(self, taken: Taken) -> None:
        """Redis counted it."""
        if self.noted.trace is not None:
            self.noted.note("redis", self.began)
        if self.way.charges is not None:
            self._count(self.fast.limiter.decide(self.way.charges, taken))

    def count_failed(self, fault: Exception) -> None:
        """It did not: where it does not answer, this process counts."""
        if isinstance(fault, StorageDown) and self.way.charges is not None:
            self._count(self.fast.limiter.fall_back(self.way.charges))
        else:
            self.is_counted = True
            self.fail(fault)

    def _count(self, decision: Decision) -> None:
        self.is_counted = True
        if not decision.allowed:
            self.fail(refusal(decision))
            return
        self.decision = decision
        if self.ready is not None:
            self._answer(*self.ready)
        elif not self.is_reading:
            self._go_on()

    def _go_on(self) -> None:
        """Looks into the cache, or asks the database."""
        self.is_reading = True
        way, noted = self.way, self.noted
        began = 0.0 if noted.trace is None else time.perf_counter()
        try:
            is_plain = self.prepare()
        except GatewayError as error:
            self.fail(error)
            return
        if noted.trace is not None:
            noted.note("plan", began)
        if not is_plain:
            self.resume()
            return
        cache = way.serving.pipeline.cache if way.tables else None
        if cache is None:
            self._ask()
            return
        self.licence = cache.licence()
        if self.licence:
            self._look(cache)
        else:
            cache.bypass()
            noted.cache = "bypass"
            self._ask()

    def _look(self, cache: Cache) -> None:
        try:
            found = cache.ask(self.kept_as(), self.way.tables, _Looking(self))
        except StoreDown:
            self.resume()
        else:
            if found is None:
                self._watch()
            else:
                self.looked(found)

    def looked(self, found: Found) -> None:
        """The cache told what it has."""
        cache = self.way.serving.pipeline.cache
        cached = None if cache is None else cache.hit(self.licence, found)
        if cached is None:
            self.resume(Looked(self.licence, found))
        else:
            self.noted.cache = "hit"
            self.show_kept(cached)

    def _ask(self) -> None:
        """Joins those who ask the database, where there is room for one more."""
        way = self.way
        gate = way.serving.pipeline.gate
        if not gate.enter(way.client):
            if gate.is_closed_to(way.client):
                self._refuse(gate.refuse())
            else:
                self.resume()
            return
        self.is_inside = True
        if self.tick is None:
            self._watch()
        statement, values = self.asks()
        seconds = way.resource.timeout_seconds
        if not way.reads.enqueue(statement, values, seconds, self.max_batch, _Reading(self), self.noted):
            self.leave(answered=False)
            self.resume()

    def _refuse(self, fault: Refused) -> None:
        """As `fail`, with what is made ready: a refusal must cost a small part of an answer."""
        fast = self.fast
        if fast.refusal is None:
            fast.refusal = problem_response(fault)
            fast.refusal_lines = b"".join(map(fast.line, fast.refusal.headers))
        self.noted.refused = True
        self._answer(fast.refusal.status, fast.refusal_lines, fast.refusal.body, fault.code)

    def leave(self, answered: bool) -> None:
        """Gives back its place at the database."""
        if self.is_inside:
            self.is_inside = False
            self.way.serving.pipeline.gate.leave(self.way.client, answered)

    # --- its end -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Its time is over: see `deadlines`."""
        self.leave(answered=True)
        self.fail(read_late())

    def cancel(self) -> None:
        """Answers at once, with what there is to say at the end of the service."""
        self.is_counted = True
        self.fail(Unavailable(STOPPING))

    def fail(self, fault: Exception) -> None:
        """Answers with an error; tries once more where it comes of tables that changed."""
        if self.is_over:
            if not isinstance(fault, GatewayError | Violation):
                logger.error("request %s failed after its answer", self.noted.request_id, exc_info=fault)
            return
        if isinstance(fault, TablesChanged):
            self.resume()
            return
        if isinstance(fault, Violation):
            fault = self.refused(fault)
        if not isinstance(fault, GatewayError):
            logger.error("request %s failed", self.noted.request_id, exc_info=fault)
            fault = InternalError()
        self.noted.refused = isinstance(fault, Refused)
        self.answer(problem_response(fault), fault.code)

    def resume(self, looked: Looked | None = None) -> None:
        """Goes on by the common way, from behind the count."""
        if self.tick is not None:
            self.tick.discard(self)
            self.tick = None
        loop = asyncio.get_running_loop()
        self.connection.hold_task(loop.create_task(self._resume(looked), context=Context()))

    async def _resume(self, looked: Looked | None) -> None:
        keep_timeline(self.noted)
        routes, way = self.fast.routes, self.way
        visitor = Visitor(caller=way.caller, looked=looked if routes.serving() is way.serving else None)
        headers = msgspec.structs.replace(way.head.headers, request_id=self.request_id)
        path = self.path()
        scope = {
            "method": "GET",
            "raw_path": path,
            "query_string": self.query(),
            "headers": way.head.raw,
            "client": self.connection.client,
        }
        try:
            response, error_code = await routes.resume(scope, headers, visitor)
            more = () if visitor.deprecation is None else visitor.deprecation.headers(path)
            self.answer(response, error_code, more)
        except Exception as fault:  # noqa: BLE001 - nobody waits for the task, and the caller waits for an answer
            self.fail(fault)

    def answer(self, response: Response, error_code: str = "", more: tuple[Header, ...] = ()) -> None:
        """Answers with what else there may be."""
        lines = b"".join([self.fast.line(header) for header in (*response.headers, *more)])
        self._answer(response.status, lines, response.body, error_code)

    def _answer(self, status: int, lines: bytes, body: bytes, error_code: str = "") -> None:
        """Sends it, when it is counted."""
        if not self.is_counted:
            self.ready = status, lines, body, error_code
            return
        if self.is_over:
            return
        self.is_over = True
        fast, way = self.fast, self.way
        if self.tick is not None:
            self.tick.discard(self)
        if self.is_inside:
            self.leave(answered=True)
        fast.routes.in_flight -= 1
        lines += way.head.lines if self.decision is None else way.head.lines + limit_lines(self.decision)
        self.connection.end_fast(status, lines, self.request_id, body)
        fast.routes.edge.observe(
            RequestEnded("GET", status, self.began, time.perf_counter(), way.subject, error_code, self.noted)
        )

    def _watch(self) -> None:
        """Bounds what is waited for from here on."""
        self.tick = self.fast.routes.deadlines.watch(self.way.bound_seconds, self)

    # --- what lists and rows do each in their way ------------------------------------------------------------------------

    def path(self) -> bytes:
        """As it was sent."""
        raise NotImplementedError

    def query(self) -> bytes:
        """As it was sent."""
        raise NotImplementedError

    def prepare(self) -> bool:
        """Makes the plan; False for one that the common way has to run. Raises GatewayError."""
        raise NotImplementedError

    def kept_as(self) -> Key:
        """What the cache keeps the answer as."""
        raise NotImplementedError

    def asks(self) -> tuple[ReadStatement, Values]:
        """What the database is asked."""
        raise NotImplementedError

    def show(self, rows: Rows) -> None:
        """Answers with what the database has."""
        raise NotImplementedError

    def show_kept(self, cached: Cached) -> None:
        """Answers with what the cache has."""
        raise NotImplementedError

    def refused(self, violation: Violation) -> GatewayError:
        """What it means that the database does not take a value."""
        raise NotImplementedError


class _RowRead(Read):
    max_batch: ClassVar[int] = MAX_POINT_BATCH
    values: Values = ()

    def path(self) -> bytes:
        return self.way.path + b"/" + self.asked

    def query(self) -> bytes:
        return b""

    def prepare(self) -> bool:
        way, key = self.way, self.asked
        self.noted.route = way.row_route
        if key.isdigit() and len(key) <= way.key_digits:
            value: Wire = int(key)
        elif way.key_type is None or b"%" in key or b"," in key:
            self.values = key_values(way.resource, split_key(key), way.grant)
            return True
        else:
            try:
                value = way.key_type.parse(key.decode("ascii"))
            except BadValue:
                raise NotFound from None
        rows = way.grant.rows
        self.values = (value,) if rows is None else (value, *rows.values)
        return True

    def kept_as(self) -> Key:
        way = self.way
        return way.serving.pipeline.keys.row(way.resource, GetPlan(way.shape, self.values), way.grant)

    def asks(self) -> tuple[ReadStatement, Values]:
        return self.way.row_statement, self.values

    def show(self, rows: Rows) -> None:
        if not rows:
            raise NotFound
        self.noted.rows = 1
        row = rows[0]
        body, tag = row_body(row[0], row[1])
        self._answer(200, FROM_DATABASE + b"etag: %b\r\n" % tag, body)

    def show_kept(self, cached: Cached) -> None:
        self.noted.rows = 1
        row, _ = row_of(cached)
        body, tag = row_body(row.text, row.state)
        self._answer(200, FROM_CACHE % cached.age_seconds + b"etag: %b\r\n" % tag, body)

    def refused(self, _violation: Violation) -> GatewayError:
        return NotFound()


class _ListRead(Read):
    max_batch: ClassVar[int] = MAX_LIST_BATCH
    made: _Made | None = None

    def path(self) -> bytes:
        return self.way.path

    def query(self) -> bytes:
        return self.asked

    def prepare(self) -> bool:
        way, pages, query = self.way, self.fast.pages, self.asked
        self.noted.route = way.list_route
        made = pages.get((way, query))
        if made is None:
            pipeline, resource = way.serving.pipeline, way.resource
            plan = pipeline.plans.list(resource, query, way.grant)
            key = pipeline.keys.list(resource, plan, way.grant) if way.tables else None
            made = _Made(plan, pipeline.statements.list(plan.shape, resource), key)
            if len(query) <= MAX_QUERY_BYTES:
                if len(pages) >= MAX_PAGES:
                    del pages[next(iter(pages))]
                pages[way, query] = made
        self.made = made
        return made.plan.count != "estimated"

    def kept_as(self) -> Key:
        key = self._made().key
        if key is None:
            raise ValueError("nothing is kept here")
        return key

    def asks(self) -> tuple[ReadStatement, Values]:
        made = self._made()
        return made.statement, made.plan.values

    def show(self, rows: Rows) -> None:
        made = self._made()
        page = page_made(made.plan, made.statement, rows)
        self.noted.rows = page.length
        self._answer(200, FROM_DATABASE + self._links(page), page_body(page))

    def show_kept(self, cached: Cached) -> None:
        made, shown = self._made(), self.fast.shown
        known = shown.get(made)
        if known is None or known.kept != cached.body:
            page, _ = page_of(cached)
            known = _Shown(cached.body, page.length, self._links(page), page_body(page))
            if len(cached.body) <= MAX_SHOWN_BYTES:
                if len(shown) >= MAX_SHOWN:
                    del shown[next(iter(shown))]
                shown[made] = known
        self.noted.rows = known.rows
        self._answer(200, FROM_CACHE % cached.age_seconds + known.links, known.body)

    def _made(self) -> _Made:
        if self.made is None:
            raise ValueError("there is no plan yet")
        return self.made

    def _links(self, page: Page) -> bytes:
        links = page_links(page, self.way.path.decode("latin-1"), self.asked)
        return b"link: %b\r\n" % links if links else b""

    def refused(self, violation: Violation) -> GatewayError:
        return refused_value(violation)
