"""The keeper and its listener on a real PostgreSQL and a real Valkey: who holds the lock, who looks, and what triggers tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway import embedded
from gateway.cache.cache import Cache, Choice, make_cache
from gateway.cache.dependencies import read_dependencies
from gateway.cache.keeper import HOLD_SECONDS, Alone, Keeper
from gateway.cache.listener import Session, postgres_session
from gateway.cache.memory_store import MemoryStore
from gateway.cache.redis_store import RedisLink, RedisStore
from gateway.cache.store import Key
from gateway.errors import Unavailable

TABLES = ("public.things",)
A = Key("a", b"whole a")
NO_REDIS = "redis://127.0.0.1:1"
SHORT_HOLD_SECONDS = 0.2
"""Where no other process has a licence that the lock would have to outlast."""
PATIENT_SECONDS = 30.0
HERE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
LOCKS = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = {HERE}"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_SECONDS):
        while not true():
            await asyncio.sleep(0.01)


async def until_kept(cache: Cache, key: Key, table: str) -> None:
    async with asyncio.timeout(PATIENT_SECONDS):
        while (await cache.read(key, (table,), answer, 60)).outcome != "hit":
            await asyncio.sleep(0.01)


async def answer() -> bytes:
    return b"body"


@asynccontextmanager
async def cache_of(
    database_url: str, redis_url: str | None, kind: Any = "redis", ready_seconds: float = 0, hold_seconds: float = HOLD_SECONDS
) -> AsyncIterator[Cache]:
    """A cache as the composition root makes it."""
    cache = make_cache(
        Choice(kind, ""),
        database_url=database_url,
        redis_url=redis_url,
        name="the cache",
        dependencies=await read_dependencies(database_url),
    )
    cache._keeper.hold_seconds = hold_seconds  # type: ignore[attr-defined]  # where there is one it has it
    await cache.start(ready_seconds)
    try:
        yield cache
    finally:
        await cache.stop()


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


def test_a_process_trusts_the_store_once_it_has_looked(database_url: str, redis_url: str) -> None:
    async def run() -> None:
        async with cache_of(database_url, redis_url) as cache:
            assert (await cache.read(A, TABLES, answer, 60)).outcome == "bypass"
            await until(lambda: cache.is_trusted)
            assert cache.reason == ""
            assert (await cache.read(A, TABLES, answer, 60)).outcome == "miss"

    asyncio.run(run())


def test_start_waits_until_the_cache_can_be_trusted(database_url: str, redis_url: str) -> None:
    async def run() -> None:
        async with cache_of(database_url, redis_url, ready_seconds=PATIENT_SECONDS) as cache:
            assert cache.is_trusted

    asyncio.run(run())


def test_a_writer_without_redis_stops_the_others_until_it_is_gone(database_url: str, redis_url: str) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with cache_of(database_url, redis_url) as well, connected(database_url) as connection:
            await until(lambda: well.is_trusted)
            async with cache_of(database_url, NO_REDIS) as cut_off:
                await until(lambda: not cut_off.is_trusted)
                started = loop.time()
                async with cut_off.writing(TABLES):
                    pass
                assert loop.time() - started >= HOLD_SECONDS
                assert not well.is_trusted
                assert well.reason == "another process cannot reach Redis"
                assert (await well.read(A, TABLES, answer, 60)).outcome == "bypass"
                assert cut_off.reason == "Redis does not answer"
                assert await connection.fetchval(LOCKS) == 1
                async with cut_off.writing(TABLES):
                    pass
                assert (cut_off.invalidations, cut_off.settled) == (2, 2)
            await until(lambda: well.is_trusted)
            assert await connection.fetchval(LOCKS) == 0

    asyncio.run(run())


def test_what_was_kept_before_another_was_cut_off_is_gone_after(database_url: str, redis_url: str) -> None:
    async def run() -> None:
        async with cache_of(database_url, redis_url) as well:
            await until(lambda: well.is_trusted)
            await well.read(A, TABLES, answer, 60)
            async with cache_of(database_url, NO_REDIS) as cut_off, cut_off.writing(TABLES):
                pass
            await until(lambda: well.is_trusted)
            assert (await well.read(A, TABLES, answer, 60)).outcome == "miss"

    asyncio.run(run())


def test_a_writer_lets_the_lock_go_when_redis_is_back(database_url: str, server_directory: Path) -> None:
    async def run() -> None:
        with embedded.valkey(server_directory) as url:
            pass
        alone = cache_of(database_url, url, hold_seconds=SHORT_HOLD_SECONDS)
        async with alone as cache, connected(database_url) as connection:
            async with cache.writing(TABLES):
                pass
            assert await connection.fetchval(LOCKS) == 1
            server = embedded.valkey(server_directory)
            await asyncio.to_thread(server.__enter__)
            try:
                await until(lambda: cache.is_trusted)
                async with asyncio.timeout(PATIENT_SECONDS):
                    while await connection.fetchval(LOCKS):
                        await asyncio.sleep(0.01)
                settled = cache.settled
                async with cache.writing(TABLES):
                    pass
                assert cache.settled == settled
            finally:
                await asyncio.to_thread(server.__exit__, None, None, None)

    asyncio.run(run())


def test_a_lock_that_is_lost_is_taken_again_before_a_write_is_acknowledged(database_url: str) -> None:
    async def run() -> None:
        alone = cache_of(database_url, NO_REDIS, hold_seconds=SHORT_HOLD_SECONDS)
        async with alone as cache, connected(database_url) as connection:
            async with cache.writing(TABLES):
                pass
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'the cache'"
            await connection.execute(f"{ended} AND datname = current_database()")
            async with cache.writing(TABLES):
                pass
            assert await connection.fetchval(LOCKS) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "fault",
    [
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        TimeoutError(),
        ZeroDivisionError("unforeseen"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_session_that_ends_with_whatever_fault_is_followed_by_another(
    fault: Exception, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session but the last raises the fault at its second look, as one does whose backend is ended."""

    monkeypatch.setattr("gateway.cache.listener.RETRY_SECONDS", 0.01)

    async def run() -> None:
        real, sessions = postgres_session(database_url, "the cache"), 0

        class Failing:
            def __init__(self, session: Session, fails: bool) -> None:
                self._session, self._fails, self._looks = session, fails, 0
                self.hold, self.release, self.close = session.hold, session.release, session.close

            async def look(self) -> int:
                self._looks += 1
                if self._fails and self._looks > 1:
                    raise fault
                return await self._session.look()

        async def connect(heard: Callable[[str], None]) -> Session:
            nonlocal sessions
            sessions += 1
            return Failing(await real(heard), sessions < 3)

        store = RedisStore(RedisLink(NO_REDIS), "1")
        keeper = Keeper(store, connect, lambda _table: None, hold_seconds=SHORT_HOLD_SECONDS)
        keeper.start()
        try:
            async with asyncio.timeout(PATIENT_SECONDS):
                while sessions < 3:
                    keeper._listener.kick()
                    await asyncio.sleep(0.01)
            await keeper.settle()
        finally:
            await keeper.stop()

    asyncio.run(run())


