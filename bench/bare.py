"""A lone asyncpg connection with one statement: what a point read takes without a gateway.

    echo '{"database_url": …, "sql": …}' | python -m bench.bare

Speaks as `bench.generator` does: `begin`, `end`, then an `Outcome`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random

import asyncpg
import msgspec
import uvloop

from bench.generator import Outcome
from bench.model import latency_of


class Bare(msgspec.Struct, frozen=True):
    """A statement with one value, a random key from 1 to `keys`, as text or as a number."""

    database_url: str
    sql: str
    keys: int
    as_text: bool
    seconds: float
    warmup_seconds: float = 0.5


async def run(bare: Bare) -> Outcome:
    """The outcome of one connection that asks again as soon as it is answered."""
    connection = await asyncpg.connect(bare.database_url)
    random = Random(1)
    try:
        await _window(connection, bare, random, bare.warmup_seconds)
        print("begin", flush=True)
        cpu, started = time.process_time(), time.perf_counter()
        latencies = await _window(connection, bare, random, bare.seconds)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print("end", flush=True)
    finally:
        await asyncio.wait_for(connection.close(), 5)
    return Outcome(
        requests=len(latencies),
        errors=0,
        seconds=seconds,
        latency=latency_of(latencies),
        cpu_seconds=cpu,
        hits=0,
        marked=0,
        first_error="",
    )


async def _window(connection: asyncpg.Connection, bare: Bare, random: Random, seconds: float) -> list[float]:
    clock, latencies = time.perf_counter, []
    deadline = clock() + seconds
    while (started := clock()) < deadline:
        key = random.randint(1, bare.keys)
        rows = await connection.fetch(bare.sql, str(key) if bare.as_text else key)
        latencies.append(clock() - started)
        if not rows:
            raise ValueError(f"no row {key}")
    return latencies


def main() -> None:
    """Reads what to run, runs it, writes the outcome."""
    bare = msgspec.json.decode(sys.stdin.buffer.read(), type=Bare)
    print(msgspec.json.encode(uvloop.run(run(bare))).decode(), flush=True)


if __name__ == "__main__":
    main()
