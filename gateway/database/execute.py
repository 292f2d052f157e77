"""A statement and its values in, rows out: on a pooled connection, within the time it may take, with faults made ours.

What may be tried again is (`retry`), on another connection and within the same time. While the breaker is open nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from gateway.breaker import Breaker, described
from gateway.connect import Connection
from gateway.database.pool import Pool
from gateway.database.retry import DEMOTED, LOST, MAX_RETRIES, Budget, Kind, NoConnection, kind_of, pause_seconds
from gateway.database.sqlstate import fault_class, told_of, translate, translate_connecting
from gateway.errors import GatewayError, InternalError, NotSent, Refused, Unavailable
from gateway.events import CANCELLED, OTHER, Observer, Purpose, Retried, StatementRan, nobody, timeline

logger = logging.getLogger("gateway.database")

Rows = list[asyncpg.Record]
_NO_ROWS: Rows = []

GRACE_SECONDS = 0.6
"""How long past its own time a statement's answer is waited for, with the wait for a connection and all retries."""
SERVER_LEAD_SECONDS = 0.3
"""By how much the server must be first to cut a statement off, so that its word counts and not our guess."""
LEAST_STATEMENT_SECONDS = 0.05


class Database:
    """Runs statements. It knows SQL text and values, never a plan. `max_retries` 0 is for who has somewhere else to go."""

    def __init__(
        self,
        pool: Pool,
        name: str = "database",
        observe: Observer = nobody,
        comments: bool = False,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        self.pool = pool
        self._max_retries = max_retries
        self.breaker = Breaker(name, pool.probe, observe=observe)
        self._budget = Budget()
        self._observe = observe
        self._comments = comments

    async def fetch(
        self,
        sql: str,
        values: Sequence[Any],
        timeout_seconds: float | None = None,
        writing: bool = False,
        purpose: Purpose = OTHER,
        batch: int = 1,
    ) -> Rows:
        """The rows of one statement, which commits by itself. `timeout_seconds` None is the pool's own.

        Comes back within that time and `GRACE_SECONDS`, whatever the server does. Raises Violation or a GatewayError: NotWritten
        and those of 4xx say that nothing was written, OutcomeUnknown that a write may have been made. A statement that was cut
        off by its time has written nothing. A write that meets a server which is no primary any more is sent to the next one.
        `purpose` and `batch`, how many requests it answers, are for whoever watches.
        """
        usual_seconds = self.pool.options.statement_timeout_seconds
        seconds = self.statement_seconds(timeout_seconds)
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        retries = 0
        while True:
            if not self.breaker.is_closed:
                raise Refused("The database cannot be reached.")
            attempt = _Attempt(self._commented(sql, batch), values, writing)
            asked, told, rows = time.perf_counter(), CANCELLED, _NO_ROWS
            try:
                rows = await attempt.run(self.pool, seconds, usual_seconds, deadline)
                told = ""
            except Exception as raised:  # noqa: BLE001 - all are made ours
                fault, told = raised, fault_class(raised)
            else:
                self.breaker.succeeded()
                self._budget.statements += 1
                return rows
            finally:
                ran = StatementRan(purpose, sql, asked, attempt.acquired, time.perf_counter(), len(rows), batch, told)
                timeline().ran(ran)
                self._observe(ran)
            kind = kind_of(fault, attempt.sent)
            self._note(kind, fault)
            if not (kind.again == "always" or (kind.again == "unwritten" and not attempt.may_have_written)):
                break
            pause = pause_seconds(retries)
            if retries == self._max_retries or time.monotonic() + pause > deadline or not self._budget.take():
                break
            retries += 1
            self._observe(Retried(kind.reason))
            await asyncio.sleep(pause)
        raise _made_ours(fault, attempt) from fault

    def statement_seconds(self, timeout_seconds: float | None) -> float:
        """What a statement may take on the server, where a resource says so much, or nothing."""
        return self.pool.options.statement_timeout_seconds if timeout_seconds is None else timeout_seconds

    def _commented(self, sql: str, batch: int) -> str:
        """The statement with its trace in a comment, where it runs for one sampled request and such comments are wanted.

        No two of them are equal, so PostgreSQL parses and plans each anew: batches, which run the most, have none.
        """
        trace = timeline().trace if self._comments and batch == 1 else None
        if trace is None or not trace.sampled:
            return sql
        return f"{sql} /*traceparent='00-{trace.trace_id:032x}-{trace.span_id:016x}-01'*/"

    def _note(self, kind: Kind, fault: Exception) -> None:
        """What a fault says of the server."""
        if kind.fails:
            self.breaker.failed(described(fault))
        elif kind is DEMOTED:
            self.pool.leave()

    async def is_well(self) -> bool:
        """Whether the database answers now. Goes around an open breaker, which it closes where it does, and around a pool that is
        all in use: that is load, and no fault of the database."""
        if self.breaker.is_closed and self.pool.idle:
            try:
                await self.fetch("SELECT 1", ())
            except GatewayError:
                return await self.breaker.is_well()
            return True
        return await self.breaker.is_well()

    async def stop(self) -> None:
        """Ends what runs in the background. The pool is closed by whoever made it."""
        await self.breaker.stop()


class _Attempt:
    """One try at a statement. `sent` says that it was begun, `may_have_written` that it may have been committed, `acquired` when
    it had its connection."""

    __slots__ = ("_sql", "_values", "_writing", "acquired", "may_have_written", "sent")

    def __init__(self, sql: str, values: Sequence[Any], writing: bool) -> None:
        self._sql = sql
        self._values = values
        self._writing = writing
        self.acquired: float | None = None
        self.sent = False
        self.may_have_written = False

    async def run(self, pool: Pool, seconds: float, usual_seconds: float, deadline: float) -> Rows:
        """The rows. Raises what the pool and the driver raise."""
        connection = await pool.acquire()
        self.acquired = time.perf_counter()
        in_doubt = True
        try:
            if connection.is_closed():  # since it was handed over
                raise ConnectionResetError
            left = deadline - time.monotonic()
            if left < SERVER_LEAD_SECONDS:  # the wait took the rest, and the server could not be the first to give up
                in_doubt = False
                raise NotSent("Every database connection is busy.")
            self.sent = True
            server_seconds = min(seconds, max(left - SERVER_LEAD_SECONDS, LEAST_STATEMENT_SECONDS))
            if server_seconds == usual_seconds:
                self.may_have_written = self._writing
                rows: Rows = await connection.fetch(self._sql, *self._values, timeout=left)
            else:
                rows = await self._run_within(connection, server_seconds, deadline)
            in_doubt = False
        except asyncpg.PostgresError as fault:
            in_doubt = connection.is_closed() or connection.is_in_transaction()
            if kind_of(fault, self.sent) is LOST:
                pool.doubt(connection)
            raise
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            if connection.is_closed():
                pool.doubt(connection)
            raise
        else:
            return rows
        finally:
            pool.release(connection, in_doubt)

    async def _run_within(self, connection: Connection, seconds: float, deadline: float) -> Rows:
        """The statement under its own statement_timeout, which holds for its transaction alone.

        A plan that DDL made stale fails the transaction once; it is then run again, whole.
        """
        try:
            return await self._transaction(connection, seconds, deadline)
        except asyncpg.InvalidCachedStatementError:
            return await self._transaction(connection, seconds, deadline)

    async def _transaction(self, connection: Connection, seconds: float, deadline: float) -> Rows:
        begin = f"BEGIN; SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}"
        await connection.execute(begin, timeout=_left(deadline))
        try:
            rows: Rows = await connection.fetch(self._sql, *self._values, timeout=_left(deadline))
            self.may_have_written = self._writing
            await connection.execute("COMMIT", timeout=_left(deadline))
        except asyncpg.PostgresError as fault:
            if not connection.is_closed() and kind_of(fault, sent=True) is not LOST:
                await connection.execute("ROLLBACK", timeout=_left(deadline))
            raise
        return rows


def _left(deadline: float) -> float:
    """At least a moment: the driver takes nought or less for no time at all, and says so in words that are not for us."""
    return max(0.001, deadline - time.monotonic())


def _made_ours(fault: Exception, attempt: _Attempt) -> Exception:
    if isinstance(fault, NoConnection):
        ours: Exception = NotSent("The database could not be reached in time.")
    elif attempt.sent:
        ours = translate(fault, attempt.may_have_written)
    else:
        ours = translate_connecting(fault)
    if isinstance(ours, InternalError | Unavailable) and ours is not fault:  # it is where we shed load, which metrics tell of
        logger.log(logging.ERROR if isinstance(ours, InternalError) else logging.WARNING, "database: %s", told_of(fault))
    return ours
