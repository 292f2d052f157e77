"""How Alembic runs the revisions: over asyncpg, one migrator at a time, each run in one transaction.

Alembic executes this file; `gateway.migrate` hands the URL over in the config's attributes, and the plain `alembic` command
takes it from `DATABASE_URL`. A run that fails leaves nothing. `--sql` is not offered.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.migrate import connect

MIGRATION_LOCK = 0x67617465776179
"""The advisory lock of all migrators of one database: "gateway" in ASCII."""

LOCK_POLL_SECONDS = 0.1


def run_revisions(connection: Connection) -> None:
    """Run what the command asked for; on any exception PostgreSQL takes back the whole run, DDL included."""
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def hold_lock(connection: AsyncConnection) -> None:
    """Wait until no other migrator works on this database; the lock goes when the session ends.

    It is asked for again and again rather than waited for inside one statement: such a statement would keep a snapshot open,
    and a `CREATE INDEX CONCURRENTLY` of the migrator that has the lock would wait for that snapshot for ever.
    """
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        await connection.rollback()
        await asyncio.sleep(LOCK_POLL_SECONDS)
    await connection.rollback()  # ends the transaction, not the lock: that is the session's


async def migrate(database_url: str) -> None:
    """Open a connection, lock, run, close."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(connect, database_url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await hold_lock(connection)
            await connection.run_sync(run_revisions)
    finally:
        await engine.dispose()


asyncio.run(migrate(context.config.attributes.get("database_url") or os.environ["DATABASE_URL"]))
