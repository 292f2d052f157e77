"""A database's address in, its tables out: the connection that reflection needs, opened and closed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from gateway.catalog.reflect import Reflection, TableName, reflect
from gateway.connect import Connection, connect
from gateway.errors import ConfigurationError, NoRoom, Unreachable

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
"""For each question to the database's catalog, which is a large one in some places."""


async def read_tables(url: str, names: Collection[TableName]) -> Reflection:
    """Reflects the named tables. Raises Unreachable where the database does not answer, ConfigurationError where it cannot be
    read."""

    async def open_one() -> Connection:
        return await connect(
            url, timeout_seconds=CONNECT_TIMEOUT_SECONDS, command_timeout=READ_TIMEOUT_SECONDS, statement_cache_size=0
        )

    def adapted() -> Any:
        # As `async_creator` would have it, but for names that nobody else has: a pooler in transaction mode keeps the statements
        # of clients that have gone. A dialect that was made by hand might have no `dbapi`; the engine's has.
        return engine.dialect.dbapi.connect(  # type: ignore[union-attr]  # as above: the engine's is never None
            async_creator_fn=open_one, prepared_statement_cache_size=0, prepared_statement_name_func=lambda: f"gateway_{uuid4()}"
        )

    def read() -> Reflection:
        with engine.connect() as connection:
            return reflect(connection, names)

    # What `sqlalchemy.ext.asyncio` does, without what else that imports: the whole of the ORM.
    engine = create_engine("postgresql+asyncpg://", creator=adapted, poolclass=NullPool)
    try:
        return await greenlet_spawn(read)
    except FAULTS as fault:
        raise unreadable(fault) from fault


FAULTS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, SQLAlchemyError)
"""What connecting and reading can raise."""

REFUSED_BY_POOLER = "unsupported startup parameter"
"""What PgBouncer says of a session's settings that it does not know."""

NEEDED = "each process of a gateway needs DATABASE_POOL_MAX connections and two more: to read the tables, and for the cache"

UNREACHABLE = ("08", "53", "57P", "58")
"""SQLSTATE classes of a server that is away, full, or starting or stopping. A wrong password or name is none of them."""


def unreadable(fault: BaseException) -> ConfigurationError:
    """One of FAULTS as ours: Unreachable where it may pass by itself, NoRoom where it wants a connection."""
    cause = _cause(fault)
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if REFUSED_BY_POOLER in reason:
        return ConfigurationError(f"DATABASE_URL: {reason}; behind PgBouncer, set DATABASE_POOLER=transaction")
    if isinstance(cause, asyncpg.TooManyConnectionsError):
        return NoRoom(f"DATABASE_URL: the database has no room for this connection: {reason}; {NEEDED}")
    kind = Unreachable if _may_pass(cause) else ConfigurationError
    return kind(f"DATABASE_URL: the database cannot be read: {reason}")


def _cause(fault: BaseException) -> BaseException:
    """What the driver said, which SQLAlchemy wraps twice where it fails in the middle of reading."""
    if isinstance(fault, DBAPIError) and fault.orig is not None:
        return fault.orig.__cause__ or fault.orig
    return fault


def _may_pass(fault: BaseException) -> bool:
    if isinstance(fault, asyncpg.PostgresError):
        return (fault.sqlstate or "").startswith(UNREACHABLE)
    return isinstance(fault, OSError | TimeoutError | asyncpg.InternalClientError)
