"""How Alembic runs the revisions: over asyncpg, one migrator at a time, each run in one transaction.

Alembic executes this file; `gateway.migrate` hands the URL over in the config's attributes, and the plain `alembic` command
takes it from `DATABASE_URL`. A run that fails leaves nothing. `--sql` is not offered.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.errors import ConfigurationError
from gateway.migrate import WAIT_SECONDS, connect

MIGRATION_LOCK = 0x67617465776179
"""The advisory lock of all migrators of one database: "gateway" in ASCII."""

LOCK_POLL_SECONDS = 0.1

HOLDER = text(
    """
    SELECT concat_ws(', ', 'process ' || pid, 'from ' || host(client_addr),
                     'since ' || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'))
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = :key
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)
"""Who has the lock, in words. What the role may not see of other roles' sessions is left out."""


async def hold_lock(connection: AsyncConnection, wait_seconds: float, tell: Callable[[str], object]) -> None:
    """Wait until no other migrator works on this database; the lock goes when the session ends. Raises ConfigurationError.

    It is asked for again and again rather than waited for inside one statement: such a statement would keep a snapshot open,
    and a `CREATE INDEX CONCURRENTLY` of the migrator that has the lock would wait for that snapshot for ever.
    """
    deadline = time.monotonic() + wait_seconds
    holder = None
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        if holder is None:
            holder = await connection.scalar(HOLDER, {"key": MIGRATION_LOCK})
            if holder is not None:
                tell(f"another migrator is at work ({holder}); waiting for up to {wait_seconds:g} s")
        await connection.rollback()
        if time.monotonic() >= deadline:
            who = f" ({holder})" if holder else ""
            raise ConfigurationError(f"another migrator{who} is still at work after {wait_seconds:g} s; nothing was changed")
        await asyncio.sleep(LOCK_POLL_SECONDS)
    await connection.rollback()  # ends the transaction, not the lock: that is the session's


class BlocksFirst:
    """Refuses an `autocommit_block` that comes after other statements of its revision.

    The block commits what came before it. Were that a part of a revision and the block then failed, that part would be there for
    good, in a database that counts as not having the revision.
    """

    OWN = ("alembic_version", "pg_catalog")
    """What stands in the statements that Alembic itself runs between revisions."""

    def __init__(self) -> None:
        self._begun = False

    def watch(self, connection: Connection, migrations: MigrationContext) -> None:
        """Note every statement from now on, and stand before each `autocommit_block`."""
        enter: Any = migrations.autocommit_block

        @contextmanager
        def block() -> Iterator[None]:
            if self._begun:
                raise CommandError(
                    "an autocommit_block commits what came before it, so nothing can; "
                    "make two revisions of this, one of which begins with the block"
                )
            with enter():
                yield
            self._begun = False  # it is done for good, and fit to be done again

        migrations.autocommit_block = block  # type: ignore[method-assign]  # on purpose
        event.listen(connection, "before_cursor_execute", self._note)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self._begun = self._begun or not any(name in statement for name in self.OWN)

    def next_revision(self, *_: object, **_named: object) -> None:
        """A revision has been applied whole."""
        self._begun = False


def run_revisions(connection: Connection) -> None:
    """Run what the command asked for; on any exception PostgreSQL takes back the whole run, DDL included."""
    blocks = BlocksFirst()
    context.configure(connection=connection, transactional_ddl=True, on_version_apply=blocks.next_revision)
    blocks.watch(connection, context.get_context())
    with context.begin_transaction():
        context.run_migrations()


async def migrate(database_url: str) -> None:
    """Open a connection, lock, run, close."""
    attributes = context.config.attributes
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(connect, database_url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await hold_lock(connection, attributes.get("wait_seconds", WAIT_SECONDS), attributes.get("tell", print))
            await connection.run_sync(run_revisions)
    finally:
        await engine.dispose()


asyncio.run(migrate(context.config.attributes.get("database_url") or os.environ["DATABASE_URL"]))
