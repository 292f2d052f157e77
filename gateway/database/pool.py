"""A pool of asyncpg connections: acquire within a bound, release without waiting.

asyncpg's own pool wraps each connection in a proxy, shields each release in a task and resets what a stateless statement
never changed; on a point read that is a fifth of the process's time. This one hands out bare connections, last used first,
and a connection whose state is in doubt is thrown away, never waited for: a frozen server cannot hold a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeAlias

import asyncpg
import msgspec

from gateway.errors import Unavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

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
    """Connections to one database. Used from one event loop; `open` before and `close` after."""

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self._idle: list[_Idle] = []
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._size = 0
        self._in_use: set[Connection] = set()
        self._closing = False
        self._all_back = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        """Connections open or being opened."""
        return self._size

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiting)

    async def open(self) -> None:
        """Connects the minimum. Raises the driver's exception where the database cannot be reached."""
        opened = await asyncio.gather(*(self._connect() for _ in range(self.options.minimum)), return_exceptions=True)
        now = time.monotonic()
        for outcome in opened:
            if not isinstance(outcome, BaseException):
                self._size += 1
                self._idle.append(_Idle(outcome, now))
        for outcome in opened:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        self._spawn(self._maintain())

    async def close(self, timeout_seconds: float = 5) -> None:
        """Closes what is idle now and what is in use as it comes back; what has not come back in time is cut."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(Unavailable("The service is stopping."))
        idle, self._idle = self._idle, []
        for entry in idle:
            with contextlib.suppress(Exception):  # a dead server cannot be told goodbye
                await entry.connection.close(timeout=1)
            self._size -= 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), timeout_seconds)
        for connection in list(self._in_use):
            connection.terminate()

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
            self._size -= 1
        if self._closing:
            raise Unavailable("The service is stopping.")
        if self._size < self.options.maximum:
            return await self._open_one()
        return await self._wait()

    def release(self, connection: Connection, in_doubt: bool = False) -> None:
        """Takes a connection back at once. `in_doubt` says that a statement may still run on it: it is thrown away."""
        self._in_use.discard(connection)
        if self._closing and not self._in_use:
            self._all_back.set()
        if in_doubt or self._closing or connection.is_closed():
            connection.terminate()
            self._size -= 1
            self._replace_for_waiter()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._in_use.add(connection)
                waiter.set_result(connection)
                return
        self._idle.append(_Idle(connection, time.monotonic()))

    async def _connect(self) -> Connection:
        options = self.options
        settings = {
            **SESSION,
            "application_name": options.name,
            "statement_timeout": str(round(options.statement_timeout_seconds * 1000)),
            "idle_in_transaction_session_timeout": str(round((options.statement_timeout_seconds + 5) * 1000)),
        }
        connection: Connection = await asyncpg.connect(
            options.url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=options.statement_timeout_seconds + options.command_grace_seconds,
            statement_cache_size=STATEMENTS_PER_CONNECTION,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
        return connection

    async def _open_one(self) -> Connection:
        self._size += 1
        try:
            async with asyncio.timeout(self.options.acquire_timeout_seconds):
                connection = await self._connect()
        except TimeoutError:
            self._size -= 1
            self._replace_for_waiter()
            raise Unavailable("The database could not be reached in time.") from None
        except BaseException:
            self._size -= 1
            raise
        self._in_use.add(connection)
        return connection

    async def _wait(self) -> Connection:
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.options.acquire_timeout_seconds):
                return await waiter
        except TimeoutError:
            self._give_back(waiter)
            raise Unavailable("Every database connection is busy.") from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise

    def _give_back(self, waiter: asyncio.Future[Connection]) -> None:
        """A waiter that left: the connection that it was handed at the same moment is not lost."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())

    def _replace_for_waiter(self) -> None:
        if any(not waiter.done() for waiter in self._waiting) and self._size < self.options.maximum and not self._closing:
            self._spawn(self._connect_for_waiter())

    async def _connect_for_waiter(self) -> None:
        with contextlib.suppress(Exception):  # the waiter's own time-out tells its caller
            self.release(await self._open_one())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _maintain(self) -> None:
        """Closes what idled too long above the minimum, drops what the server closed, and keeps the minimum open."""
        while True:
            await asyncio.sleep(min(MAINTENANCE_SECONDS, self.options.idle_seconds))
            horizon = time.monotonic() - self.options.idle_seconds
            kept: list[_Idle] = []
            surplus = self._size - self.options.minimum
            for entry in self._idle:
                if entry.connection.is_closed():
                    self._size -= 1
                elif surplus > 0 and entry.since < horizon:
                    surplus -= 1
                    self._size -= 1
                    self._spawn(_say_goodbye(entry.connection))
                else:
                    kept.append(entry)
            self._idle = kept
            while self._size < self.options.minimum:
                try:
                    self.release(await self._open_one())
                except Exception:  # noqa: BLE001 - the database is away; the next round tries again
                    break


async def _say_goodbye(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=1)
