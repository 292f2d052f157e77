"""The revision files that this process was started with, held against what the database says is applied: now and then.

Migrations need not be where the service runs: without them, nothing is looked at and nothing said. A database that is behind
keeps nobody from being served what fits it, so this is for whoever reads `/health/ready` and the gauge.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.database.execute import Database
from gateway.errors import ConfigurationError, GatewayError
from gateway.events import MigrationsCompared, Observer, nobody
from gateway.revisions import Revisions, read_revisions

logger = logging.getLogger("gateway.migrations")

LOOK_SECONDS = 60.0
AGAIN_SECONDS = 2.0
"""Until the database has answered once."""

IS_READABLE = "SELECT has_table_privilege(to_regclass('public.alembic_version'), 'SELECT')"
"""None: there is no such table, so nothing was ever applied. False: it is not for this role to read."""
APPLIED = "SELECT version_num FROM public.alembic_version"

Notice = tuple[str, str]
"""A status in a word, and a reason in words."""


class MigrationWatch:
    """`notice` is what there is to say: None where database and files agree, or where one of them is not known."""

    def __init__(self, database: Database, observe: Observer = nobody, look_seconds: float = LOOK_SECONDS) -> None:
        self._database = database
        self._observe = observe
        self._look_seconds = look_seconds
        self._task: asyncio.Task[None] | None = None
        self._is_known = False
        self.notice: Notice | None = None

    async def start(self) -> None:
        """Reads the files, compares, and goes on in the background. What cannot be read is logged, once."""
        try:
            revisions = read_revisions(Path.cwd())
        except ConfigurationError as fault:
            logger.warning("whether the database is behind cannot be told: %s", fault)
            return
        if revisions is not None:
            await self._look(revisions)
            self._task = asyncio.get_running_loop().create_task(self._go_on(revisions))

    async def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _go_on(self, revisions: Revisions) -> None:
        while True:
            await asyncio.sleep(self._look_seconds if self._is_known else AGAIN_SECONDS)
            await self._look(revisions)

    async def _look(self, revisions: Revisions) -> None:
        """Compares once. A database that does not answer leaves what was known."""
        try:
            applied = await self._applied()
        except GatewayError:
            return
        self._is_known = True
        if applied is None:
            return
        before, self.notice = self.notice, _notice(revisions, applied)
        if self.notice is not None and self.notice != before:
            logger.warning("migrations: %s: %s", *self.notice)
        self._observe(MigrationsCompared(len(revisions.pending(applied) or ())))

    async def _applied(self) -> tuple[str, ...] | None:
        """The revisions that the database is at; None where this role may not read them. Raises GatewayError."""
        ((is_readable,),) = await self._database.fetch(IS_READABLE, ())
        if is_readable is None:
            return ()
        if not is_readable:
            if not self._is_known:
                logger.warning("whether the database is behind cannot be told: this role may not read public.alembic_version")
            return None
        return tuple(row[0] for row in await self._database.fetch(APPLIED, ()))


def _notice(revisions: Revisions, applied: tuple[str, ...]) -> Notice | None:
    pending = revisions.pending(applied)
    if pending is None:
        return "ahead", f"the database is at revision {', '.join(applied)}, which this process has no file for"
    if not pending:
        return None
    ever = "" if applied else ", and none ever was"
    count = f"{len(pending)} revisions are" if len(pending) > 1 else "1 revision is"
    return "behind", f"{count} not applied, up to {pending[-1]}{ever}; run: gateway migrate up"
