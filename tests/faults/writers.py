"""Writers that send each write until it is answered, over gateways and a PostgreSQL that are killed meanwhile.

`python -m tests.faults.writers --writes 2000` prints what became of them, and fails where a write that was acknowledged is lost
or one is there twice. What may not happen without an Idempotency-Key is a loss; what may not happen with one is a copy, too.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import httpx
import msgspec
import psutil

from gateway.idempotency import make_tables
from tests.conftest import throwaway_directory
from tests.faults.machines import PATIENCE_SECONDS, Gateway, Server, gateway, postgres
from tests.serving import write_resources

SCHEMA = "CREATE TABLE entries (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)"
PATH = "/api/v1/entries"
SETTINGS = {"CACHE_TTL_SECONDS": "0", "DATABASE_POOL_MIN": "2", "LOG_LEVEL": "error"}


class Outcome(msgspec.Struct):
    """What became of one item: the ids that it was acknowledged with, and how often it was sent."""

    keyed: bool
    ids: set[int] = msgspec.field(default_factory=set)
    sent: int = 0


class Killed(msgspec.Struct):
    """What was done meanwhile."""

    gateways: int = 0
    backends: int = 0
    servers: int = 0


class Works:
    """A PostgreSQL and some gateways over it, each of which can be killed and comes up again."""

    def __init__(self, directory: Path, database: Server, resources: Path, size: int) -> None:
        self.database = database
        self.killed = Killed()
        self._directory = directory
        self._resources = resources
        self._stacks = [ExitStack() for _ in range(size)]
        self.gateways: list[Gateway] = [self._start(stack) for stack in self._stacks]

    def _start(self, stack: ExitStack) -> Gateway:
        return stack.enter_context(gateway(self._directory, self._resources, self.database.url, SETTINGS, wait=False))

    def wait_until_ready(self) -> None:
        """All of them."""
        for served in self.gateways:
            served.wait_until_ready()

    def kill_gateway(self, number: int) -> None:
        """By SIGKILL, whatever it is doing; another starts in its place, on a port of its own."""
        with suppress(psutil.NoSuchProcess):
            self.gateways[number].process.kill()
        self.killed.gateways += 1
        self._stacks[number].close()
        self.gateways[number] = self._start(self._stacks[number])

    async def kill_backends(self) -> None:
        """Every session of the gateways is ended by PostgreSQL, in the middle of a COMMIT or not."""
        connection = await asyncpg.connect(self.database.url)
        try:
            self.killed.backends += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()

    def kill_server(self) -> None:
        """By SIGQUIT: nothing is written down any more, and what was committed is found again in the log."""
        self.killed.servers += 1
        self.database.restart(signal.SIGQUIT)

    def close(self) -> None:
        """Ends the gateways."""
        for stack in self._stacks:
            stack.close()


@contextmanager
def works(size: int = 3) -> Iterator[Works]:
    """Ready to serve `entries`."""
    with throwaway_directory(for_data=True) as directory:
        resources = write_resources(directory / "resources", {"entries": ""})
        # Durable: what it answers is in the log for good. Those of other tests forget their last COMMITs when they are killed.
        database = postgres(directory / "data", durable=True)
        database.start()
        try:
            asyncio.run(_execute(database.url, SCHEMA))
            make_tables(database.url)
            made = Works(directory, database, resources, size)
            try:
                made.wait_until_ready()
                yield made
            finally:
                made.close()
        finally:
            database.stop()


async def _execute(url: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


def entries(over: Works) -> dict[str, list[int]]:
    """The ids that are stored, by item."""
    found: dict[str, list[int]] = {}
    for item, key in asyncio.run(_execute(over.database.url, "SELECT item, id FROM entries ORDER BY id")):
        found.setdefault(item, []).append(key)
    return found


async def write(over: Works, client: httpx.AsyncClient, item: str, outcome: Outcome, chance: random.Random) -> None:
    """Sends one write until it is acknowledged. One without a key is sent once, for a second would be a copy."""
    headers = {"idempotency-key": f'"{item}"'} if outcome.keyed else {}
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        port = chance.choice(over.gateways).port
        outcome.sent += 1
        with suppress(httpx.TransportError):
            answer = await client.post(f"http://127.0.0.1:{port}{PATH}", json={"item": item}, headers=headers)
            if answer.status_code == 201:
                outcome.ids.add(answer.json()["data"]["id"])
                return
            if answer.status_code not in (409, 503):
                raise AssertionError(answer.text)
        if not outcome.keyed:
            return
        await asyncio.sleep(chance.random() * 0.1)
    raise AssertionError(f"{item} was not acknowledged within {PATIENCE_SECONDS:g} s")


@asynccontextmanager
async def chaos(over: Works, chance: random.Random, with_server: bool) -> AsyncIterator[None]:
    """Kills something every now and then, until the block ends."""

    def kinds() -> Iterator[str]:
        yield from ("backends", "gateway")  # a short run is to see each
        while True:
            yield chance.choices(("gateway", "backends", "server"), (3, 6, 1 if with_server else 0))[0]

    async def kill() -> None:
        for number, kind in enumerate(kinds()):
            await asyncio.sleep(chance.random() * (0.05 if number < 2 else 0.6))
            with suppress(OSError, asyncpg.PostgresError):
                if kind == "gateway":
                    await asyncio.to_thread(over.kill_gateway, chance.randrange(len(over.gateways)))
                elif kind == "backends":
                    await over.kill_backends()
                else:
                    await asyncio.to_thread(over.kill_server)

    killing = asyncio.create_task(kill())
    try:
        yield
        killing.cancel()
    finally:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing


async def run(over: Works, writes: int, writers: int, seed: int, with_server: bool, seconds: float = 3600) -> dict[str, Outcome]:
    """The items that one of `writers` began with within `seconds`, each with what became of it; every fourth without a key."""
    end = time.monotonic() + seconds
    chance = random.Random(seed)
    outcomes = {f"item {number}": Outcome(keyed=number % 4 != 0) for number in range(writes)}
    waiting = iter(list(outcomes.items()))

    async def work(client: httpx.AsyncClient) -> None:
        for item, outcome in waiting:
            if time.monotonic() > end:
                return
            await write(over, client, item, outcome, chance)

    async with (
        httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as client,
        asyncio.TaskGroup() as group,
        chaos(over, chance, with_server),
    ):
        await asyncio.gather(*(group.create_task(work(client)) for _ in range(writers)))
    return {item: outcome for item, outcome in outcomes.items() if outcome.sent}


def wrong(outcomes: dict[str, Outcome], stored: dict[str, list[int]]) -> list[str]:
    """What was acknowledged and is lost, what is there twice, and what was answered in two ways."""
    found = []
    for item, outcome in outcomes.items():
        ids = stored.get(item, [])
        if not outcome.ids <= set(ids):
            found.append(f"{item}: acknowledged as {outcome.ids}, and there is {ids}")
        if len(ids) > 1 or (outcome.keyed and len(ids) != 1):
            found.append(f"{item}: sent {outcome.sent} times, stored as {ids}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes that are sent until they are answered, while everything is killed.")
    parser.add_argument("--writes", type=int, default=2000)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3600, help="then no other write is begun")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with works() as over:
        outcomes = asyncio.run(
            run(over, options.writes, options.writers, options.seed, with_server=True, seconds=options.seconds)
        )
        stored = entries(over)
    faults = wrong(outcomes, stored)
    acknowledged = sum(bool(outcome.ids) for outcome in outcomes.values())
    unknown = sum(not outcome.ids and item in stored for item, outcome in outcomes.items())
    killed = over.killed
    print(f"killed: {killed.gateways} gateways, {killed.backends} backends, {killed.servers} servers")
    print(f"{len(outcomes)} writes, sent {sum(outcome.sent for outcome in outcomes.values())} times, {acknowledged} acknowledged")
    print(f"without a key: {unknown} written that nobody was told of")
    print(f"lost, or there twice: {len(faults)}", *faults[:20], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