def test_without_redis_and_without_postgresql_a_write_is_not_acknowledged(database_url: str) -> None:
    async def run() -> None:
        cache = make_cache(
            Choice("redis", ""),
            database_url=database_url.replace("host=", "host=/nowhere"),
            redis_url=NO_REDIS,
            name="the cache",
            dependencies=await read_dependencies(database_url),
        )
        cache._keeper._settle_seconds = 0.2  # type: ignore[attr-defined]  # of Redis, the keeper has it
        await cache.start(0)
        with pytest.raises(Unavailable, match="was made"):
            async with cache.writing(TABLES):
                pass
        await until(lambda: cache.reason != "")
        await cache.stop()

    asyncio.run(run())


TRIGGER = """
CREATE TABLE things (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY, thing_id int REFERENCES things ON DELETE CASCADE);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('gateway_cache', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON things FOR EACH STATEMENT EXECUTE FUNCTION tell();
"""


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_change_that_a_trigger_tells_of_kills_what_was_made_from_its_table(
    kind: str, database_url: str, redis_url: str
) -> None:
    async def run() -> None:
        async with connected(database_url) as connection:
            await connection.execute(TRIGGER)
            async with cache_of(database_url, redis_url, kind, PATIENT_SECONDS) as cache:
                await asyncio.sleep(0.05)  # it begins by throwing everything away
                parts, users = Key("parts", b"parts"), Key("users", b"users")
                for key, table in ((parts, "public.parts"), (users, "public.users")):
                    assert (await cache.read(key, (table,), answer, 60)).outcome == "miss"
                    await until_kept(cache, key, table)
                await connection.execute("INSERT INTO things VALUES (1)")
                async with asyncio.timeout(PATIENT_SECONDS):
                    while (await cache.read(parts, ("public.parts",), answer, 60)).outcome == "hit":
                        await asyncio.sleep(0.01)
                assert (await cache.read(users, ("public.users",), answer, 60)).outcome == "hit"

    asyncio.run(run())


def test_a_memory_that_could_not_listen_for_a_while_forgets_everything() -> None:
    async def run() -> None:
        async def nowhere(_heard: Callable[[str], None]) -> Any:
            raise OSError

        store = MemoryStore()
        alone = Alone(store, nowhere, lambda _table: None, look_seconds=5)
        cache = Cache(store, alone)
        alone.looked(100.0, 100.0, 0, False)
        await asyncio.sleep(0)
        await cache.read(A, TABLES, answer, 60)
        alone.looked(105.0, 105.1, 0, False)
        await asyncio.sleep(0)
        assert (await cache.read(A, TABLES, answer, 60)).outcome == "hit"
        alone.looked(130.0, 130.1, 0, False)
        await asyncio.sleep(0)
        assert (await cache.read(A, TABLES, answer, 60)).outcome == "miss"

    asyncio.run(run())
