"""Three processes, one PostgreSQL, one Valkey, and what is done to them: are answers stale after a write was acknowledged?

`trial` starts three workers (this module again, as a script). Each has a cache as `gateway serve` has it, over its own way to
Valkey, a proxy that can hold or refuse. Each reads every row, and writes those that are its own; a row counts its versions. A
writer puts the version that was acknowledged into memory that all share; a reader looks there before it asks, and a version that
is older than that is stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from gateway import embedded
from gateway.cache.cache import Cache, Choice, make_cache
from gateway.cache.dependencies import read_dependencies
from gateway.cache.store import Key
from tests.faults.proxy import Proxy, proxying

ROOT = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "tests.cache.staleness")
WORKERS = 3
TABLES = 4
ROWS = 48
READERS = 8
STOP, READS, ACKNOWLEDGED = 0, 1, 1 + WORKERS
SIZE = 8 * (ACKNOWLEDGED + ROWS)
WRITE_PAUSE_SECONDS = 0.05
MAX_DELAY_SECONDS = 0.01


class Report(msgspec.Struct):
    """What one worker, or all together, saw. Seconds are the longest that one request took."""

    reads: int = 0
    hits: int = 0
    misses: int = 0
    bypasses: int = 0
    writes: int = 0
    settled: int = 0
    stale: list[str] = []
    failed: list[str] = []
    longest_read_seconds: float = 0.0
    longest_write_seconds: float = 0.0

    def __add__(self, other: Report) -> Report:
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return Report(
            **{
                name: max(a, b) if "longest" in name else a + b
                for (name, a), b in zip(mine.items(), theirs.values(), strict=True)
            }
        )


@contextmanager
def shared(path: Path) -> Iterator[memoryview]:
    """The memory that all share, as whole numbers."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
        numbers = memoryview(memory).cast("q")
        try:
            yield numbers
        finally:
            numbers.release()


# --- a worker ------------------------------------------------------------------------------------------------------------


