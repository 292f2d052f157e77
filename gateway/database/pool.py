"""A pool of asyncpg connections: acquire within a bound, release without waiting.

asyncpg's own pool wraps each connection in a proxy, shields each release in a task and resets what a stateless statement
never changed; on a point read that is a fifth of the process's time. This one hands out bare connections, last used first,
and a connection whose state is in doubt is thrown away, never waited for: a frozen server cannot hold a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import msgspec

from gateway.connect import Connection, Connector
from gateway.database.retry import NoConnection
from gateway.errors import ConfigurationError, NotSent
from gateway.events import Observer, PoolLeft, nobody

logger = logging.getLogger("gateway.database")

SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}
"""What the JSON and text forms of values depend on, set for every connection."""

POOLED = ("TimeZone", "DateStyle")
"""What a pooler in transaction mode carries from one of the server's connections to the next, and so may be asked for. The rest
must hold on all of them already; PgBouncer refuses who asks for it, or drops what was asked."""

CONNECT_TIMEOUT_SECONDS = 5.0
STATEMENTS_PER_CONNECTION = 500
COMMAND_GRACE_SECONDS = 1.0
"""Past the statement timeout: the bound of what is sent without a bound of its own."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""A peer that says nothing for 10 s is asked thrice, every 5 s, and then given up; so is what it does not acknowledge (in ms)."""
FULL_PAUSE_SECONDS = 0.5
"""How long a server that has no room for another connection is not asked for one."""
MAINTENANCE_SECONDS = 5.0
SHORTEST_MAINTENANCE_SECONDS = 0.1
GOODBYE_SECONDS = 1.0
LEAVE_PAUSE_SECONDS = 1.0
"""Between two times that a server is left for taking no writes: a role that may write nothing must not connect on and on."""


class PoolOptions(msgspec.Struct, frozen=True):
    """Sizes are connections of this process. `is_pooled` says that a pooler in transaction mode stands before the database: then
    nothing outlives a transaction, no prepared statement and no setting."""

    url: str
    name: str
    minimum: int = 5
    maximum: int = 20
    idle_seconds: float = 30
    acquire_timeout_seconds: float = 1
    statement_timeout_seconds: float = 5
    lifetime_seconds: float = 1800
    is_pooled: bool = False


class WrongSession(ConfigurationError):
    """Connections behind a pooler lack settings that only the database's role, or the pooler, can give them."""

    def __init__(self, wrong: Sequence[tuple[str, str]]) -> None:
        lines = " ".join(f"ALTER ROLE … SET {name} = '{value}';" for name, value in wrong)
        super().__init__(f"DATABASE_POOLER: the connections behind the pooler lack settings that the gateway needs: {lines}")


Approve = Callable[[Connection], Awaitable[None]]
"""Looks at a new connection. Raises one of the driver's exceptions for one that is not to be used."""


class _Member(msgspec.Struct):
    """A connection of the pool. Times are of the monotonic clock; `leaves` says that it is closed when it comes back."""

    connection: Connection
    born: float
    ends: float
    idle_since: float = 0.0
    leaves: bool = False


