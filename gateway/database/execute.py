"""A statement and its values in, rows out: on a pooled connection, within the time it may take, with faults made ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import asyncpg

from gateway.connect import Connection
from gateway.database.pool import Pool
from gateway.database.sqlstate import translate
from gateway.errors import GatewayError, InternalError

logger = logging.getLogger("gateway.database")

Rows = list[asyncpg.Record]


class Database:
    """Runs statements. It knows SQL text and values, never a plan."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def fetch(self, sql: str, values: Sequence[Any], timeout_seconds: float | None = None, writing: bool = False) -> Rows:
        """The rows of one statement, which commits by itself. `timeout_seconds` None is the pool's own.

        A write that meets a server which is no primary any more has changed nothing; it is sent once more, to the next one.
        Raises Violation or a GatewayError. A statement that was cut off by its time has written nothing.
        """
        try:
            return await self._fetch(sql, values, timeout_seconds, writing)
        except GatewayError as error:
            if not isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                raise
            self.pool.leave()
        return await self._fetch(sql, values, timeout_seconds, writing)

    async def _fetch(self, sql: str, values: Sequence[Any], timeout_seconds: float | None, writing: bool) -> Rows:
        try:
            connection = await self.pool.acquire()
        except Exception as fault:
            raise _made_ours(fault, writing=False) from fault
        in_doubt = True
        try:
            if timeout_seconds is None or timeout_seconds == self.pool.options.statement_timeout_seconds:
                rows: Rows = await connection.fetch(sql, *values)
            else:
                rows = await _fetch_within(connection, sql, values, timeout_seconds)
            in_doubt = False
        except asyncpg.PostgresError as fault:
            in_doubt = connection.is_in_transaction()
            raise _made_ours(fault, writing) from fault
        except Exception as fault:
            raise _made_ours(fault, writing) from fault
        else:
            return rows
        finally:
            self.pool.release(connection, in_doubt)


async def _fetch_within(connection: Connection, sql: str, values: Sequence[Any], timeout_seconds: float) -> Rows:
    """One statement under its own statement_timeout, which holds for its transaction alone.

    A plan that DDL made stale fails the transaction once; it is then run again, whole.
    """
    try:
        return await _transaction(connection, sql, values, timeout_seconds)
    except asyncpg.InvalidCachedStatementError:
        return await _transaction(connection, sql, values, timeout_seconds)


async def _transaction(connection: Connection, sql: str, values: Sequence[Any], timeout_seconds: float) -> Rows:
    await connection.execute(f"BEGIN; SET LOCAL statement_timeout = {round(timeout_seconds * 1000)}")
    try:
        rows: Rows = await connection.fetch(sql, *values, timeout=timeout_seconds + 1)
        await connection.execute("COMMIT")
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise
    return rows


def _made_ours(fault: BaseException, writing: bool) -> Exception:
    ours = translate(fault, writing)
    if isinstance(ours, InternalError) or (isinstance(ours, GatewayError) and ours.status == 503):
        logger.warning("database: %s: %s", type(fault).__name__, fault)
    return ours