class Worker:
    """One process: a cache, a pool, and callers of both."""

    def __init__(self, number: int, cache: Cache, pool: Any, numbers: memoryview, pause_seconds: float) -> None:
        self.number = number
        self.cache = cache
        self.pool = pool
        self.numbers = numbers
        self.pause_seconds = pause_seconds
        self.report = Report()
        self.chance = random.Random(number)
        self.last_written = 0

    async def read(self) -> None:
        row = self.chance.randrange(ROWS)
        wanted = self.numbers[ACKNOWLEDGED + row]
        started = time.monotonic()
        cached = await self.cache.read(
            Key(f"row={row}", b"row=%d" % row), (f"public.t{row % TABLES}",), lambda: self._load(row), 60
        )
        took = time.monotonic() - started
        self.report.longest_read_seconds = max(self.report.longest_read_seconds, took)
        self.report.reads += 1
        self.numbers[READS + self.number] = self.report.reads
        if int(cached.body) < wanted:
            self.report.stale.append(f"worker {self.number}: {int(cached.body)} of row {row} by {cached.outcome} after {wanted}")

    async def _load(self, row: int) -> bytes:
        version = await self.pool.fetchval(f"SELECT version FROM t{row % TABLES} WHERE id = $1", row)
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.random() * MAX_DELAY_SECONDS)
        return b"%d" % version

    async def write(self) -> None:
        row = self.chance.randrange(self.number, ROWS, WORKERS)
        started = time.monotonic()
        async with self.cache.writing((f"public.t{row % TABLES}",)):
            version = await self.pool.fetchval(
                f"UPDATE t{row % TABLES} SET version = version + 1 WHERE id = $1 RETURNING version", row
            )
        self.numbers[ACKNOWLEDGED + row] = version
        self.report.longest_write_seconds = max(self.report.longest_write_seconds, time.monotonic() - started)
        self.report.writes += 1

    async def keep_doing(self, what: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
        """Until all are told to stop. A request that fails is counted, and the next one made."""
        while not self.numbers[STOP]:
            try:
                await what()
            except Exception as fault:  # noqa: BLE001 - any is a failed request
                self.report.failed.append(f"worker {self.number}: {type(fault).__name__}: {fault}")
            await asyncio.sleep(self.chance.random() * 2 * pause_seconds)

    async def run(self) -> Report:
        await asyncio.gather(
            *(self.keep_doing(self.read, self.pause_seconds) for _ in range(READERS)),
            self.keep_doing(self.write, WRITE_PAUSE_SECONDS),
        )
        report, cache = self.report, self.cache
        report.hits, report.misses, report.bypasses, report.settled = cache.hits, cache.misses, cache.bypasses, cache.settled
        return report


async def work(number: int, database_url: str, redis_url: str, memory: Path, pause_seconds: float) -> Report:
    """A worker's whole life."""
    cache = make_cache(
        Choice("redis", ""),
        database_url=database_url,
        redis_url=redis_url,
        name=f"worker {number}",
        dependencies=await read_dependencies(database_url),
    )
    async with asyncpg.create_pool(database_url, min_size=2, max_size=10) as pool:
        with shared(memory) as numbers:
            await cache.start()
            try:
                return await Worker(number, cache, pool, numbers, pause_seconds).run()
            finally:
                await cache.stop()


# --- a way to Valkey, and its troubles -------------------------------------------------------------------------------------


class Valkey:
    """An embedded Valkey that can be frozen, and started again: empty, or as it was when it was last saved."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.url = ""

    def start(self) -> None:
        self.url = self._stack.enter_context(embedded.valkey(self._directory))

    def stop(self) -> None:
        self._stack.close()

    @property
    def socket(self) -> str:
        return self.url.removeprefix("unix://")

    async def ask(self, *command: str) -> Any:
        client: Any = Redis.from_url(self.url)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    @contextmanager
    def frozen(self, process: int) -> Iterator[None]:
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)


class Trouble:
    """What happens to Valkey and to the ways there. Each method is one fault, from its beginning to its end."""

    def __init__(self, valkey: Valkey, proxies: list[Proxy], chance: random.Random) -> None:
        self._valkey = valkey
        self._proxies = proxies
        self._chance = chance
        self.counts: dict[str, int] = {}

    async def flush(self) -> None:
        for _ in range(5):
            await self._valkey.ask("FLUSHALL")
            await asyncio.sleep(self._chance.random() * 0.05)

    async def freeze(self) -> None:
        process = int((await self._valkey.ask("INFO", "server"))["process_id"])
        with self._valkey.frozen(process):
            await asyncio.sleep(self._chance.choice((0.05, 0.3, 1.5)))

    async def restart(self) -> None:
        """Started again, it is as it was when it was saved a moment before."""
        await self._valkey.ask("SAVE")
        await asyncio.sleep(self._chance.random() * 0.2)
        await asyncio.to_thread(self._valkey.stop)
        await asyncio.sleep(self._chance.choice((0.0, 0.3)))
        await asyncio.to_thread(self._valkey.start)

    async def partition(self) -> None:
        """One process is out of reach for longer than a licence lasts; its packets arrive later, or never."""
        proxy = self._chance.choice(self._proxies)
        proxy.turn("freeze" if self._chance.random() < 0.5 else "refuse")
        await asyncio.sleep(self._chance.choice((0.2, 1.0, 2.5)))
        proxy.turn("pass")

    async def go_on(self, until: Callable[[], bool], rest_seconds: float) -> None:
        """One fault after the other, and a rest between, until it is enough and each was there."""
        faults = [self.flush, self.partition, self.freeze, self.restart]
        while not until() or len(self.counts) < len(faults):
            for fault in faults:
                await asyncio.sleep(rest_seconds * (0.5 + self._chance.random()))
                await fault()
                self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1


# --- the whole -----------------------------------------------------------------------------------------------------------


async def trial(
    database_url: str, directory: Path, reads: int, pause_seconds: float, rest_seconds: float, seed: int = 1
) -> tuple[Report, dict[str, int]]:
    """At least so many reads under at least one of each fault. Gives what all workers saw, and how many faults there were."""
    memory = directory / "numbers"
    memory.write_bytes(bytes(SIZE))
    await _make_tables(database_url)
    valkey = Valkey(directory)
    await asyncio.to_thread(valkey.start)
    workers: list[asyncio.subprocess.Process] = []
    try:
        with shared(memory) as numbers, contextlib.ExitStack() as stack:
            proxies = [stack.enter_context(proxying(valkey.socket)) for _ in range(WORKERS)]
            for number, proxy in enumerate(proxies):
                redis_url = f"redis://127.0.0.1:{proxy.port}"
                arguments = [str(number), database_url, redis_url, str(memory), str(pause_seconds)]
                workers.append(
                    await asyncio.create_subprocess_exec(*WORKER, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
                )
            trouble = Trouble(valkey, proxies, random.Random(seed))

            def is_enough() -> bool:
                if any(worker.returncode is not None for worker in workers):
                    raise RuntimeError("a worker has ended before it was told to")
                return sum(numbers[READS : READS + WORKERS]) >= reads

            await trouble.go_on(is_enough, rest_seconds)
            await asyncio.sleep(rest_seconds)
            numbers[STOP] = 1
            told = [(await worker.communicate())[0] for worker in workers]
        total = Report()
        for one in told:
            total += msgspec.json.decode(one, type=Report)
        return total, trouble.counts
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        await asyncio.to_thread(valkey.stop)


async def _make_tables(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for table in range(TABLES):
            await connection.execute(f"CREATE TABLE t{table} (id int PRIMARY KEY, version bigint NOT NULL DEFAULT 0)")
            await connection.execute(f"INSERT INTO t{table} (id) SELECT generate_series(0, {ROWS - 1})")
    finally:
        await connection.close()


if __name__ == "__main__":
    number, database_url, redis_url, memory, pause_seconds = sys.argv[1:]
    print(
        json.dumps(
            msgspec.to_builtins(asyncio.run(work(int(number), database_url, redis_url, Path(memory), float(pause_seconds))))
        )
    )