class Pool:
    """Connections to one database. Used from one event loop; `open` before and `close` after. `departures` counts how often
    everything was dropped.

    Before it is open connections are lent, but none is kept: where a server has room for one alone, somebody else may need it
    for the pool to be opened at all.

    A connection is idle, in use, or being opened, and counts towards the maximum in each. Who finds none idle waits in line;
    whatever comes free or is opened goes to the first in line, and an opening that fails is told to the first in line.
    """

    def __init__(self, options: PoolOptions, observe: Observer = nobody, approve: Approve | None = None) -> None:
        self.options = options
        self._observe = observe
        self._approve = approve
        self._idle: list[_Member] = []
        self._in_use: dict[Connection, _Member] = {}
        self._openings: dict[asyncio.Task[None], float] = {}  # and when each began
        self._waiting: dict[asyncio.Future[Connection], None] = {}  # in order of arrival; a dict, for who leaves the line early
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._handed_over = 0
        self._doubted_at = self._may_leave_at = self._full_until = float("-inf")
        self._connector = Connector(options.url)
        self.departures = 0
        self._closing = False
        self._all_back = asyncio.Event()

    @property
    def size(self) -> int:
        """Connections open or being opened."""
        return len(self._idle) + len(self._in_use) + len(self._openings)

    @property
    def active(self) -> int:
        """Connections that are lent out."""
        return len(self._in_use)

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiting)

    async def open(self) -> None:
        """Connects the minimum, or as much of it as the server lets us. Raises the driver's exception where nothing could be
        connected; may be tried again then. Does nothing for a pool that is open.
        """
        if self._is_open:
            return
        opened = await asyncio.gather(*(self._connect() for _ in range(self.options.minimum)), return_exceptions=True)
        self._idle += [self._member(outcome) for outcome in opened if not isinstance(outcome, BaseException)]
        faults = [outcome for outcome in opened if isinstance(outcome, BaseException)]
        if faults and len(faults) == len(opened):
            raise faults[0]
        self._is_open = True
        self._spawn(self._maintain(), self._tasks)

    async def close(self, timeout_seconds: float = 5) -> None:
        """Closes what is idle now and what is in use as it comes back; what has not come back in time is cut.

        Takes `timeout_seconds` and little more than one more at the most, whatever the server does.
        """
        self._closing = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NotSent("The service is stopping."))
        for task in self._tasks:
            task.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_say_goodbye(entry.connection) for entry in idle), self._opened())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), timeout_seconds)
        for connection in self._in_use:
            connection.terminate()

    async def _opened(self) -> None:
        """Lets what is being opened come to its end, for asyncpg can leave a connection behind whose opening is cancelled."""
        openings = list(self._openings)
        if openings:
            await asyncio.wait(openings, timeout=GOODBYE_SECONDS)
        for task in openings:
            task.cancel()

    async def _drained(self) -> None:
        self._all_back.clear()
        if self._in_use:
            await self._all_back.wait()

    async def acquire(self) -> Connection:
        """A connection, for `release` to take back. Raises NotSent when none comes free in time, NoConnection when none can be
        opened in that time, or the driver's exception when opening one fails."""
        while self._idle:
            member = self._idle.pop()
            connection = member.connection
            if not connection.is_closed():
                self._in_use[connection] = member
                return connection
        if self._closing:
            raise NotSent("The service is stopping.")
        return await self._wait()

    def release(self, connection: Connection, in_doubt: bool = False) -> None:
        """Takes a connection back at once. `in_doubt` says that a statement may still run on it: it is thrown away.

        Raises KeyError for one that is not in use: two callers would come to share it.
        """
        member = self._in_use.pop(connection)
        if self._closing and not self._in_use:
            self._all_back.set()
        if in_doubt or connection.is_closed():
            connection.terminate()
            self._open_for_waiters()
        elif member.leaves:
            self._part_with(member)
            self._open_for_waiters()
        else:
            self._put(member)

    def doubt(self, connection: Connection) -> None:
        """A connection in use was lost: those that idle may be too, and whoever tries again should not find out by them.

        Only those go that were open then: of many that are lost together, the first makes room for new ones.
        """
        if self._in_use[connection].born > self._doubted_at:
            self._doubted_at = time.monotonic()
            for member in self._idle:
                member.connection.terminate()
            self._idle.clear()

    def leave(self) -> None:
        """The server takes no writes any more: its connections are dropped, those in use as they come back, and the next ones
        go to a server that does. Does nothing where that was done a moment ago."""
        now = time.monotonic()
        if self._closing or now < self._may_leave_at:
            return
        self._may_leave_at = now + LEAVE_PAUSE_SECONDS
        logger.warning("database: the server takes no writes; its connections are dropped")
        self.drop()
        self._observe(PoolLeft(self.options.name))

    def drop(self, in_use: bool = False) -> None:
        """Every connection is thrown away: now, or, those in use, as they come back, unless `in_use` says now as well."""
        self.departures += 1
        idle, self._idle = self._idle, []
        for member in idle:
            member.connection.terminate()
        for member in self._in_use.values():
            member.leaves = True
            if in_use:
                member.connection.terminate()

    async def probe(self) -> None:
        """Raises where the server does not let us in and answer. The connection that it takes stays, where there is room.

        It may be one more than the maximum for a moment: all others may hang. It does not stay where all others were dropped
        meanwhile, for it may lead to the server that was left.
        """
        departures = self.departures
        connection = await self._connect()
        try:
            await connection.execute("SELECT 1")
        except BaseException:
            connection.terminate()
            raise
        if departures != self.departures:
            connection.terminate()
        elif self.size < self.options.maximum:
            self._put(self._member(connection))
        else:
            self._part_with(self._member(connection))
        if self._is_open:
            self._open_more(self.options.minimum - self.size)

    def _member(self, connection: Connection) -> _Member:
        now = time.monotonic()
        # So that those which were opened together do not end together.
        lifetime = self.options.lifetime_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        return _Member(connection, now, now + lifetime, now)

    def _put(self, member: _Member) -> None:
        """A connection that is free goes to the first in line, or rests."""
        if self._closing:
            member.connection.terminate()
            return
        waiter = self._next_waiter()
        if waiter is None and not self._is_open:
            self._part_with(member)
        elif waiter is None:
            member.idle_since = time.monotonic()
            self._idle.append(member)
        else:
            self._in_use[member.connection] = member
            self._handed_over += 1
            waiter.set_result(member.connection)

    def _part_with(self, member: _Member) -> None:
        self._spawn(_say_goodbye(member.connection), self._tasks)

    def _next_waiter(self) -> asyncio.Future[Connection] | None:
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                return waiter
        return None

    async def _wait(self) -> Connection:
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        self._open_for_waiters()
        arrived, before = time.monotonic(), self._handed_over
        try:
            async with asyncio.timeout(self.options.acquire_timeout_seconds):
                return await waiter
        except TimeoutError:
            self._give_back(waiter)
            if self._handed_over == before and any(began <= arrived for began in self._openings.values()):
                raise NoConnection("no connection could be opened in time") from None
            raise NotSent("Every database connection is busy.") from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            self._waiting.pop(waiter, None)

    def _give_back(self, waiter: asyncio.Future[Connection]) -> None:
        """A waiter that left: the connection that it was handed at the same moment is not lost."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())

    def _open_for_waiters(self) -> None:
        """Opens as many as wait and none is being opened for, as far as there is room."""
        lacking = len(self._waiting) - len(self._openings)
        self._open_more(min(lacking, self.options.maximum - self.size))

    def _open_more(self, count: int) -> None:
        if self._closing or (count > 0 and time.monotonic() < self._full_until):
            return
        for _ in range(count):
            opening = asyncio.get_running_loop().create_task(self._open_one())
            self._openings[opening] = time.monotonic()

    async def _open_one(self) -> None:
        """Goes on when the caller that it was begun for has given up: the next one, or the idle, will have its connection."""
        fault: Exception | None = None
        connection: Connection | None = None
        departures = self.departures
        try:
            connection = await self._connect()
            if departures != self.departures:  # it may lead to the server that was left meanwhile
                connection.terminate()
                connection = await self._connect()
        except Exception as raised:  # noqa: BLE001 - whatever it is, the first in line is told
            fault = raised
        finally:
            if task := asyncio.current_task():
                self._openings.pop(task, None)
        if connection is not None:
            self._put(self._member(connection))
        elif isinstance(fault, asyncpg.TooManyConnectionsError) and self._in_use:
            # Who waits does better with one of ours that comes free. The next opening is for a while from now.
            self._full_until = time.monotonic() + FULL_PAUSE_SECONDS
        elif fault is not None:
            if waiter := self._next_waiter():
                waiter.set_exception(fault)
            self._open_for_waiters()

    async def _connect(self) -> Connection:
        options = self.options
        settings = {
            **SESSION,
            "application_name": options.name,
            "statement_timeout": str(round(options.statement_timeout_seconds * 1000)),
            "idle_in_transaction_session_timeout": str(round((options.statement_timeout_seconds + 5) * 1000)),
            # The server's end of the same: a transaction of a process that vanished holds its locks no longer than this.
            "tcp_keepalives_idle": str(KEEPALIVE["TCP_KEEPIDLE"]),
            "tcp_keepalives_interval": str(KEEPALIVE["TCP_KEEPINTVL"]),
            "tcp_keepalives_count": str(KEEPALIVE["TCP_KEEPCNT"]),
        }
        if options.is_pooled:
            settings = {"application_name": options.name, **{name: SESSION[name] for name in POOLED}}
        connection = await self._connector.connect(
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            command_timeout=options.statement_timeout_seconds + COMMAND_GRACE_SECONDS,
            statement_cache_size=0 if options.is_pooled else STATEMENTS_PER_CONNECTION,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
        if options.is_pooled:
            await self._require_settings(connection)
        _keep_alive(connection)
        if self._approve is not None:
            try:
                await self._approve(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _require_settings(self, connection: Connection) -> None:
        """Raises WrongSession where the server's connections behind a pooler do not have what values' forms depend on."""
        names = ", ".join(f"current_setting('{name}')" for name in SESSION)
        timeout = "(SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout')"
        try:
            (*held, milliseconds), *_ = await connection.fetch(f"SELECT {names}, {timeout}")
        except BaseException:
            connection.terminate()
            raise
        most = round(self.options.statement_timeout_seconds * 1000)
        wrong = [(name, value) for (name, value), found in zip(SESSION.items(), held, strict=True) if found != value]
        if not 0 < milliseconds <= most:
            wrong.append(("statement_timeout", str(most)))
        if wrong:
            connection.terminate()
            raise WrongSession(wrong)

    def _spawn(self, work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    async def _maintain(self) -> None:
        """Closes what idled too long above the minimum or is too old, drops what is closed, and keeps the minimum open."""
        while True:
            await asyncio.sleep(min(MAINTENANCE_SECONDS, max(self.options.idle_seconds, SHORTEST_MAINTENANCE_SECONDS)))
            now = time.monotonic()
            idle_before = now - self.options.idle_seconds
            self._idle = [member for member in self._idle if not member.connection.is_closed()]
            if self._connector.is_particular and any(_takes_no_writes(member.connection) for member in self._idle):
                self.leave()
            surplus = self.size - self.options.minimum
            kept: list[_Member] = []
            for member in self._idle:
                if member.ends < now or (surplus > 0 and member.idle_since < idle_before):
                    surplus -= 1
                    self._part_with(member)
                else:
                    kept.append(member)
            self._idle = kept
            for member in self._in_use.values():
                member.leaves = member.leaves or member.ends < now
            self._open_more(self.options.minimum - self.size)


def _takes_no_writes(connection: Connection) -> bool:
    """Whether the server has told so since, as it does when its configuration is changed."""
    told = connection.get_settings()
    return "on" in (getattr(told, "in_hot_standby", ""), getattr(told, "default_transaction_read_only", ""))


def _keep_alive(connection: Connection) -> None:
    """Has the system ask a silent peer whether it is there still: one that vanished without a word is noticed while it idles."""
    transport: Any = connection._transport  # type: ignore[attr-defined]  # its socket has no public name
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # each system has its own
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _say_goodbye(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=GOODBYE_SECONDS)
