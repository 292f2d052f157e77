"""What processes used: CPU time and memory of a contender, of all of PostgreSQL, and of Valkey; and the pool, sampled.

CPU time is read as the kernel counts it, before and after a measure; a process tree's includes the children that have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg
import msgspec
import psutil

from bench.model import Cpu, Memory, Pool

MIB = 2**20
SAMPLE_SECONDS = 0.25
POOL_SQL = """
SELECT count(*) AS open, count(*) FILTER (WHERE state <> 'idle') AS busy
FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = $1
"""


class Used(msgspec.Struct, frozen=True):
    """Seconds of CPU until now."""

    contender: float
    postgres: float
    valkey: float


class Watched:
    """The three process trees of a measure. Those of the embedded servers are found among our own children."""

    def __init__(self, contender: psutil.Process | None) -> None:
        self._contender = contender
        self._postgres = _child("postgres")
        self._valkey = _child("valkey-server")

    def used(self) -> Used:
        """Seconds of CPU of each, since its start."""
        return Used(_cpu_seconds(self._contender), _cpu_seconds(self._postgres), _cpu_seconds(self._valkey))

    def memory(self) -> Memory:
        """MiB of each now. PostgreSQL's shared memory counts once, where the system can tell it apart."""
        return Memory(_resident(self._contender), _proportional(self._postgres), _resident(self._valkey))


def cpu_per_request(before: Used, after: Used, generator_seconds: float, requests: int) -> Cpu | None:
    """Microseconds per request between two readings; None without requests."""
    if requests <= 0:
        return None
    scale = 1e6 / requests
    return Cpu(
        contender=(after.contender - before.contender) * scale,
        postgres=(after.postgres - before.postgres) * scale,
        valkey=(after.valkey - before.valkey) * scale,
        generator=generator_seconds * scale,
    )


class PoolWatch:
    """The most connections that were seen in a measure."""

    def __init__(self) -> None:
        self.seen: Pool | None = None

    def note(self, opened: int, busy: int) -> None:
        """One sample."""
        before = self.seen or Pool(0, 0)
        self.seen = Pool(max(before.open, opened), max(before.busy, busy))


@asynccontextmanager
async def watching_pool(connection: asyncpg.Connection, application_name: str) -> AsyncIterator[PoolWatch]:
    """Samples a contender's connections for as long as the block runs."""
    watch = PoolWatch()

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            row = await connection.fetchrow(POOL_SQL, application_name)
            if row is not None and row["open"]:
                watch.note(row["open"], row["busy"])

    task = asyncio.create_task(sample())
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _child(name: str) -> psutil.Process | None:
    return next((child for child in psutil.Process().children() if child.name() == name), None)


def _tree(process: psutil.Process | None) -> Iterable[psutil.Process]:
    if process is not None:
        yield process
        with suppress(psutil.Error):
            yield from process.children(recursive=True)


def _cpu_seconds(root: psutil.Process | None) -> float:
    seconds = 0.0
    for process in _tree(root):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _resident(root: psutil.Process | None) -> float:
    found = 0.0
    for process in _tree(root):
        with suppress(psutil.Error):
            found += process.memory_info().rss / MIB
    return found


def _proportional(root: psutil.Process | None) -> float:
    found = 0.0
    for process in _tree(root):
        with suppress(psutil.Error):
            info = process.memory_full_info()
            found += getattr(info, "pss", info.uss) / MIB
    return found
