"""A shop of one table over servers of its own, each behind a proxy; and what callers ask of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from tests.conftest import throwaway_directory
from tests.faults.load import Ask
from tests.faults.machines import Gateway, Server, gateway, postgres, valkey
from tests.faults.proxy import Proxy, proxying

SCHEMA = """
DROP TABLE IF EXISTS counters;
DROP VIEW IF EXISTS slow;
CREATE TABLE counters (id integer PRIMARY KEY, value integer NOT NULL DEFAULT 0, note text);
INSERT INTO counters (id) SELECT generate_series(1, 100);
CREATE VIEW slow AS SELECT 1 AS id, pg_sleep(3) IS NULL AS slept;
"""
RESOURCES = {"counters": "table: counters\n", "slow": "key: id\ncache: {ttl: 0}\ntimeout: 4\n"}


class Machines(msgspec.Struct, frozen=True):
    """Everything that a fault can be done to. `database` and `redis` are the ways to the servers."""

    directory: Path
    resources: Path
    postgres: Server
    valkey: Server
    database: Proxy
    redis: Proxy

    @property
    def database_url(self) -> str:
        """Through the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.database.port}/postgres"

    @property
    def redis_url(self) -> str:
        """Through the proxy."""
        return f"redis://127.0.0.1:{self.redis.port}"

    @contextmanager
    def gateway(self, **variables: str) -> Iterator[Gateway]:
        """A gateway over both, by way of the proxies."""
        settings = {"REDIS_URL": self.redis_url, **variables}
        with gateway(self.directory, self.resources, self.database_url, settings) as served:
            yield served

    def execute(self, script: str) -> None:
        """Statements without values, by a connection of its own that no fault touches."""

        async def run() -> None:
            connection = await asyncpg.connect(self.postgres.url)
            try:
                await connection.execute(script)
            finally:
                await connection.close()

        asyncio.run(run())

    def sql(self, *statements: str) -> list[Any]:
        """What each statement's first column is, by a connection of its own that no fault touches."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.postgres.url)
            try:
                return [await connection.fetchval(statement) for statement in statements]
            finally:
                await connection.close()

        return asyncio.run(run())


@contextmanager
def all_machines(durable: bool = False) -> Iterator[Machines]:
    """A PostgreSQL, a Valkey, and a proxy before each. A test that ends one of them starts it again."""
    with ExitStack() as stack:
        directory = stack.enter_context(throwaway_directory(for_data=True))
        database, store = postgres(directory, durable), valkey(directory)
        for server in (database, store):
            stack.callback(server.stop)
            server.start()
        resources = directory / "resources"
        resources.mkdir()
        for name, text in RESOURCES.items():
            (resources / f"{name}.yaml").write_text(text)
        ways = [stack.enter_context(proxying(server.socket)) for server in (database, store)]
        yield Machines(directory, resources, database, store, *ways)


def reads(seed: int = 1) -> Callable[[], Ask]:
    """Point reads of random rows that go to the database."""
    chance = random.Random(seed)
    return lambda: Ask("GET", f"/api/v1/counters/{chance.randint(1, 100)}", headers=(("Cache-Control", "no-cache"),))


def mixed(seed: int = 1) -> Callable[[], Ask]:
    """Eighty reads to fifteen lists and five writes, of random rows."""
    chance = random.Random(seed)

    def ask() -> Ask:
        row = chance.randint(1, 100)
        kind = chance.choices(("read", "list", "patch"), (80, 15, 5))[0]
        if kind == "patch":
            return Ask("PATCH", f"/api/v1/counters/{row}", b'{"note": "n%d"}' % chance.randint(1, 1000))
        if kind == "list":
            return Ask("GET", f"/api/v1/counters?id[gte]={row}&limit=10")
        return Ask("GET", f"/api/v1/counters/{row}")

    return ask


ROWS = 20


def cached_reads(seed: int = 1) -> Callable[[], Ask]:
    """Point reads of a few rows, from the cache where it has them."""
    chance = random.Random(seed)
    return lambda: Ask("GET", f"/api/v1/counters/{chance.randint(1, ROWS)}")


def growing_writes(seed: int = 1) -> Callable[[], Ask]:
    """Writes of the same rows, each with a greater value than the one before: for one caller."""
    chance, values = random.Random(seed), count(1)
    return lambda: Ask("PATCH", f"/api/v1/counters/{chance.randint(1, ROWS)}", b'{"value": %d}' % next(values))
