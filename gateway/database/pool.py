"""A pool of asyncpg connections: acquire within a bound, release without waiting.

asyncpg's own pool wraps each connection in a proxy, shields each release in a task and resets what a stateless statement
never changed; on a point read that is a fifth of the process's time. This one hands out bare connections, last used first,
and a connection whose state is in doubt is thrown away, never waited for: a frozen server cannot hold a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from gateway.connect import Connection, Connector
from gateway.errors import Unavailable

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

CONNECT_TIMEOUT_SECONDS = 5.0
STATEMENTS_PER_CONNECTION = 500
MAINTENANCE_SECONDS = 5.0
SHORTEST_MAINTENANCE_SECONDS = 0.1
GOODBYE_SECONDS = 1.0
LEAVE_PAUSE_SECONDS = 1.0
"""Between two times that a server is left for taking no writes: a role that may write nothing must not connect on and on."""


class PoolOptions(msgspec.Struct, frozen=True):
    """Sizes are connections of this process. `command_grace_seconds` is how long past the statement timeout the client waits."""

    url: str
    name: str
    minimum: int = 5
    maximum: int = 20
    idle_seconds: float = 30
    acquire_timeout_seconds: float = 1
    statement_timeout_seconds: float = 5
    command_grace_seconds: float = 1


class _Idle(msgspec.Struct):
    connection: Connection
    since: float


class Pool:
    """Connections to one database. Used from one event loop; `open` before and `close` after. `departures` counts how often a
    server was left.

    A connection is idle, in use, or being opened, and counts towards the maximum in each. Who finds none idle waits in line;
    whatever comes free or is opened goes to the first in line, and an opening that fails is told to the first in line.
    """

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self._connector = Connector(options.url)
        self._left: set[Connection] = set()
        self.departures = 0
        self._may_leave_at = float("-inf")
        self._idle: list[_Idle] = []
        self._in_use: set[Connection] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Future[Connection], None] = {}  # in order of arrival; a dict, for who leaves the line early
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._closing = False
        self._all_back = asyncio.Event()

    @property
    def size(self) -> int:
        """Connections open or being opened."""
        return len(self._idle) + len(self._in_use) + len(self._openings)

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
        now = time.monotonic()
        self._idle += [_Idle(outcome, now) for outcome in opened if not isinstance(outcome, BaseException)]
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
                waiter.set_exception(Unavailable("The service is stopping."))
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
        """A connection, for `release` to take back. Raises Unavailable when none comes free in time, or the driver's
        exception when one cannot be opened."""
        while self._idle:
            connection = self._idle.pop().connection
            if not connection.is_closed():
                self._in_use.add(connection)
                return connection
        if self._closing:
            raise Unavailable("The service is stopping.")
        return await self._wait()

    def release(self, connection: Connection, in_doubt: bool = False) -> None:
        """Takes a connection back at once. `in_doubt` says that a statement may still run on it: it is thrown away.

        Raises KeyError for one that is not in use: two callers would come to share it.
        """
        self._in_use.remove(connection)
        if connection in self._left:
            self._left.remove(connection)
            in_doubt = True
        if self._closing and not self._in_use:
            self._all_back.set()
        if in_doubt or connection.is_closed():
            connection.terminate()
            self._open_for_waiters()
        else:
            self._put(connection)

    def leave(self) -> None:
        """The server takes no writes any more: its connections are dropped, those in use as they come back, and the next ones
        go to a server that does. Does nothing where that was done a moment ago."""
        now = time.monotonic()
        if self._closing or now < self._may_leave_at:
            return
        self._may_leave_at = now + LEAVE_PAUSE_SECONDS
        self.departures += 1
        logger.warning("database: the server takes no writes; its connections are dropped")
        idle, self._idle = self._idle, []
        self._left |= self._in_use
        for entry in idle:
            entry.connection.terminate()

    def _put(self, connection: Connection) -> None:
        """A connection that is free goes to the first in line, or rests."""
        if self._closing:
            connection.terminate()
            return
        waiter = self._next_waiter()
        if waiter is None:
            self._idle.append(_Idle(connection, time.monotonic()))
        else:
            self._in_use.add(connection)
            waiter.set_result(connection)

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
        try:
            async with asyncio.timeout(self.options.acquire_timeout_seconds):
                return await waiter
        except TimeoutError:
            self._give_back(waiter)
            reason = "Every database connection is busy." if self._in_use else "The database could not be reached in time."
            raise Unavailable(reason) from None
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
        for _ in range(0 if self._closing else count):
            self._spawn(self._open_one(), self._openings)

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
                self._openings.discard(task)
        if connection is not None:
            self._put(connection)
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
        }
        return await self._connector.connect(
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            command_timeout=options.statement_timeout_seconds + options.command_grace_seconds,
            statement_cache_size=STATEMENTS_PER_CONNECTION,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    async def _maintain(self) -> None:
        """Closes what idled too long above the minimum, drops what the server closed, and keeps the minimum open."""
        while True:
            await asyncio.sleep(min(MAINTENANCE_SECONDS, max(self.options.idle_seconds, SHORTEST_MAINTENANCE_SECONDS)))
            horizon = time.monotonic() - self.options.idle_seconds
            self._idle = [entry for entry in self._idle if not entry.connection.is_closed()]
            if self._connector.is_particular and any(_takes_no_writes(entry.connection) for entry in self._idle):
                self.leave()
            surplus = self.size - self.options.minimum
            kept: list[_Idle] = []
            for entry in self._idle:
                if surplus > 0 and entry.since < horizon:
                    surplus -= 1
                    self._spawn(_say_goodbye(entry.connection), self._tasks)
                else:
                    kept.append(entry)
            self._idle = kept
            self._open_more(self.options.minimum - self.size)


def _takes_no_writes(connection: Connection) -> bool:
    """Whether the server has told so since, as it does when its configuration is changed."""
    told = connection.get_settings()
    return "on" in (getattr(told, "in_hot_standby", ""), getattr(told, "default_transaction_read_only", ""))


async def _say_goodbye(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=GOODBYE_SECONDS)
