"""A resource whose answers wait for a gate of the test's own: what is in flight stays so until the test says otherwise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests.conftest import execute
from tests.serving import write_resources

SCHEMA = """
CREATE TABLE notes (id integer PRIMARY KEY, body text NOT NULL);
INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 100) n;
CREATE VIEW gated AS SELECT id, body, pg_advisory_xact_lock_shared(7)::text AS gate FROM notes;
"""
RESOURCES = {"notes": "list: {sort: [id]}\n", "gated": "key: id\nlist: {sort: [id]}\n"}


def site(url: str, directory: Path) -> Path:
    """The tables in the database, and the files in `directory`/resources, which is given."""
    execute(url, SCHEMA)
    return write_resources(directory / "resources", RESOURCES)


class Gate:
    """Open or closed to all reads of `gated`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    def close(self) -> None:
        """Whoever reads from now on waits."""
        self._run("SELECT pg_advisory_lock(7)")

    def open(self) -> None:
        """Who waits goes on."""
        self._run("SELECT pg_advisory_unlock_all()")

    def waiting(self) -> int:
        """How many statements wait at the gate."""
        count: int = self._run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return count

    def _run(self, sql: str) -> int:
        async def run() -> int:
            if self._connection is None:
                self._connection = await asyncpg.connect(self._url)
            found: int = await self._connection.fetchval(sql)
            return found

        future: Future[int] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future.result(60)

    @contextmanager
    def running(self) -> Iterator[Gate]:
        """For as long as the block runs; open at its end."""
        self._thread.start()
        try:
            yield self
        finally:
            if self._connection is not None:
                asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result(60)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
