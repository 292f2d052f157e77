"""What the cache costs a request: CPU of this process for a key, a hit in memory, and a hit, a miss and a write in Redis.

    .venv/bin/python bench/cache_costs.py [--rounds 5] [--in-flight 32]

An embedded Valkey and PostgreSQL; one process, on one event loop. Medians of the rounds are quoted, in microseconds of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from gateway import embedded
from gateway.cache.cache import Cache, Choice, make_cache
from gateway.cache.dependencies import read_dependencies
from gateway.cache.store import Key

TABLES = ("public.products",)
BODY = b"x" * 1000
ROWS = 1000
SAMPLE = 20_000


async def load() -> bytes:
    await asyncio.sleep(0)
    return BODY


def key(row: int) -> Key:
    return Key(f"v1/products:id={row}", b"v1/products:get:id,name,price:" + str(row).encode())


async def measured(work: Callable[[], Awaitable[None]], count: int, rounds: int) -> float:
    """Microseconds of CPU for one of `count` things that `work` does."""
    spent = []
    for _ in range(rounds):
        started = time.process_time()
        await work()
        spent.append((time.process_time() - started) / count * 1e6)
    return statistics.median(spent)


async def costs(cache: Cache, in_flight: int, rounds: int) -> dict[str, float]:
    """Hits, misses and writes, with so many callers at once."""
    for row in range(ROWS):
        await cache.read(key(row), TABLES, load, 3600)
    await asyncio.sleep(0.2)
    keys = [key(random.randrange(ROWS)) for _ in range(SAMPLE)]

    async def caller(mine: list[Key], refresh: bool) -> None:
        for one in mine:
            await cache.read(one, TABLES, load, 3600, refresh)

    async def reads(refresh: bool) -> None:
        await asyncio.gather(*(caller(keys[number::in_flight], refresh) for number in range(in_flight)))

    async def writer(count: int) -> None:
        for _ in range(count):
            await cache.invalidate(TABLES)

    async def writes() -> None:
        await asyncio.gather(*(writer(SAMPLE // 4 // in_flight) for _ in range(in_flight)))

    before = cache.hits
    told = {"hit": await measured(lambda: reads(False), SAMPLE, rounds)}
    told["hits"] = (cache.hits - before) / (SAMPLE * rounds)
    told["made anew and kept"] = await measured(lambda: reads(True), SAMPLE, rounds)
    told["write"] = await measured(writes, SAMPLE // 4, rounds)
    return told


async def run(arguments: argparse.Namespace, database_url: str, redis_url: str) -> None:
    """Both stores."""
    dependencies = await read_dependencies(database_url)
    for choice in (Choice("memory", ""), Choice("redis", "")):
        cache = make_cache(choice, database_url=database_url, redis_url=redis_url, name="bench", dependencies=dependencies)
        await cache.start()
        for in_flight in (1, arguments.in_flight):
            told = await costs(cache, in_flight, arguments.rounds)
            print(f"{choice.kind}, {in_flight} in flight: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()))
        if choice.kind == "redis":
            started = time.process_time()
            await asyncio.sleep(5)
            print(f"at rest: {(time.process_time() - started) / 5 * 1e6:.0f} us of CPU a second")
        await cache.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="What the cache costs a request.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with embedded.servers(directory, durable=False) as servers:
            uvloop.run(run(arguments, servers.database_url, servers.redis_url))


if __name__ == "__main__":
    main()
