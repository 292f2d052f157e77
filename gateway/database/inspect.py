"""A database's address in, its tables out: the connection that reflection needs, opened and closed."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gateway.catalog.reflect import Reflection, TableName, reflect
from gateway.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS = 5.0


async def read_tables(url: str, names: Collection[TableName]) -> Reflection:
    """Reflects the named tables. Raises ConfigurationError where the database cannot be reached or read."""

    async def connect() -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_SECONDS)
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(reflect, names)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as fault:
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise ConfigurationError(f"DATABASE_URL: the database cannot be read: {reason}") from fault
    finally:
        await engine.dispose()
