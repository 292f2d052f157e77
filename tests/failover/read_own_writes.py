"""Many reads after writes, with a replica that lags at random: `python -m tests.failover.read_own_writes 10000` for the long run.

Own writes: each caller writes a row of its own and reads it again and again, with the token that its write's answer brought.
Others' writes: every caller reads, from the cache, what any of them has written, without a token.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from gateway import embedded
from gateway.app import Gateway
from gateway.events import Event, ReplicaRead
from tests.conftest import throwaway_directory
from tests.replication import Node, cluster
from tests.serving import settings_for, write_resources

SCHEMA = "CREATE TABLE notes (id integer PRIMARY KEY, number integer NOT NULL DEFAULT 0)"
RESOURCES = {"notes": "list: {sort: [id]}\ncache: {ttl: 0}\n", "kept": "table: notes\nlist: {sort: [id]}\n"}
CALLERS = 20
ROWS = 400
READS_PER_WRITE = 5
LONGEST_PAUSE_SECONDS = 0.1


class Result(msgspec.Struct):
    """What a run saw. `outcomes` says who answered; `paused` how often the replica was held back."""

    reads: int = 0
    stale: int = 0
    paused: int = 0
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)


@asynccontextmanager
async def serving(nodes: tuple[Node, ...], directory: Path, **variables: str) -> AsyncIterator[tuple[Gateway, Counter[str]]]:
    """A gateway whose replicas have been seen, and a count of who answered."""
    variables = {"DATABASE_REPLICA_URLS": ",".join(node.url for node in nodes[1:]), **variables}
    gateway = Gateway(settings_for(nodes[0].url, write_resources(directory, RESOURCES), **variables))
    outcomes: Counter[str] = Counter()

    def observe(event: Event) -> None:
        if isinstance(event, ReplicaRead):
            outcomes[event.outcome] += 1

    assert gateway.replicas is not None
    gateway.replicas._observe = observe
    await gateway.start()
    try:
        await until_all_answer(gateway)
        yield gateway, outcomes
    finally:
        await gateway.stop()


async def until_all_answer(gateway: Gateway) -> None:
    assert gateway.replicas is not None
    async with asyncio.timeout(30):
        while not all(health.answers for health in gateway.replicas.health()):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def lagging(replica: Node, result: Result, dice: random.Random) -> AsyncIterator[None]:
    """Holds the replica back and lets it go, at random, for as long as the block runs."""
    connection = await asyncpg.connect(replica.url)

    async def lag() -> None:
        while True:
            await connection.execute("SELECT pg_wal_replay_pause()")
            result.paused += 1
            await asyncio.sleep(dice.random() * 0.3)
            await connection.execute("SELECT pg_wal_replay_resume()")
            await asyncio.sleep(dice.random() * 0.3)

    task = asyncio.create_task(lag())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await connection.close()
        replica_connection = await asyncpg.connect(replica.url)
        await replica_connection.execute("SELECT pg_wal_replay_resume()")
        await replica_connection.close()


async def _write(gateway: Gateway, name: str, key: int, number: int) -> None:
    pipeline = gateway._serving.pipeline
    await pipeline.patch_row(pipeline.resource("v1", name), (str(key),), json.dumps({"number": number}).encode(), False)


async def _read(gateway: Gateway, name: str, key: int, **named: Any) -> int:
    pipeline = gateway._serving.pipeline
    row, _ = await pipeline.read_row(pipeline.resource("v1", name), (str(key),), {}, **named)
    found: int = json.loads(row if isinstance(row, str) else row.text)["number"]
    return found


async def own_writes(nodes: tuple[Node, ...], directory: Path, reads: int, seed: int = 1) -> Result:
    """`reads` reads, each of a row that its caller wrote a moment before."""
    result, dice = Result(), random.Random(seed)
    async with serving(nodes, directory) as (gateway, result.outcomes), lagging(nodes[1], result, dice):
        pipeline = gateway._serving.pipeline

        async def call(key: int) -> None:
            number = 0
            while result.reads < reads:
                number += 1
                await _write(gateway, "notes", key, number)
                token = await pipeline.position()
                for _ in range(READS_PER_WRITE):
                    result.stale += await _read(gateway, "notes", key, after=token) != number
                    result.reads += 1
                    await asyncio.sleep(dice.random() * LONGEST_PAUSE_SECONDS)

        await asyncio.gather(*(call(key) for key in range(CALLERS)))
    return result


async def others_writes(
    nodes: tuple[Node, ...], directory: Path, reads: int, seed: int = 1, redis_url: str | None = None
) -> Result:
    """`reads` reads through the cache, each of a row that somebody wrote; no caller has a token.

    With a Redis the writer's gateway is another than the readers', as in two processes.
    """
    result, dice = Result(), random.Random(seed)
    variables = {"WORKERS": "1", "CACHE_TTL_SECONDS": "60", **({"REDIS_URL": redis_url} if redis_url else {})}
    async with AsyncExitStack() as stack:
        gateway, result.outcomes = await stack.enter_async_context(serving(nodes, directory, **variables))
        writers = gateway
        if redis_url:
            writers, _ = await stack.enter_async_context(serving(nodes, directory / "writers", **variables))
        await stack.enter_async_context(lagging(nodes[1], result, dice))
        acknowledged = dict.fromkeys(range(ROWS), 0)
        newest = 0

        async def write() -> None:
            nonlocal newest
            while result.reads < reads:
                key = dice.randrange(ROWS)
                number = acknowledged[key] + 1
                await _write(writers, "kept", key, number)
                acknowledged[key] = number
                newest = key
                await asyncio.sleep(dice.random() * 1.2)  # longer than it takes to be sure of the replica, as a rule

        async def call() -> None:
            while result.reads < reads:
                key = newest if dice.random() < 0.5 else dice.randrange(ROWS)
                least = acknowledged[key]
                result.stale += await _read(gateway, "kept", key) < least
                result.reads += 1
                await asyncio.sleep(dice.random() * LONGEST_PAUSE_SECONDS)

        await asyncio.gather(write(), *(call() for _ in range(CALLERS)))
    return result


def prepare(primary: Node) -> None:
    """The rows that are written, as they are at first."""
    primary.execute("DELETE FROM notes", f"INSERT INTO notes SELECT generate_series(0, {ROWS - 1}) RETURNING id")


def main() -> None:
    """Prints what both runs saw; ends with 1 where a read was stale."""
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    stale = 0
    with (
        tempfile.TemporaryDirectory() as directory,
        throwaway_directory(for_data=True) as servers,
        embedded.valkey(servers) as redis_url,
        cluster("replica", schema=SCHEMA) as nodes,
    ):
        shared = partial(others_writes, redis_url=redis_url)
        runs = (("own writes", own_writes), ("others', in memory", others_writes), ("others', in Redis", shared))
        for name, run in runs:
            prepare(nodes[0])
            result = asyncio.run(run(nodes, Path(directory), reads))
            print(f"{name}: {result}")
            stale += result.stale
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
